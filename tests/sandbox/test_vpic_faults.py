"""Every fault as vPIC's clients see it, for one VIN and for a batch."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from aiohttp import (
    ClientOSError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ServerDisconnectedError,
)

from service.sandbox.decoding import decode
from service.sandbox.faults import FAULTS
from service.sandbox.options import SWITCHES, Faults
from service.sandbox.server import RunningSandbox
from service.sandbox.vpic_faults import VPIC_FAULTS
from tests.conftest import always
from tests.sandbox.conftest import impatient
from tests.sandbox.test_vpic import BATCH, FIVE, MANY, PETERBILT, SINGLE

MIB: Final = 1024 * 1024
OWN: Final = [name for name in VPIC_FAULTS if name not in FAULTS]

Settle = Callable[[RunningSandbox], Awaitable[None]]
Ask = Callable[..., Awaitable[ClientResponse]]


def as_form(*vins: str) -> dict[str, str]:
    return {"format": "json", "data": ";".join(vins)}


@pytest.fixture(params=["single", "batch"])
def ask(request: pytest.FixtureRequest, session: ClientSession) -> Ask:
    """Asks about one VIN, by either call."""

    async def ask(**more: Any) -> ClientResponse:
        if request.param == "batch":
            return await session.post(BATCH, data=as_form(PETERBILT), **more)
        return await session.get(f"{SINGLE}{PETERBILT}?format=json", **more)

    return ask


async def rows_of(response: ClientResponse) -> Any:
    """The `Results` of a JSON answer."""
    assert (response.status, response.content_type) == (200, "application/json")
    return (await response.json())["Results"]


def test_each_switch_has_a_fault() -> None:
    """The probabilities of `Faults` and the faults of vPIC are the same, in order."""
    assert tuple(VPIC_FAULTS) == SWITCHES


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
    """A fault of status or type has it in both calls, which are counted."""
    running.sandbox.faults = always(fault)
    response = await ask()
    retry_after = response.headers.get("Retry-After")
    assert (response.status, retry_after, response.content_type) == expected
    assert running.sandbox.vins == {PETERBILT: 1}
    assert running.sandbox.calls.total() == 1


async def test_xml_holds_the_sound_rows(running: RunningSandbox, ask: Ask) -> None:
    """The answer is only written otherwise."""
    running.sandbox.faults = Faults(xml=1)
    text = await (await ask()).text()
    assert text.startswith("<Response>")
    assert f"<VIN>{PETERBILT}</VIN>" in text


async def test_reset_breaks_the_connection(running: RunningSandbox, ask: Ask) -> None:
    """No byte of an answer comes; the VIN counts as asked for."""
    running.sandbox.faults = Faults(reset=1)
    with pytest.raises((ClientOSError, ServerDisconnectedError)):
        await ask()
    assert running.sandbox.vins[PETERBILT] > 0


@pytest.mark.parametrize("fault", ["hang", "slow_drip"])
async def test_what_never_ends_ends_with_its_client(
    running: RunningSandbox, ask: Ask, settle: Settle, fault: str
) -> None:
    """A client that waits in vain leaves nothing in flight."""
    running.sandbox.faults = always(fault, path="/api")
    with pytest.raises(TimeoutError):
        async with impatient(running):
            await (await ask()).read()
    await settle(running)
    assert running.sandbox.vins == {PETERBILT: 1}


async def test_truncated_promises_more_than_it_sends(
    running: RunningSandbox, ask: Ask
) -> None:
    """Half of the body comes, then the end."""
    running.sandbox.faults = Faults(truncated=1)
    response = await ask()
    assert response.content_type == "application/json"
    with pytest.raises(ClientPayloadError):
        await response.read()


@pytest.mark.parametrize("fault", ["gzip_bomb", "huge_body"])
async def test_bodies_without_bound(
    running: RunningSandbox, ask: Ask, settle: Settle, fault: str
) -> None:
    """Many MiB can be read where a few rows should be, until the client leaves."""
    running.sandbox.faults = always(fault, path="/api")
    response = await ask()
    assert len(await response.content.readexactly(8 * MIB)) == 8 * MIB
    response.close()
    await settle(running)


@pytest.mark.parametrize("method, status", [("GET", 302), ("POST", 307)])
async def test_redirect_leads_to_the_sound_answer(
    running: RunningSandbox, session: ClientSession, method: str, status: int
) -> None:
    """Who follows it asks the same again, query and form included, and is answered."""
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


async def test_missing_field_takes_make_and_error_code(
    running: RunningSandbox, ask: Ask
) -> None:
    """Every row is without those two fields, and otherwise sound."""
    running.sandbox.faults = Faults(missing_field=1)
    (row,) = await rows_of(await ask())
    assert decode(PETERBILT).items() - row.items() == {
        ("Make", "PETERBILT"),
        ("ErrorCode", "0"),
    }


async def test_wrong_type_of_one_vin_is_a_number(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The model year is a number where a string should be."""
    running.sandbox.faults = Faults(wrong_type=1)
    async with session.get(f"{SINGLE}{PETERBILT}?format=json") as response:
        assert await rows_of(response) == [decode(PETERBILT) | {"ModelYear": 2014}]


