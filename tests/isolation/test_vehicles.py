"""Look-ups of one client delay nobody else: clients take turns, also at vPIC."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url
from structlog.typing import EventDict

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database
from service.vehicles.model import VehicleSource, Vin
from service.vehicles.store import StoredEntry, VehicleStore
from service.vehicles.tables import vehicles as table
from service.web import backpressure
from tests.conftest import POSTGRESQL
from tests.isolation import vehicles
from tests.isolation.vehicles import (
    ONE,
    OTHER,
    Answer,
    ServeVehicles,
    Vehicles,
    running,
    waiting,
)
from tests.metric_samples import growth
from tests.patience import GIVE_UP_S
from tests.vehicles import conftest
from tests.vehicles.conftest import (
    VIN,
    VpicBarrier,
    VpicRequests,
    on_sqlite,
    store_expired,
    vin,
    vins,
)

serve = vehicles.serve
barrier = conftest.barrier
received = conftest.received

Until = Callable[[Callable[[], bool]], Awaitable[None]]

CALLS: Final = "vpic_calls"
LANE: Final = "vehicle_lookups"
REFUSED: Final = "copilot_usage_lane_refused_total"
HASTY_S: Final = 2.0
"""Enough for a transaction on a slow machine."""
TWO_CALLS: Final = {"concurrency": 2}
FULL: Final = (503, "vehicle_lookups_full")


@pytest.fixture
async def stored(sandbox: RunningSandbox, database: Database) -> VehicleStore:
    """The database of the service."""
    return VehicleStore(database, VehicleSource(sandbox.url + VPIC_PATH))


async def until_announced(database: Database, *vins: Vin) -> None:
    """Wait until look-ups of VINs are about to wait for the rate limit."""
    statement = select(table.c.vin).where(table.c.vin.in_(vins))
    found = 0
    async with asyncio.timeout(GIVE_UP_S):
        while found < len(vins):
            async with database.reading() as connection:
                found = len((await connection.execute(statement)).all())


async def fill_queue(
    service: Vehicles, count: int, until: Until, client: str = ONE
) -> list[asyncio.Task[Answer]]:
    """Let a call begin, and so many VINs wait behind it."""
    tasks = []
    for batch in (vins(100)[50:], vins(100 + count)[100:]):
        tasks.append(asyncio.create_task(service.look_up_all(batch, client)))
        await until(lambda: running(CALLS) == 1)
    await until(lambda: waiting(CALLS) == count)
    return tasks


# --- turns at vPIC ------------------------------------------------------------------


@on_sqlite
async def test_clients_take_turns_at_calls(
    serve: ServeVehicles, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """One client is never in all calls to vPIC; what waits shares the next call."""
    barrier.close()
    async with serve(vehicles=TWO_CALLS) as service:
        many = [asyncio.create_task(service.look_up(vin(0)))]
        await until(lambda: received.calls == 1)
        many += [asyncio.create_task(service.look_up(each)) for each in vins(6)[1:]]
        await until(lambda: waiting(CALLS) == 5)
        others = [asyncio.create_task(service.look_up(vin(6), OTHER))]
        await until(lambda: received.calls == 2)
        others.append(asyncio.create_task(service.look_up(vin(7), OTHER)))
        await until(lambda: waiting(CALLS) == 6)
        barrier.open()

        answers = await asyncio.gather(*many, *others)

    assert {each.status for each in answers} == {200}
    assert list(received.vins)[:2] == [vin(0), vin(6)]
    assert received.calls <= 4


@on_sqlite
async def test_clients_take_turns_in_a_call(
    serve: ServeVehicles, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """A call has queries of each client, however many one of them has sent earlier."""
    barrier.close()
    async with serve(vehicles={"concurrency": 1}) as service:
        first = asyncio.create_task(service.look_up(vin(0)))
        await until(lambda: received.calls == 1)
        batch = asyncio.create_task(service.look_up_all(vins(500)[1:]))
        await until(lambda: waiting(CALLS) == 499)
        single = asyncio.create_task(service.look_up(vin(500), OTHER))
        await until(lambda: waiting(CALLS) == 500)
        barrier.open()

        answers = await asyncio.gather(first, batch, single)

    assert {each.status for each in answers} == {200}
    assert list(received.vins).index(vin(500)) == 2
    assert received.calls == 11


@on_sqlite
async def test_a_batch_does_not_delay_other_look_ups(
    serve: ServeVehicles, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """A single look-up is sent while hundreds of VINs of another client wait."""
    barrier.close()
    async with serve(vehicles=TWO_CALLS) as service:
        batch = asyncio.create_task(service.look_up_all(vins(500)))
        await until(lambda: waiting(CALLS) == 450)
        single = asyncio.create_task(service.look_up(vin(500), OTHER))
        await until(lambda: received.singles(vin(500)) == 1)
        assert received.batches == 1
        barrier.open()

        answers = await asyncio.gather(batch, single)

    assert [each.status for each in answers] == [200, 200]
    assert not any("error" in each for each in answers[0].body["results"])


# --- refusals -----------------------------------------------------------------------


@on_sqlite
async def test_only_uncached_look_ups_are_refused(
    serve: ServeVehicles,
    stored: VehicleStore,
    received: VpicRequests,
    *,
    barrier: VpicBarrier,
    until: Until,
) -> None:
    """While the queue is full, fresh and expired entries are returned as always."""
    refused, looked_up = growth(), "copilot_usage_vehicles_lookups_total"
    await store_expired(stored, vin(10), days=1)
    await store_expired(stored, vin(11), days=31)
    async with serve(vehicles=TWO_CALLS, limits={"max_queue": 2}) as service:
        await service.look_up(vin(12))
        barrier.close()
        busy = await fill_queue(service, 100, until)

        full = await service.look_up(vin(3))
        fresh, expired, held = [
            await service.look_up(each) for each in (vin(10), vin(11), vin(12))
        ]
        results = (await service.look_up_all([vin(10), vin(4)])).body["results"]
        barrier.open()
        others = await asyncio.gather(*busy)

    assert full.problem == FULL
    assert int(full.headers["Retry-After"]) >= 1
    assert fresh.headers["Cache-Status"] == "copilot-usage; hit"
    assert expired.headers["Cache-Status"] == "copilot-usage; hit; detail=stale"
    assert held.headers["Cache-Status"] == "copilot-usage; hit"
    assert [each.get("error") for each in results] == [None, FULL[1]]
    assert not any("error" in each for all_ in others for each in all_.body["results"])
    assert refused(REFUSED, lane=CALLS, reason="queue_full") == 3
    assert refused(looked_up, result="refused", reason="limit") == 2
    assert refused(looked_up, result="failed", reason="vpic") == 0


@on_sqlite
async def test_a_look_up_that_would_wait_too_long_is_refused(
    serve: ServeVehicles, received: VpicRequests, until: Until
) -> None:
    """It is refused at once, with the time that the others need at the rate limit."""
    pace = {"requests_per_s": 0.01}
    async with serve(vehicles=pace, limits={"queue_wait_s": 150.0}) as service:
        await service.look_up(vin(0))
        busy = asyncio.create_task(service.look_up_all(vins(101)[1:]))
        await until(lambda: waiting(CALLS) == 100)

        refused = await service.look_up(vin(101))
        other = asyncio.create_task(service.look_up(vin(102), OTHER))
        await until(lambda: waiting(CALLS) == 101)
        for each in (busy, other):
            each.cancel()

    assert refused.problem == FULL
    assert refused.headers["Retry-After"] == "200"
    assert received.calls == 1


@on_sqlite
async def test_a_full_queue_drops_queries_of_the_client_with_the_most(
    serve: ServeVehicles, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """The last VIN of a long list makes room for a single one of another client."""
    barrier.close()
    async with serve(vehicles={"concurrency": 1}, limits={"max_queue": 1}) as service:
        busy = asyncio.create_task(service.look_up(vin(0)))
        await until(lambda: received.calls == 1)
        batch = asyncio.create_task(service.look_up_all(vins(52)[1:]))
        await until(lambda: waiting(CALLS) == 50)
        refused = growth()
        single = asyncio.create_task(service.look_up(vin(60), OTHER))
        await until(lambda: refused(REFUSED, lane=CALLS, reason="displaced") == 1)
        barrier.open()

        answers = await asyncio.gather(busy, batch, single)

    assert {each.status for each in answers} == {200}
    codes = [each.get("error") for each in answers[1].body["results"]]
    assert codes == [None] * 49 + [FULL[1]] * 2


@on_sqlite
async def test_a_shared_look_up_is_not_refused_for_others(
    serve: ServeVehicles, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """A client that waits for the VIN of a refused client asks in its own turn."""
    barrier.close()
    short = {"queue_wait_s": 0.3}
    async with serve(vehicles=TWO_CALLS, limits=short) as service:
        first = asyncio.create_task(service.look_up(vin(0)))
        await until(lambda: received.calls == 1)
        shared = [
            asyncio.create_task(service.look_up(VIN, client)) for client in (ONE, OTHER)
        ]
        await until(lambda: received.calls == 2)
        barrier.open()

        refused, answered = await asyncio.gather(*shared)
        await first

    assert refused.problem == FULL
    assert answered.status == 200


@on_sqlite
async def test_the_database_is_read_in_turns(
    serve: ServeVehicles,
    received: VpicRequests,
    *,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One client never has all reads; VINs in memory are not affected."""
    find, may_go_on = VehicleStore.find, asyncio.Event()

    async def find_late(
        store: VehicleStore, vins: Collection[Vin]
    ) -> dict[Vin, StoredEntry]:
        await may_go_on.wait()
        return await find(store, vins)

    slow = {"max_lookups": 2, "storage_wait_s": 3_600.0, "held_s": 3_600.0}
    async with serve(vehicles=slow, limits={"max_queue": 2}) as service:
        await service.look_up(VIN)
        monkeypatch.setattr(VehicleStore, "find", find_late)
        many = [asyncio.create_task(service.look_up(each)) for each in vins(3)]
        await until(lambda: waiting(LANE) == 2)

        refused = await service.look_up(vin(3))
        held = await service.look_up(VIN)
        other = asyncio.create_task(service.look_up(vin(4), OTHER))
        await until(lambda: running(LANE) == 2)
        may_go_on.set()
        answers = await asyncio.gather(*many, other)

    assert refused.problem == FULL
    assert held.body["cached_result"] is True
    assert {each.status for each in answers} == {200}


