"""Offline decoding while vPIC is unavailable; its results are marked and not stored."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
import ultravin
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.vehicles.store import NOT_STORED, VehicleStore
from tests.conftest import always
from tests.patience import GIVE_UP_S
from tests.running import said_without
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    UNKNOWN,
    VIN,
    Added,
    Caller,
    Serve,
    VpicBarrier,
    VpicRequests,
    fields_of,
    on_sqlite,
    store_expired,
    vin,
)

DECODED: Final = {"vin": VIN, **fields_of(KNOWN[VIN]), "cached_result": False}
OFFLINE: Final = DECODED | {"source": "offline"}
AVAILABLE: Final = always("server_error", path="/nowhere")
UNAVAILABLE: Final = always("server_error")


@pytest.fixture
async def caller(serve: Serve, sandbox: RunningSandbox) -> Caller:
    """A client of a service with offline decoding, while vPIC is unavailable."""
    sandbox.sandbox.faults = UNAVAILABLE
    return await serve(vehicles={"offline": True})


async def test_vpic_unavailable(caller: Caller) -> None:
    """The vehicle is returned, marked as offline and not cached."""
    answer = await caller.look_up(VIN)
    assert (answer.status, answer.body) == (200, OFFLINE)
    assert answer.headers["Cache-Status"] == "copilot-usage; fwd=miss"
    assert answer.headers["Age"] == "0"


async def test_vpic_available(caller: Caller, sandbox: RunningSandbox) -> None:
    """While vPIC answers, its results are returned instead of offline ones."""
    sandbox.sandbox.faults = AVAILABLE
    sandbox.sandbox.set_vehicle(VIN, {"Model": "389"})
    answer = await caller.look_up(VIN)
    assert answer.body == DECODED | {"model": "389"}
    assert (await caller.look_up(UNKNOWN)).problem == (404, "vin_not_decoded")


async def test_offline_result_is_not_stored(
    caller: Caller,
    stored: VehicleStore,
    sandbox: RunningSandbox,
    received: VpicRequests,
) -> None:
    """Each look-up requests vPIC again, and stores its result once it answers."""
    assert [(await caller.look_up(VIN)).body for _ in range(2)] == [OFFLINE] * 2
    assert (received.calls, await stored.find([VIN])) == (2, {VIN: NOT_STORED})
    sandbox.sandbox.faults = AVAILABLE
    assert (await caller.look_up(VIN)).body == DECODED
    assert (await caller.look_up(VIN)).body == DECODED | {"cached_result": True}
    assert received.calls == 3


async def test_open_circuit(
    serve: Serve, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """While the circuit is open, vPIC gets no request."""
    sandbox.sandbox.faults = UNAVAILABLE
    breaker = {"minimum_calls": 1, "open_s": 3_600}
    one = await serve(vehicles={"offline": True}, breaker=breaker)
    assert (await one.look_up(vin(1))).body["source"] == "offline"
    assert (await one.look_up(VIN)).body == OFFLINE
    assert received.calls == 1


async def test_a_batch(caller: Caller, stored: VehicleStore, added: Added) -> None:
    """Each VIN of a batch has the same result as in a look-up of its own."""
    await store_expired(stored, vin(1))
    answer = await caller.look_up_all([VIN, UNKNOWN, vin(1), "nonsense", VIN])
    first, unknown, stale, invalid, last = answer.body["results"]
    assert first == last == OFFLINE
    assert (unknown["vin"], unknown["error"]) == (UNKNOWN, "vehicle_unavailable")
    assert stale == {"vin": vin(1), **fields_of(OTHER), "cached_result": True}
    assert invalid["error"] == "invalid_vin"
    expected = {("hit", "none"): 0, ("stale", "vpic"): 1, ("miss", "none"): 0}
    expected |= {("offline", "vpic"): 1, ("failed", "vpic"): 1}
    assert expected == {
        (result, reason): added("lookups", result=result, reason=reason)
        for result, reason in expected
    }


# --- a slow vPIC --------------------------------------------------------------------


@on_sqlite
async def test_slow_vpic(
    serve: Serve,
    stored: VehicleStore,
    *,
    barrier: VpicBarrier,
    received: VpicRequests,
    added: Added,
) -> None:
    """After `stale_wait_s` the answer is offline; vPIC's is stored when it comes."""
    one = await serve(vehicles={"offline": True, "stale_wait_s": 0.01})
    barrier.close()
    early = [await one.look_up(VIN) for _ in range(3)]
    assert {each.status for each in early} == {200}
    assert [each.body for each in early] == [OFFLINE] * 3
    assert added("lookups", result="offline", reason="vpic") == 3
    barrier.open()

    async with asyncio.timeout(GIVE_UP_S):
        while (await one.look_up(VIN)).body != DECODED | {"cached_result": True}:
            pass
    assert (await stored.find([VIN]))[VIN].entry is not None
    assert received.calls == 1


