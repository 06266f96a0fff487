"""Removals by anonymous clients delay neither events nor the removals of others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import pytest
from sqlalchemy import func, select
from structlog.typing import EventDict

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.storage.database import Database
from service.vehicles import removals
from service.vehicles.model import VehicleSource, Vin
from service.vehicles.store import VehicleStore
from service.vehicles.tables import vehicles as table
from tests.isolation import vehicles
from tests.isolation.vehicles import OTHER, ServeVehicles, running
from tests.metric_samples import growth
from tests.patience import GIVE_UP_S
from tests.vehicles.conftest import VIN, on_sqlite, store_expired, vin, vins

serve = vehicles.serve

Until = Callable[[Callable[[], bool]], Awaitable[None]]

LANE = "vehicle_removals"
REFUSED = "copilot_usage_lane_refused_total"
CONNECTIONS = 300
SANDBOX = {"enabled": True, "messages": 0, "reports": 0}


class Transactions:
    """The VINs of each transaction; a test can hold the next ones."""

    def __init__(self) -> None:
        self.groups: list[set[Vin]] = []
        self.is_released = asyncio.Event()
        self.is_released.set()


@pytest.fixture
async def transactions(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transactions]:
    """Observe the transactions of all services."""
    seen, remove = Transactions(), VehicleStore.remove

    async def observed(store: VehicleStore, vins: Collection[Vin]) -> set[Vin]:
        seen.groups.append(set(vins))
        await seen.is_released.wait()
        return await remove(store, vins)

    monkeypatch.setattr(VehicleStore, "remove", observed)
    yield seen
    seen.is_released.set()


@pytest.fixture
async def stored(sandbox: RunningSandbox, database: Database) -> VehicleStore:
    """The database of the service."""
    return VehicleStore(database, VehicleSource(sandbox.url + VPIC_PATH))


async def rows(database: Database) -> int:
    """Return the number of rows, including those of removed VINs."""
    async with database.reading() as connection:
        statement = select(func.count()).select_from(table)
        return int(await connection.scalar(statement) or 0)


async def test_removals_share_transactions_and_add_no_rows(
    serve: ServeVehicles, database: Database, transactions: Transactions
) -> None:
    """Concurrent removals of invented VINs take few transactions, without a row."""
    async with serve() as service:
        invented = vins(2 * removals.MAX_GROUP)
        answers = await asyncio.gather(*(service.remove(each) for each in invented))

    assert {each.status for each in answers} == {200}
    assert not any(each.body["cache_delete_success"] for each in answers)
    assert max(map(len, transactions.groups)) <= removals.MAX_GROUP
    assert len(transactions.groups) < 10
    assert await rows(database) == 0


async def test_removals_of_a_group_have_their_own_results(
    serve: ServeVehicles, stored: VehicleStore, transactions: Transactions
) -> None:
    """Each stored VIN is removed once, whoever else is in the transaction."""
    known = vins(20)[::2]
    await store_expired(stored, *known, days=1)
    async with serve() as service:
        asked = [*vins(20), *vins(20)]
        answers = await asyncio.gather(*(service.remove(each) for each in asked))

    removed = [
        each.body["vin"] for each in answers if each.body["cache_delete_success"]
    ]
    assert sorted(removed) == sorted(known)
    entries = (await stored.find(known)).values()
    assert {each.entry for each in entries} == {None}


@on_sqlite
async def test_events_are_stored_during_a_flood_of_removals(
    serve: ServeVehicles, sandbox: RunningSandbox
) -> None:
    """No event is refused; of the removals too many are, with their own code."""
    few = {"max_removals": 20}
    async with serve(
        vehicles=few, limits={"max_queue": 5}, events={"enabled": True}, sandbox=SANDBOX
    ) as service:
        flood = [
            asyncio.create_task(service.remove(each)) for each in vins(CONNECTIONS)
        ]
        events = [await service.post_event(f"e{number}") for number in range(5)]
        answers = await asyncio.gather(*flood)

    assert events == [202] * 5
    refused = [each for each in answers if each.status != 200]
    assert {each.problem for each in refused} == {(503, "vehicle_removals_full")}
    assert all(int(each.headers["Retry-After"]) >= 1 for each in refused)
    assert len(answers) - len(refused) >= 20


@on_sqlite
async def test_clients_take_turns_at_removals(
    serve: ServeVehicles,
    transactions: Transactions,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A removal is in the next transaction, although another client has many."""
    monkeypatch.setattr(removals, "MAX_GROUP", 2)
    transactions.is_released.clear()
    async with serve() as service:
        many = [asyncio.create_task(service.remove(each)) for each in vins(9)]
        await until(lambda: running(LANE) == 9)
        other = asyncio.create_task(service.remove(VIN, OTHER))
        await until(lambda: running(LANE) == 10)
        transactions.is_released.set()
        await asyncio.gather(*many, other)

    assert VIN in transactions.groups[1]


@on_sqlite
async def test_a_removal_of_a_client_that_left_is_dropped(
    serve: ServeVehicles,
    stored: VehicleStore,
    transactions: Transactions,
    until: Until,
) -> None:
    """It has no effect if the client leaves before the transaction begins."""
    await store_expired(stored, VIN, days=1)
    transactions.is_released.clear()
    async with serve() as service:
        first = asyncio.create_task(service.remove(vin(1)))
        await until(lambda: len(transactions.groups) == 1)
        dropped = asyncio.create_task(service.remove(VIN))
        await until(lambda: running(LANE) == 2)
        dropped.cancel()
        await until(lambda: running(LANE) == 1)
        transactions.is_released.set()
        await first
        await service.remove(vin(2))

    assert transactions.groups == [{vin(1)}, {vin(2)}]
    assert (await stored.find([VIN]))[VIN].entry is not None


@on_sqlite
async def test_a_removal_has_a_time_limit(
    serve: ServeVehicles,
    transactions: Transactions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A removal that waits too long gets 503."""
    monkeypatch.setattr("service.vehicles.lanes.TIME_LIMIT_S", 0.1)
    transactions.is_released.clear()
    refused = growth()
    async with serve() as service:
        late = await service.remove(VIN)

    assert late.problem == (503, "vehicle_removal_timeout")
    assert refused(REFUSED, lane=LANE, reason="time_limit") == 1


@on_sqlite
async def test_a_transaction_has_a_time_limit(
    serve: ServeVehicles,
    transactions: Transactions,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """It fails its removals, with a line in the log; later ones succeed again."""
    monkeypatch.setattr(removals, "TIME_LIMIT_S", 0.1)
    transactions.is_released.clear()
    async with serve() as service:
        hung = await service.remove(VIN)
        monkeypatch.setattr(removals, "TIME_LIMIT_S", GIVE_UP_S)
        transactions.is_released.set()
        again = await service.remove(VIN)

    assert hung.problem == (503, "storage_unavailable")
    assert again.status == 200
    failed = [each for each in log_entries if each["event"] == "vehicle.not_removed"]
    assert [each["reason"] for each in failed] == ["no answer in time"]