@on_sqlite
@pytest.mark.parametrize("is_proxy", [False, True], ids=["client", "proxy"])
async def test_a_refused_client_is_read_later(
    serve: ServeVehicles,
    received: VpicRequests,
    *,
    barrier: VpicBarrier,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    is_proxy: bool,
) -> None:
    """Its next request waits in the socket, unless the connection is of a proxy."""
    monkeypatch.setattr(backpressure, "PAUSE_S", (3_600.0, 3_600.0))
    barrier.close()
    only_one = {"concurrency": 1}
    async with serve(vehicles=only_one, limits={"max_queue": 1}) as service:
        # Another client would displace one of these look-ups.
        same = ONE if is_proxy else "127.0.0.1"
        many = await fill_queue(service, 50, until, same)
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        client = f"X-Forwarded-For: {ONE}\r\n" if is_proxy else ""
        request = f"GET /vehicles/lookup?vin={vin(2)} HTTP/1.1\r\nHost: a\r\n{client}"
        for _ in range(2 if is_proxy else 1):
            writer.write(f"{request}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"}")
        assert head.startswith(b"HTTP/1.1 503")
        assert FULL[1].encode() in body

        writer.write(f"{request}\r\n".encode())
        barrier.open()
        # These are sent later, and need more turns of the event loop.
        await asyncio.gather(*many)
        for _ in range(3):
            await service.look_up(VIN, OTHER)

        again = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        await asyncio.wait([again], timeout=0)
        await asyncio.sleep(0)
        assert again.done() is is_proxy
        again.cancel()
        writer.close()