@on_sqlite
async def test_slow_vpic_knows_more(
    serve: Serve, stored: VehicleStore, barrier: VpicBarrier
) -> None:
    """A VIN that the copy does not know waits for vPIC, and others wait with it."""
    await store_expired(stored, vin(1))
    one = await serve(vehicles={"offline": True, "stale_wait_s": 0.0})
    barrier.close()
    asking = asyncio.create_task(one.look_up_all([VIN, UNKNOWN, vin(1)]))
    alone = await one.look_up(VIN)
    assert alone.body == OFFLINE
    assert not asking.done()
    barrier.open()

    offline, unknown, stale = (await asking).body["results"]

    assert (offline["make"], stale["make"]) == ("PETERBILT", "PETERBILT")
    assert unknown["error"] == "vin_not_decoded"


@on_sqlite
async def test_a_client_that_got_an_offline_answer_wants_vpic_too(
    serve: Serve, barrier: VpicBarrier, received: VpicRequests, stored: VehicleStore
) -> None:
    """A look-up that still waits for the rate limit is not dropped."""
    pace = {"requests_per_s": 2.0, "concurrency": 1}
    one = await serve(vehicles={"offline": True, "stale_wait_s": 0.0, **pace})
    barrier.close()
    for each in (VIN, vin(1)):
        assert (await one.look_up(each)).body["source"] == "offline"
    barrier.open()

    async with asyncio.timeout(GIVE_UP_S):
        while (await stored.find([vin(1)]))[vin(1)].entry is None:
            pass
    assert received.vins == {VIN: 1, vin(1): 1}


# --- the extra ----------------------------------------------------------------------


def test_extra_is_needed_only_for_offline_decoding() -> None:
    """Only the setting `offline` needs the extra, and the error names it."""
    said = said_without("ultravin", vehicles={"offline": True})

    assert said == "vehicles.offline: needs copilot-usage[vin-offline] to be installed"


def panic(_: str) -> dict[str, Any]:
    """Raise an unexpected error."""
    raise ValueError("no such table")


@pytest.mark.parametrize(
    "decode, reason",
    [
        pytest.param(panic, "ValueError('no such table')", id="it fails"),
        pytest.param(
            lambda _: {"attributes": {"Make": ["VOLVO", "MACK"]}},
            "ValidationError('Expected `str | null`, got `array` - at `$.Make`')",
            id="many makes",
        ),
    ],
)
@on_sqlite
async def test_a_decoder_that_fails(
    decode: Callable[[str], dict[str, Any]],
    reason: str,
    serve: Serve,
    *,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failure of the local decoder means unavailable, and a warning."""
    monkeypatch.setattr(ultravin, "decode", decode)
    sandbox.sandbox.faults = UNAVAILABLE
    one = await serve(vehicles={"offline": True})
    assert (await one.look_up(VIN)).problem == (503, "vehicle_unavailable")
    (entry,) = [
        each for each in log_entries if each["event"] == "vehicle.offline_failed"
    ]
    assert (entry["log_level"], entry["vin"], entry["reason"]) == (
        "warning",
        VIN,
        reason,
    )
