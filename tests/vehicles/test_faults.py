"""Faults of vPIC: the answer to the client, the stored entries, and the recovery."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

import pytest

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.vehicles.store import VehicleStore
from tests.clock import LoopTime
from tests.conftest import Hurried, always
from tests.vehicles.conftest import (
    OTHER,
    VIN,
    Answer,
    Caller,
    Serve,
    Until,
    VpicRequests,
    on_sqlite,
    store_expired,
    vin,
    vins,
)

Outlasting = Callable[[str], AbstractAsyncContextManager[None]]

ATTEMPTS: Final = 2
FAULTS: Final = {
    "html": 1,
    "forbidden": 1,
    "xml": 1,
    "too_many_requests": ATTEMPTS,
    "server_error": ATTEMPTS,
    "unavailable": ATTEMPTS,
    "not_found": 1,
    "empty_list": 1,
    "other_vins": 1,
    "missing_field": 1,
    "wrong_type": 1,
    "hang": 1,
    "reset": ATTEMPTS,
    "truncated": ATTEMPTS,
    "gzip_bomb": 1,
    "redirect": 1,
    "huge_body": 1,
    "slow_drip": 1,
}
"""Number of requests for each fault: only transient failures are retried.

vPIC is slow at times, so a try that has timed out is not repeated.
"""


TRY_S = 10.0
ENDLESS = {"hang", "slow_drip"}
"""Faults that only the time-out of an attempt ends."""
SOON_AGAIN = {"open_s": 1e-9, "half_open_calls": 1}
"""A circuit that lets the next call try."""


@pytest.fixture
def outlasting(hurried: Hurried) -> Outlasting:
    """A factory of contexts in which each attempt at an endless fault times out."""

    def end_tries(fault: str) -> AbstractAsyncContextManager[None]:
        return hurried(TRY_S) if fault in ENDLESS else nullcontext()

    return end_tries


def few_tries(**more: Any) -> dict[str, Any]:
    """Return settings with few attempts."""
    few = {"attempts": ATTEMPTS, "max_body_bytes": 65_536}
    return {**few, "timeout_s": TRY_S, "deadline_s": 600.0, **more}


async def ask(one: Caller, asked_for: Sequence[str]) -> list[Any]:
    """Look up one VIN, or several together; return the result of each."""
    if len(asked_for) > 1:
        answer = await one.look_up_all(asked_for)
        assert answer.status == 200
        return list(answer.body["results"])
    answer = await one.look_up(asked_for[0])
    if answer.status == 200:
        return [answer.body]
    assert_unavailable(answer)
    return [{"vin": asked_for[0], "error": answer.body["code"]}]


def assert_unavailable(answer: Answer) -> None:
    """Fail unless the answer has Retry-After, and nothing of vPIC's error."""
    assert answer.problem == (503, "vehicle_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "upstream" not in str(answer.body)


# --- vPIC ---------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("count", [1, 3], ids=["single", "batch"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_fault_stores_nothing(
    serve: Serve,
    stored: VehicleStore,
    *,
    sandbox: RunningSandbox,
    received: VpicRequests,
    outlasting: Outlasting,
    fault: str,
    count: int,
) -> None:
    """The result is `vehicle_unavailable`, and after the fault a request succeeds."""
    sandbox.sandbox.faults = always(fault, retry_after="0")
    one = await serve(vehicles=few_tries(), breaker=SOON_AGAIN)

    async with outlasting(fault):
        told = await ask(one, vins(count))

    assert [(each["vin"], each["error"]) for each in told] == [
        (each, "vehicle_unavailable") for each in vins(count)
    ]
    assert received.calls == FAULTS[fault]
    assert {each.entry for each in (await stored.find(vins(count))).values()} == {None}
    sandbox.sandbox.faults = Faults()
    healed = await ask(one, vins(count))
    assert [each["cached_result"] for each in healed] == [False] * count


@on_sqlite
@pytest.mark.parametrize(
    "fault",
    [
        *("html", "forbidden", "server_error", "hang", "truncated", "empty_list"),
        *("other_vins", "missing_field", "wrong_type"),
    ],
)
async def test_fault_does_not_change_stored_entries(
    serve: Serve,
    stored: VehicleStore,
    *,
    sandbox: RunningSandbox,
    outlasting: Outlasting,
    fault: str,
) -> None:
    """An expired entry is returned, and is neither changed nor refreshed."""
    await store_expired(stored, *vins(2))
    before = await stored.find(vins(2))
    sandbox.sandbox.faults = always(fault, retry_after="0")
    one = await serve(vehicles=few_tries())

    async with outlasting(fault):
        told = await ask(one, vins(2)) + await ask(one, vins(1))

    assert [each["make"] for each in told] == [OTHER.make] * 3
    assert {each["cached_result"] for each in told} == {True}
    assert await stored.find(vins(2)) == before


@on_sqlite
@pytest.mark.parametrize(
    "fault, calls",
    [
        *((fault, 1) for fault in ("html", "forbidden", "xml")),
        *((fault, 2) for fault in ("server_error", "hang", "reset", "truncated")),
        ("too_many_requests", 2),
        *((fault, 3) for fault in ("not_found", "redirect", "empty_list")),
        *((fault, 3) for fault in ("wrong_type", "huge_body")),
    ],
)
async def test_which_faults_open_the_circuit(
    serve: Serve,
    sandbox: RunningSandbox,
    *,
    received: VpicRequests,
    outlasting: Outlasting,
    fault: str,
    calls: int,
) -> None:
    """A block opens the circuit at once, and failures after `minimum_calls`.

    Other invalid answers do not open it.
    """
    sandbox.sandbox.faults = always(fault, retry_after="0")
    breaker = {"minimum_calls": 2, "open_s": 3_000.0}
    one = await serve(vehicles=few_tries(attempts=1), breaker=breaker)
    async with outlasting(fault):
        for number in range(3):
            await one.look_up(vin(number))

    assert received.calls == calls


@on_sqlite
async def test_half_of_the_batches_fail(
    serve: Serve, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """The failure of one batch does not affect the others."""
    sandbox.sandbox.faults = always("empty_list", times=1)
    one = await serve()

    told = await ask(one, vins(150))

    errors = [each.get("error") for each in told]
    assert errors.count("vehicle_unavailable") == 50
    assert errors.count(None) == 100
    again = await ask(one, vins(150))
    assert not any("error" in each for each in again)
    assert received.batches == 4


@on_sqlite
async def test_cached_vehicles_do_not_wait_for_vpic(
    serve: Serve,
    stored: VehicleStore,
    *,
    sandbox: RunningSandbox,
    loop_time: LoopTime,
    until: Until,
) -> None:
    """Cached vehicles are returned at once, while another look-up hangs."""
    await store_expired(stored, vin(1), days=1)
    sandbox.sandbox.faults = always("hang")
    one = await serve(vehicles={"timeout_s": TRY_S})

    asking = asyncio.create_task(ask(one, [VIN]))
    await until(lambda: sandbox.sandbox.in_flight == 1)
    assert (await one.look_up(vin(1))).status == 200
    await loop_time.pass_s(TRY_S)
    (stuck,) = await asking
    assert stuck["error"] == "vehicle_unavailable"