# --- clients that leave -------------------------------------------------------------


@on_sqlite
async def test_look_ups_of_clients_that_left_are_dropped(
    serve: ServeVehicles,
    stored: VehicleStore,
    received: VpicRequests,
    *,
    barrier: VpicBarrier,
    until: Until,
) -> None:
    """What waits is never sent; the answer that vPIC is about to give is stored."""
    barrier.close()
    async with serve(vehicles=TWO_CALLS) as service:
        many = [asyncio.create_task(service.look_up(vin(0)))]
        await until(lambda: received.calls == 1)
        many += [asyncio.create_task(service.look_up(each)) for each in vins(4)[1:]]
        await until(lambda: waiting(CALLS) == 3)
        batch = asyncio.create_task(service.look_up_all(vins(200)[4:]))
        await until(lambda: waiting(CALLS) == 199)
        (sent,) = map(Vin, received.vins)

        for each in (*many, batch):
            each.cancel()
        await until(lambda: waiting(CALLS) == 0)
        barrier.open()
        await until(lambda: running(CALLS) == 0)
        answer = await service.look_up(VIN)

        async with asyncio.timeout(GIVE_UP_S):
            while (await stored.find([sent]))[sent].entry is None:
                pass

    assert answer.status == 200
    assert dict(received.vins) == {sent: 1, VIN: 1}


