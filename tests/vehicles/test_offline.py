"""Decoding while vPIC is away: when, how it is marked, and that it is not kept."""

from collections.abc import Callable
from typing import Any, Final

import pytest
import ultravin
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.vehicles.offline import load_decoder, read_attributes
from service.vehicles.store import NOTHING, VehicleStore
from tests.conftest import always
from tests.running import said_without
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    UNKNOWN,
    VIN,
    Added,
    Asked,
    Caller,
    Serve,
    fields_of,
    keep_old,
    on_sqlite,
    vin,
)

DECODED: Final = {"vin": VIN, **fields_of(KNOWN[VIN]), "cached_result": False}
OFFLINE: Final = DECODED | {"source": "offline"}
WELL: Final = always("server_error", path="/nowhere")
AWAY: Final = always("server_error")


@pytest.fixture
async def caller(serve: Serve, sandbox: RunningSandbox) -> Caller:
    """Asks a service that decodes by itself while vPIC is away, which it is."""
    sandbox.sandbox.faults = AWAY
    return await serve(vehicles={"offline": True})


async def test_vpic_away(caller: Caller) -> None:
    """The vehicle is told all the same, marked, and as not from the cache."""
    answer = await caller.look_up(VIN)
    assert (answer.status, answer.body) == (200, OFFLINE)
    assert answer.headers["Cache-Status"] == "copilot-usage; fwd=miss"
    assert answer.headers["Age"] == "0"


async def test_vpic_well(caller: Caller, sandbox: RunningSandbox) -> None:
    """While vPIC answers, nothing is decoded here, and it has the last word."""
    sandbox.sandbox.faults = WELL
    sandbox.sandbox.set_vehicle(VIN, {"Model": "389"})
    answer = await caller.look_up(VIN)
    assert answer.body == DECODED | {"model": "389"}
    assert (await caller.look_up(UNKNOWN)).problem == (404, "vin_not_decoded")


async def test_it_is_not_kept(
    caller: Caller, kept: VehicleStore, sandbox: RunningSandbox, asked: Asked
) -> None:
    """vPIC is asked again each time, and as soon as it is back, its word is kept."""
    assert [(await caller.look_up(VIN)).body for _ in range(2)] == [OFFLINE] * 2
    assert (asked.calls, await kept.find([VIN])) == (2, {VIN: NOTHING})
    sandbox.sandbox.faults = WELL
    assert (await caller.look_up(VIN)).body == DECODED
    assert (await caller.look_up(VIN)).body == DECODED | {"cached_result": True}
    assert asked.calls == 3


async def test_the_circuit_open(
    serve: Serve, sandbox: RunningSandbox, asked: Asked
) -> None:
    """Where vPIC is left in peace it is not even asked."""
    sandbox.sandbox.faults = AWAY
    breaker = {"minimum_calls": 1, "open_s": 3_600}
    one = await serve(vehicles={"offline": True}, breaker=breaker)
    assert (await one.look_up(vin(1))).body["source"] == "offline"
    assert (await one.look_up(VIN)).body == OFFLINE
    assert asked.calls == 1


async def test_what_is_kept_goes_before(caller: Caller, kept: VehicleStore) -> None:
    """What vPIC has told once is told again, however old."""
    await keep_old(kept, VIN)
    answer = await caller.look_up(VIN)
    assert answer.body == {"vin": VIN, **fields_of(OTHER), "cached_result": True}
    assert answer.headers["Cache-Status"] == "copilot-usage; hit; detail=stale"


async def test_it_does_not_know_either(caller: Caller) -> None:
    """A VIN that is not decoded here may be by vPIC: it is unavailable, not unknown."""
    answer = await caller.look_up(UNKNOWN)
    assert answer.problem == (503, "vehicle_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


async def test_a_batch(caller: Caller, kept: VehicleStore, added: Added) -> None:
    """Each VIN of a batch is told as it would be alone."""
    await keep_old(kept, vin(1))
    answer = await caller.look_up_all([VIN, UNKNOWN, vin(1), "nonsense", VIN])
    first, unknown, stale, invalid, last = answer.body["results"]
    assert first == last == OFFLINE
    assert (unknown["vin"], unknown["error"]) == (UNKNOWN, "vehicle_unavailable")
    assert stale == {"vin": vin(1), **fields_of(OTHER), "cached_result": True}
    assert invalid["error"] == "invalid_vin"
    results = ("hit", "stale", "miss", "offline", "failed")
    counted = {result: added("lookups", result=result) for result in results}
    assert counted == {"hit": 0, "stale": 1, "miss": 0, "offline": 1, "failed": 1}


@on_sqlite
async def test_it_is_not_wanted(serve: Serve, sandbox: RunningSandbox) -> None:
    """Unless the setting says so, what vPIC does not tell is unavailable."""
    sandbox.sandbox.faults = AWAY
    one = await serve()
    assert (await one.look_up(VIN)).problem == (503, "vehicle_unavailable")


# --- the extra ----------------------------------------------------------------------


def test_the_extra_is_needed_only_where_it_is_wanted() -> None:
    """Without it the service works; asking for it names what is missing."""
    said = said_without("ultravin", vehicles={"offline": True})

    assert said == "vehicles.offline: needs copilot-usage[vin-offline] to be installed"


def panic(_: str) -> dict[str, Any]:
    """Fail as a decoder should not."""
    raise ValueError("no such table")


@pytest.mark.parametrize(
    "decode, reason",
    [
        pytest.param(panic, "ValueError('no such table')", id="it fails"),
        pytest.param(lambda _: {}, "KeyError('attributes')", id="no attributes"),
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
    """What stands in for vPIC makes nothing worse: unavailable, and a warning."""
    monkeypatch.setattr(ultravin, "decode", decode)
    sandbox.sandbox.faults = AWAY
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


@pytest.mark.parametrize("vin", KNOWN)
def test_the_known_vins(vin: Any) -> None:
    """It tells the same of them as vPIC does."""
    assert load_decoder()(vin) == KNOWN[vin]


def test_what_is_left_out_is_unknown() -> None:
    """It names only what it knows of; without a make there is no vehicle."""
    told = {"Make": "PETERBILT", "Model Year": "2014", "Note": ["a", "b"]}
    vehicle = read_attributes(told)
    assert vehicle is not None
    assert fields_of(vehicle) == {
        "make": "PETERBILT",
        "model": "",
        "model_year": "2014",
        "body_class": "",
    }
    assert read_attributes({"Model Year": "2014"}) is None
    assert read_attributes(told | {"Error Code": "1, 7"}) is None
