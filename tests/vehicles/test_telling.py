"""What look-ups and removals tell: their entries in the log, whole, and metrics."""

from contextlib import nullcontext
from typing import Final

import pytest
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.vehicles.store import VehicleStore
from tests.conftest import Hurried, always
from tests.vehicles.conftest import (
    UNKNOWN,
    VIN,
    Added,
    Serve,
    keep_old,
    on_sqlite,
    vin,
    vins,
)

DEADLINE_S: Final = 10.0


def vehicle_entries(entries: list[EventDict]) -> list[EventDict]:
    """What was logged of vehicles, without the request's context."""
    own = [each for each in entries if each["event"].startswith("vehicle.")]
    return [
        {name: told for name, told in each.items() if name != "request_id"}
        for each in own
    ]


@on_sqlite
async def test_what_vpic_told_is_logged(
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
    serve: Serve, kept: VehicleStore, log_entries: list[EventDict], *, was_kept: bool
) -> None:
    """With whether there was anything to remove."""
    if was_kept:
        await keep_old(kept, VIN)
    await (await serve()).remove(VIN)

    assert vehicle_entries(log_entries) == [
        {
            "event": "vehicle.removed",
            "log_level": "info",
            "vin": VIN,
            "was_kept": was_kept,
        }
    ]


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
        ("hang", 3, 3, "TimeoutError"),
    ],
)
async def test_a_failure_is_logged(
    serve: Serve,
    sandbox: RunningSandbox,
    *,
    log_entries: list[EventDict],
    hurried: Hurried,
    fault: str,
    count: int,
    failed: int,
    reason: str,
) -> None:
    """One entry for each call that gave nothing: of how many VINs, and why."""
    sandbox.sandbox.faults = always(fault)
    one = await serve(vehicles={"deadline_s": DEADLINE_S})
    async with hurried(DEADLINE_S) if fault == "hang" else nullcontext():
        await one.look_up_all(vins(count))

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
    kept: VehicleStore,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
) -> None:
    """It says where the answer came from, as those of usage do."""
    await keep_old(kept, vin(1))
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
    serve: Serve, kept: VehicleStore, sandbox: RunningSandbox, added: Added
) -> None:
    """Every VIN once, by where its answer came from, unknown ones too."""
    await keep_old(kept, vin(1), vin(2))
    one = await serve()
    for _ in range(2):
        await one.look_up(VIN)
    await one.look_up_all([UNKNOWN, vin(3), VIN, VIN, "nonsense"])
    sandbox.sandbox.faults = always("server_error")
    await one.look_up_all([vin(1), vin(2), vin(4)])
    await one.look_up(vin(5))

    results = ("hit", "stale", "miss", "offline", "failed")
    counted = {result: added("lookups", result=result) for result in results}
    assert counted == {"hit": 2, "stale": 2, "miss": 3, "offline": 0, "failed": 2}


@on_sqlite
async def test_removals_are_counted(serve: Serve, added: Added) -> None:
    """By whether there was anything to remove."""
    one = await serve()
    await one.look_up(VIN)
    for _ in range(3):
        await one.remove(VIN)

    assert added("removed", was_kept="true") == 1
    assert added("removed", was_kept="false") == 2


@on_sqlite
async def test_tries_are_counted_by_template(
    serve: Serve, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """A VIN is in the path that is logged, and not in what metrics call it."""
    one = await serve()
    await one.look_up(VIN)
    async with one.client.get("/metrics") as answer:
        told = await answer.text()

    assert 'url_template="/vehicles/DecodeVinValues/{vin}"' in told
    assert VIN not in told
    (line,) = [each for each in log_entries if each["event"] == "upstream.request"]
    assert line["url.path"] == f"/api/vehicles/DecodeVinValues/{VIN}"