@on_sqlite
async def test_a_look_up_that_another_client_wants_is_kept(
    serve: ServeVehicles, received: VpicRequests, barrier: VpicBarrier, until: Until
) -> None:
    """The client that asked first leaves, and the one that joined gets the answer."""
    barrier.close()
    async with serve(vehicles=TWO_CALLS) as service:
        busy = asyncio.create_task(service.look_up(vin(0)))
        await until(lambda: received.calls == 1)
        first = asyncio.create_task(service.look_up(VIN))
        await until(lambda: waiting(CALLS) == 1)
        joined = asyncio.create_task(service.look_up(VIN, OTHER))
        await until(lambda: vehicles.active() == 3)

        first.cancel()
        await until(lambda: vehicles.active() == 2)
        barrier.open()

        assert (await joined).status == 200
        await busy
    assert received.singles(VIN) == 1


# --- a database that hangs ----------------------------------------------------------


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_a_hanging_database_delays_look_ups_only_briefly(
    serve: ServeVehicles,
    storage: StorageSettings,
    received: VpicRequests,
    log_entries: list[EventDict],
) -> None:
    """vPIC answers, or the memory; one line of the log has the reason for each."""
    schema = make_url(storage.url).query["schema"]
    connection = await asyncpg.connect(POSTGRESQL)
    hasty = {"storage_wait_s": HASTY_S, "held_s": 1e-6}
    async with serve(vehicles=hasty) as service:
        await service.look_up(VIN)
        async with connection.transaction():
            await connection.execute(
                f"LOCK TABLE {schema}.vehicles IN ACCESS EXCLUSIVE MODE"
            )
            known, new = [await service.look_up(each) for each in (VIN, vin(1))]
        healed = await service.look_up(VIN)
    await connection.close()

    assert known.headers["Cache-Status"] == "copilot-usage; hit; detail=stale"
    assert new.headers["Cache-Status"] == "copilot-usage; fwd=miss"
    assert healed.headers["Cache-Status"] == "copilot-usage; hit"
    failed = [each for each in log_entries if each["event"] == "vehicle.not_read"]
    assert [each["reason"] for each in failed] == ["no answer in time"] * 2
    assert received.calls == 2


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_a_result_is_returned_while_it_cannot_be_stored(
    serve: ServeVehicles, storage: StorageSettings, log_entries: list[EventDict]
) -> None:
    """Another process has locked the table for writing: vPIC's answer does not wait."""
    schema = make_url(storage.url).query["schema"]
    connection = await asyncpg.connect(POSTGRESQL)
    async with serve(vehicles={"storage_wait_s": HASTY_S}) as service:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {schema}.vehicles IN EXCLUSIVE MODE")
            answer = await service.look_up(VIN)
        again = await service.look_up(VIN)
    await connection.close()

    assert answer.headers["Cache-Status"] == "copilot-usage; fwd=miss"
    assert again.headers["Cache-Status"] == "copilot-usage; fwd=miss; stored"
    failed = [each for each in log_entries if each["event"] == "vehicle.not_kept"]
    assert [each["reason"] for each in failed] == ["no answer in time"]
