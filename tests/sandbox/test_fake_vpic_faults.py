"""Faults of the fake vPIC over HTTP, for a single VIN and a batch."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from aiohttp import (
    ClientResponse,
    ClientSession,
)

from service.sandbox.fake_vpic_faults import VPIC_FAULTS
from service.sandbox.faults import FAULTS
from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.sandbox.vin_decoding import decode
from tests.conftest import always
from tests.sandbox.test_fake_vpic import BATCH, FIVE, PETERBILT, SINGLE

MIB: Final = 1024 * 1024
OWN: Final = [name for name in VPIC_FAULTS if name not in FAULTS]

UntilIdle = Callable[[RunningSandbox], Awaitable[None]]
Ask = Callable[..., Awaitable[ClientResponse]]


def as_form(*vins: str) -> dict[str, str]:
    return {"format": "json", "data": ";".join(vins)}


@pytest.fixture(params=["single", "batch"])
def ask(request: pytest.FixtureRequest, session: ClientSession) -> Ask:
    """A function that requests one VIN, by either call."""

    async def ask(**more: Any) -> ClientResponse:
        if request.param == "batch":
            return await session.post(BATCH, data=as_form(PETERBILT), **more)
        return await session.get(f"{SINGLE}{PETERBILT}?format=json", **more)

    return ask


async def rows_of(response: ClientResponse) -> Any:
    """Return the `Results` of a JSON answer."""
    assert (response.status, response.content_type) == (200, "application/json")
    return (await response.json())["Results"]


@pytest.mark.parametrize(
    "fault, expected",
    [
        ("not_found", (404, None, "application/json")),
        ("too_many_requests", (429, "1", "application/json")),
        ("server_error", (500, None, "application/json")),
        ("unavailable", (503, "1", "application/json")),
        ("html", (200, None, "text/html")),
        ("forbidden", (403, None, "text/html")),
        ("xml", (200, None, "application/xml")),
    ],
)
async def test_statuses_and_types(
    running: RunningSandbox, ask: Ask, fault: str, expected: tuple[int, str, str]
) -> None:
    """Both calls have the status and type of the fault, and are counted."""
    running.sandbox.faults = always(fault)
    response = await ask()
    retry_after = response.headers.get("Retry-After")
    assert (response.status, retry_after, response.content_type) == expected
    assert running.sandbox.vins == {PETERBILT: 1}
    assert running.sandbox.calls.total() == 1


@pytest.mark.parametrize("method, status", [("GET", 302), ("POST", 307)])
async def test_a_redirect_leads_to_the_correct_answer(
    running: RunningSandbox, session: ClientSession, method: str, status: int
) -> None:
    """A client that follows it repeats query and form, and gets the answer."""
    running.sandbox.faults = Faults(redirect=1)
    is_batch = method == "POST"
    path = BATCH if is_batch else f"{SINGLE}{PETERBILT}?format=json"
    data = as_form(PETERBILT) if is_batch else None
    async with session.request(
        method, path, data=data, allow_redirects=False
    ) as response:
        assert response.status == status
        assert response.headers["Location"] == f"/elsewhere{path}"
    async with session.request(method, path, data=data) as response:
        assert await rows_of(response) == [decode(PETERBILT)]


async def test_wrong_type_of_a_batch_is_an_object(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The rows are an object instead of a list."""
    running.sandbox.faults = Faults(wrong_type=1)
    async with session.post(BATCH, data=as_form(*FIVE)) as response:
        assert await rows_of(response) == {vin: decode(vin) for vin in FIVE}


@pytest.mark.parametrize("fault", OWN)
async def test_faults_of_vpic_do_not_affect_copilot(
    running: RunningSandbox, session: ClientSession, fault: str
) -> None:
    """Only calls of vPIC get such a fault, and count for `times`."""
    running.sandbox.faults = always(fault, times=1)
    async with session.get("/messages/current-period") as response:
        assert len((await response.json())["messages"]) == 110
    data = as_form(*FIVE)
    async with session.post(BATCH, data=data) as response:
        faulted = await response.read()
    async with session.post(BATCH, data=data) as response:
        assert len(await rows_of(response)) == 5
        assert await response.read() != faulted


@pytest.mark.parametrize(
    "path, statuses",
    [("/api", [503, 503]), (SINGLE, [503, 200]), (BATCH, [200, 503])],
)
async def test_path_selects_the_call(
    running: RunningSandbox, session: ClientSession, path: str, statuses: list[int]
) -> None:
    """Either call of vPIC, or both, can get a fault."""
    running.sandbox.faults = Faults(unavailable=1, path=path)
    one = await session.get(f"{SINGLE}{PETERBILT}?format=json")
    batch = await session.post(BATCH, data=as_form(PETERBILT))
    assert [one.status, batch.status] == statuses
    async with session.get("/messages/current-period") as response:
        assert response.status == 200
