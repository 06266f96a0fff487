"""Log entries and metrics of look-ups and removals."""

from typing import Final

import pytest
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.vehicles.store import VehicleStore
from tests.conftest import always
from tests.vehicles.conftest import (
    UNKNOWN,
    VIN,
    Added,
    Serve,
    on_sqlite,
    store_expired,
    vin,
    vins,
)

DEADLINE_S: Final = 10.0


def vehicle_entries(entries: list[EventDict]) -> list[EventDict]:
    """Return the log entries of vehicles, without the request's context."""
    own = [each for each in entries if each["event"].startswith("vehicle.")]
    return [
        {name: told for name, told in each.items() if name != "request_id"}
        for each in own
    ]


@on_sqlite
async def test_results_of_vpic_are_logged(
    serve: Serve, log_entries: list[EventDict]
) -> None:
    """One entry for each VIN that it decoded, or knows nothing of; hits have none."""
    one = await serve()
    for _ in range(2):
        await one.look_up(VIN)
        await one.look_up(UNKNOWN)

    assert vehicle_entries(log_entries) == [
        {"event": "vehicle.decoded", "log_level": "info", "vin": VIN},
        {"event": "vehicle.not_decoded", "log_level": "info", "vin": UNKNOWN},
    ]


@on_sqlite
@pytest.mark.parametrize("was_kept", [True, False])
async def test_a_removal_is_logged(
    serve: Serve,
    stored: VehicleStore,
    log_entries: list[EventDict],
    added: Added,
    *,
    was_kept: bool,
) -> None:
    """It is counted too, with whether there was anything to remove."""
    if was_kept:
        await store_expired(stored, VIN)
    await (await serve()).remove(VIN)

    assert vehicle_entries(log_entries) == [
        {
            "event": "vehicle.removed",
            "log_level": "info",
            "vin": VIN,
            "was_kept": was_kept,
        }
    ]
    assert added("removed", was_kept=str(was_kept).lower()) == 1
    assert added("removed", was_kept=str(not was_kept).lower()) == 0


@on_sqlite
@pytest.mark.parametrize(
    "fault, count, failed, reason",
    [
        ("server_error", 1, 1, "500"),
        ("forbidden", 3, 3, "403"),
        ("html", 3, 3, "WrongMediaType"),
        ("reset", 1, 1, "ConnectionDropped"),
        ("empty_list", 3, 3, "ContractBroken"),
        ("missing_rows", 4, 2, "ContractBroken"),
    ],
)
async def test_a_failure_is_logged(
    serve: Serve,
    sandbox: RunningSandbox,
    *,
    log_entries: list[EventDict],
    fault: str,
    count: int,
    failed: int,
    reason: str,
) -> None:
    """One entry for each call that gave nothing: of how many VINs, and why."""
    sandbox.sandbox.faults = always(fault)
    await (await serve()).look_up_all(vins(count))

    told = vehicle_entries(log_entries)
    assert [each for each in told if each["event"] != "vehicle.decoded"] == [
        {
            "event": "vehicle.failed",
            "log_level": "warning",
            "vins": failed,
            "error.type": reason,
        }
    ]


@on_sqlite
async def test_the_line_of_a_request(
    serve: Serve,
    stored: VehicleStore,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
) -> None:
    """It says where the answer came from, as those of usage do."""
    await store_expired(stored, vin(1))
    one = await serve()
    for _ in range(2):
        await one.look_up(VIN)
    sandbox.sandbox.faults = always("server_error")
    await one.look_up(vin(1))
    await one.look_up(vin(2))

    lines = [each for each in log_entries if each["event"] == "http.request"]
    assert [each["cache"] for each in lines] == ["miss", "hit", "stale", None]
    assert {each["http.route"] for each in lines} == {"/vehicles/lookup"}


@on_sqlite
async def test_each_result_is_counted(
    serve: Serve, stored: VehicleStore, sandbox: RunningSandbox, added: Added
) -> None:
    """Every VIN once, by where its answer came from, unknown ones too."""
    await store_expired(stored, vin(1), vin(2))
    one = await serve()
    for _ in range(2):
        await one.look_up(VIN)
    await one.look_up_all([UNKNOWN, vin(3), VIN, VIN, "nonsense"])
    sandbox.sandbox.faults = always("server_error")
    await one.look_up_all([vin(1), vin(2), vin(4)])
    await one.look_up(vin(5))

    expected = {("hit", "none"): 2, ("stale", "vpic"): 2, ("miss", "none"): 3}
    expected |= {("offline", "vpic"): 0, ("failed", "vpic"): 2}
    assert expected == {
        (result, reason): added("lookups", result=result, reason=reason)
        for result, reason in expected
    }