async def test_wrong_type_of_a_batch_is_an_object(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The rows are an object where a list should be."""
    running.sandbox.faults = Faults(wrong_type=1)
    async with session.post(BATCH, data=as_form(*FIVE)) as response:
        assert await rows_of(response) == {vin: decode(vin) for vin in FIVE}


async def test_empty_list_has_no_row(running: RunningSandbox, ask: Ask) -> None:
    """All is well with the answer but that it tells nothing."""
    running.sandbox.faults = Faults(empty_list=1)
    assert await rows_of(await ask()) == []


async def test_other_vins_are_none_that_were_asked(
    running: RunningSandbox, session: ClientSession
) -> None:
    """There are as many rows as should be, each of a VIN that nobody asked for."""
    running.sandbox.faults = Faults(other_vins=1)
    async with session.post(BATCH, data=as_form(*FIVE)) as response:
        rows = await rows_of(response)
    assert len({row["VIN"] for row in rows} - set(FIVE)) == len(FIVE)
    assert {row["Make"] for row in rows} == {"PETERBILT", "KENWORTH", "VOLVO TRUCK"}


@pytest.mark.parametrize(
    "asked, left", [(1, 0), (2, 1), (3, 1), (50, 25), (60, 25)], ids=str
)
async def test_missing_rows_are_half_of_them(
    running: RunningSandbox, session: ClientSession, asked: int, left: int
) -> None:
    """At least one row is missing; those that come are of VINs that were asked for."""
    running.sandbox.faults = Faults(missing_rows=1)
    async with session.post(BATCH, data=as_form(*MANY[:asked])) as response:
        rows = await rows_of(response)
    found = {row["VIN"] for row in rows}
    assert len(rows) == len(found) == left
    assert found <= set(MANY[:asked])


async def test_of_a_single_vin_the_row_is_missing(
    running: RunningSandbox, ask: Ask
) -> None:
    """Half of one row, rounded down, is none."""
    running.sandbox.faults = Faults(missing_rows=1)
    assert await rows_of(await ask()) == []


@pytest.mark.parametrize("fault", ["wrong_type", "empty_list", "xml"])
@pytest.mark.parametrize(
    "path, expected",
    [
        (f"{SINGLE}{PETERBILT}", (200, "application/xml")),
        ("/api/vehicles/nothing", (404, "application/json")),
    ],
    ids=["xml", "refusal"],
)
async def test_what_has_no_json_rows_is_not_spoilt(
    running: RunningSandbox,
    session: ClientSession,
    fault: str,
    path: str,
    expected: tuple[int, str],
) -> None:
    """XML that was asked for, and a refusal, are sent as they would have been."""
    async with session.get(path) as response:
        sound = await response.read()
    running.sandbox.faults = always(fault)
    async with session.get(path) as response:
        assert (response.status, response.content_type) == expected
        assert await response.read() == sound


@pytest.mark.parametrize("fault", OWN)
async def test_the_own_faults_leave_copilot_alone(
    running: RunningSandbox, session: ClientSession, fault: str
) -> None:
    """They strike only vPIC, and the others' calls do not use up their `times`."""
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
async def test_path_chooses_the_call(
    running: RunningSandbox, session: ClientSession, path: str, statuses: list[int]
) -> None:
    """Either call of vPIC, or both, can be faulted."""
    running.sandbox.faults = Faults(unavailable=1, path=path)
    one = await session.get(f"{SINGLE}{PETERBILT}?format=json")
    batch = await session.post(BATCH, data=as_form(PETERBILT))
    assert [one.status, batch.status] == statuses
    async with session.get("/messages/current-period") as response:
        assert response.status == 200
