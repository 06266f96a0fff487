"""The documented table of log events: the calls in the code, and all logged values."""

import ast
import asyncio
import os
import re
import signal
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import AsyncMock, Mock, patch

import pytest
import redis.asyncio
from aiohttp import web
from msgspec.structs import replace
from sqlalchemy import insert, select, update
from structlog.typing import EventDict

from service.events.counting import Counting
from service.events.feed import Feed
from service.events.ingest import Ingest
from service.events.retention import Retention
from service.instants import read_instant
from service.keys.store import add_key
from service.observability.line_queue import Kind
from service.observability.logs import log_dropped
from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.server import connection_limit, lifecycle
from service.server.load_shedding import MIN_WAITING, LoopQueue
from service.server.runner import listening
from service.settings import SCOPES, EventsSettings, StorageSettings, load
from service.storage import breaker
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnavailable
from service.storage.maintenance import repeat_logged
from service.storage.redis_sentinels import Sentinels
from service.storage.redis_store import RedisStore, RedisUnavailable
from service.upstream.proxies import proxy_for
from service.usage.cache import SnapshotCache
from service.usage.handlers import SNAPSHOTS
from service.usage.periods.calendar import Schedule
from service.usage.periods.keeping import recorder as recording
from service.usage.periods.keeping import tasks as keeping
from service.usage.periods.keeping.closing import Closing
from service.usage.periods.keeping.contents import Fetched
from service.usage.periods.keeping.recorder import Recorder
from service.usage.periods.keeping.retention import PeriodRetention
from service.usage.periods.keeping.upstream_periods import UpstreamPeriods
from service.usage.periods.statements.sealing import Sealing
from service.usage.periods.tables import CLOSED, chunks, periods
from service.vehicles.completion import Completion
from service.vehicles.expiry import Expiry
from service.vehicles.store import VehicleStore
from service.web.request_context import Reports, request_context
from service.web.unsent_bytes import UnsentBytes
from tests.conftest import (
    GIVE_UP_S,
    Client,
    MakeClient,
    always,
    message,
    storage_at,
)
from tests.events.conftest import event
from tests.leftovers import child_pids
from tests.observability.budget_events import cause_budgets
from tests.observability.conftest import get
from tests.redis_servers import RedisDouble

ROOT = Path(__file__).parents[2]
EVENTS_PAGE = ROOT / "docs" / "log-events.md"
ROW = re.compile(r"\| `([\w.]+)` \| ([\w, ]+) \| .+? \| (.+) \|")
EVENT_NAME = re.compile(r"[a-z]+(\.[a-z_]+)+")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
IN_EVERY_LINE = {"event", "log_level", "request_id", "refresh_id", "revision"}


class Documented(NamedTuple):
    """A row of the table."""

    levels: set[str]
    values: set[str]


def documented_events() -> dict[str, Documented]:
    rows = ROW.findall(EVENTS_PAGE.read_text(encoding="utf-8"))
    return {
        event: Documented(set(levels.split(", ")), set(re.findall("`(.+?)`", values)))
        for event, levels, values in rows
    }


def logging_calls() -> Iterator[tuple[str, str]]:
    """The event and the called name of each call in the code that logs one."""
    for file in sorted((ROOT / "service").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                for event in events_of(node):
                    yield event, called_name(node)


def events_of(call: ast.Call) -> Iterator[str]:
    """The events that a call of a log function names."""
    name = called_name(call)
    is_log = name in {*LEVELS, "write", "log_once", "Summary"} or "_log" in name
    if not call.args or not is_log:
        return
    for each in choices_of(call.args[0]):
        value = each.value if isinstance(each, ast.Constant) else None
        if isinstance(value, str) and EVENT_NAME.fullmatch(value):
            yield value


def choices_of(argument: ast.expr) -> list[ast.expr]:
    """An argument, or both sides of one that depends on a condition."""
    if isinstance(argument, ast.IfExp):
        return [argument.body, argument.orelse]
    return [argument]


def called_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def test_the_table_lists_the_events_of_the_code() -> None:
    """Each event that the code logs is documented, and no other."""
    assert {event for event, _ in logging_calls()} == documented_events().keys()


def test_the_table_lists_the_levels_of_the_code() -> None:
    """The table lists every level in the code."""
    events = documented_events()
    calls = [(event, name) for event, name in logging_calls() if name in LEVELS]

    assert calls
    assert [call for call in calls if call[1] not in events[call[0]].levels] == []


async def cause_every_event(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Produce every event."""
    no_waits = {"timeout_s": 5.0, "attempts": 2}
    await get(await client(logging={"steps_per_refresh": 2, "slow_request_s": 1e-6}))
    sandbox.sandbox.faults = Faults(reset=1, path="/reports")
    await get(await client(upstream=no_waits))
    await cause_the_circuit(client, sandbox)
    sandbox.sandbox.faults = Faults()
    knowing = await client(cache={"report_ttl_s": 60.0, "missing_report_ttl_s": 60.0})
    await get(knowing)
    await get(knowing)
    await cause_shrinking(client, sandbox)
    await cause_sharing(client, sandbox, monkeypatch)
    await cause_sentinels(monkeypatch)
    await cause_a_stopped_worker(client, monkeypatch)
    await cause_connections()
    cause_overload()
    await cause_a_disconnect(monkeypatch)
    await cause_events(client, tmp_path, monkeypatch)
    await cause_storage(client, tmp_path, monkeypatch)
    await cause_the_storage_circuit(monkeypatch)
    for cause in (cause_vehicles, cause_periods, cause_budgets):
        await cause(client, sandbox, tmp_path, monkeypatch)
    cause_proxies(monkeypatch)
    cause_a_life()
    monkeypatch.setattr(SnapshotCache, "view", None)
    await get(await client())


def cause_a_life() -> None:
    """A service starts, loses a worker and lines of its log, and stops."""
    lifecycle.log_started("http://127.0.0.1:8000")
    lifecycle.log_worker_started(1)
    lifecycle.log_worker_exited(1, -signal.SIGKILL, was_asked=False)
    log_dropped({Kind.INFO: 1})
    lifecycle.log_reloading()
    lifecycle.log_reload_refused("server.port: invalid")
    lifecycle.log_shutdown_forced(["process 1"])
    lifecycle.log_stopping()
    lifecycle.log_worker_exited(1, 0, was_asked=True)
    lifecycle.log_stopped()


async def cause_the_circuit(client: MakeClient, sandbox: RunningSandbox) -> None:
    """One failure opens the circuit; the next call closes it."""
    sandbox.sandbox.faults = always("server_error", times=1)
    judged = {"minimum_calls": 1, "half_open_calls": 1, "open_s": 1e-9}
    service = await client(breaker=judged, upstream={"attempts": 1})
    await get(service)
    await get(service)
    sandbox.sandbox.faults = Faults(server_error=1)
    await get(await client(upstream={"retry_floor": 0, "retry_rate": 0.0}))
    sandbox.sandbox.faults = Faults(too_many_requests=1, retry_after="60")
    await get(await client(upstream={"attempts": 1}))


def cause_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has a proxy, and one that cannot be used."""
    with monkeypatch.context() as patched:
        patched.delenv("NO_PROXY", raising=False)
        patched.delenv("no_proxy", raising=False)
        for url in ("http://127.0.0.1:1", "socks5://127.0.0.1:1"):
            patched.setenv("http_proxy", url)
            proxy_for("http://upstream.test", "copilot")


async def cause_connections() -> None:
    """Send a malformed request, and an incomplete one."""
    server = replace(load().settings.server, port=0, drain_s=0.0, header_timeout_s=0.2)
    async with listening(web.Application(), server) as url:
        for sent in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection(*url[7:].split(":"))
            writer.write(sent)
            await reader.read()
            writer.close()
            await writer.wait_closed()


def cause_overload() -> None:
    """Have too many requests, slow clients and connections."""
    queue = LoopQueue(0.0)
    for _ in range(2 * MIN_WAITING):
        queue.add()
    for _ in range(MIN_WAITING):
        queue.start()
    assert queue.shed(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n") is not None
    unsent = UnsentBytes(1)
    for _ in range(2):
        unsent.pause(Mock(get_write_buffer_size=Mock(return_value=1)))
    connection_limit.closed("idle", 1, 1)


async def cause_a_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client disconnects while its request is handled."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        begun.set()
        while request.transport is not None:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        ended.set()
        return web.Response()

    app = web.Application(middlewares=[request_context(Reports(access_log=True))])
    app.router.add_get("/", handle)
    server = replace(load().settings.server, port=0, drain_s=0.0)
    with monkeypatch.context() as patched:
        # Otherwise the end of the connection belongs to the request.
        patched.setattr("service.server.connections.HALF_CLOSE_S", -1.0)
        async with listening(app, server) as url, asyncio.timeout(GIVE_UP_S):
            _, writer = await asyncio.open_connection(*url[7:].split(":"))
            writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            await begun.wait()
            writer.transport.abort()
            await ended.wait()


async def cause_events(
    client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event fails, is replayed and removed; then the database is unavailable."""
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/events.db")
    async with open_database(storage) as database:
        key = await add_key(database, "shop", SCOPES)
        own, headers = {"url": storage.url}, {"X-API-Key": key}
        strange = event(category="strange")
        options = {"enabled": True, "unknown_types": "fail"}
        strict = await client(events=options, storage=own)
        await strict.post("/events", json=strange, headers=headers)
        mended = await client(events={"enabled": True}, storage=own)
        failed = await (await mended.get("/events/failed", headers=headers)).json()
        path = f"/events/failed/{failed['failed'][0]['id']}/replay"
        await mended.post(path, headers=headers)
        await strict.post("/events", json=event(category="odd"), headers=headers)
        await mended.post("/events/failed/replay", headers=headers)
        await mended.post("/events/failed/discard", headers=headers)
        await operate(mended, headers)
        settings = replace(load().settings.events, retention_s=1e-6)
        await Counting(database).add_changes()
        await Retention(settings, database).remove()
        away = Mock(side_effect=StorageUnavailable("away"))
        for write in ("writing", "write_in_thread"):
            monkeypatch.setattr(Database, write, away)
        await mended.post("/events", json=event(), headers=headers)
        await cause_failures(settings)
    monkeypatch.undo()


async def operate(service: Client, headers: dict[str, str]) -> None:
    """An operator uses each endpoint that changes something."""
    info, auto = {"level": "info"}, {"state": "auto"}
    await service.post("/admin/refresh", headers=headers)
    await service.post("/admin/log-level", json=info, headers=headers)
    await service.post("/admin/circuit/copilot", json=auto, headers=headers)
    await service.post("/admin/schemas/reload", headers=headers)


async def cause_storage(
    client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table is missing, the writer of events ends, and keys cannot be read."""
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/broken.db")
    own: dict[str, Any] = {
        "events": {"enabled": True},
        "storage": {"url": storage.url},
    }
    async with open_database(storage) as database:
        headers = {"X-API-Key": await add_key(database, "shop", SCOPES)}
        service = await client(**own)
        await service.get("/events", headers=headers)
        created = await service.post("/keys", json={"name": "a"}, headers=headers)
        path = f"/keys/{(await created.json())['id']}"
        await service.delete(path, headers=headers)
        async with database.writing() as connection:
            await connection.exec_driver_sql("DROP TABLE failed_events")
        await service.get("/events/failed", headers=headers)
    with monkeypatch.context() as patched:
        patched.setattr(Ingest, "_start", Mock(side_effect=ZeroDivisionError))
        await service.post("/events", json=event(), headers=headers)
        broken = Mock(side_effect=ZeroDivisionError)
        patched.setattr("service.keys.cached_keys.list_keys", broken)
        await (await client(**own)).get("/events", headers=headers)


async def cause_the_storage_circuit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database does not answer for a moment."""
    monkeypatch.setattr(breaker, "PROBE_INTERVAL_S", 0.0)
    circuit = breaker.StorageBreaker(AsyncMock(), Mock(), GIVE_UP_S)
    for _ in range(breaker.MAX_TIMEOUTS):
        circuit.timed_out()
    assert circuit._probing is not None
    await asyncio.wait([circuit._probing])
    monkeypatch.undo()


async def cause_vehicles(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """VINs are decoded, removed and exported; then vPIC is unavailable."""
    storage = {"url": f"sqlite+aiosqlite:///{tmp_path}/vehicles.db"}
    monkeypatch.setattr("ultravin.decode", Mock(side_effect=ZeroDivisionError))
    vehicles = {"enabled": True, "offline": True}
    service = await client(vehicles=vehicles, storage=storage)
    known, unknown = "1XPWD40X1ED215307", "12345678901234567"
    await service.get("/vehicles/lookup", params={"vin": unknown})
    with monkeypatch.context() as patched:
        away = Mock(side_effect=StorageUnavailable("away"))
        patched.setattr(Database, "_writer", away)
        await service.get("/vehicles/lookup", params={"vin": known})
        patched.setattr(Database, "reading", away)
        await service.get("/vehicles/lookup", params={"vin": "1XKWDB0X57J211825"})
        await service.delete("/vehicles/remove", params={"vin": known})
    await service.delete("/vehicles/remove", params={"vin": known})
    async with open_database(storage_at(storage["url"])) as database:
        outdated = replace(load().settings.vehicles, missing_ttl_s=0.0)
        await Expiry(outdated, database).remove()
    await get(service, "/vehicles/export")
    with monkeypatch.context() as patched:
        patched.setattr("service.vehicles.export.COMMAND", (str(tmp_path / "missing"),))
        await get(service, "/vehicles/export")
    sandbox.sandbox.faults = always("forbidden")
    await service.get("/vehicles/lookup", params={"vin": known})
    sandbox.sandbox.faults = Faults()


async def cause_failures(settings: EventsSettings) -> None:
    """The background tasks fail: without a database, and by a defect."""
    vehicles = load().settings.vehicles
    for error in (StorageUnavailable("away"), ZeroDivisionError()):
        failure = Mock(side_effect=error)
        broken = Mock(reading=failure)
        await cause_failure(Retention(settings, broken).run(), failure)
        await cause_failure(Counting(broken).run(), failure)
        await cause_failure(Sealing(broken).run(), failure)
        await cause_failure(PeriodRetention(1, broken).run(), failure)
        with patch("service.vehicles.expiry.FIRST_AFTER_S", 0.0):
            await cause_failure(Expiry(vehicles, broken).run(), failure)
        looks = repeat_logged("events.feed_failed", Feed(broken).look, 60.0)
        await cause_failure(looks, failure)
        completion = Completion(VehicleStore(broken, Mock()), Mock())
        with patch("service.vehicles.completion.FIRST_AFTER_S", 0.0):
            await cause_failure(completion.run(), failure)
    unanswered = Mock(is_complete=False, received=(), end=Mock(side_effect=ValueError))
    Ingest._complete(Mock(), unanswered, [])
    pages = AsyncMock(side_effect=[[Mock(is_whole=False)], []])
    idle = Mock(is_idle=True, complete=AsyncMock(return_value=True))
    await Completion(Mock(page=pages), idle).complete()


async def cause_failure(run: Coroutine[Any, Any, None], away: Mock) -> None:
    """A task runs while the database is unavailable."""
    away.reset_mock()
    running = asyncio.create_task(run)
    async with asyncio.timeout(GIVE_UP_S):
        while not away.called:  # noqa: ASYNC110 - a failure sets no event
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


async def cause_shrinking(client: MakeClient, sandbox: RunningSandbox) -> None:
    """Upstream loses all messages."""
    service = await client(cache={"stale_if_error_s": 60.0})
    await get(service)
    period = sandbox.sandbox.period
    sandbox.sandbox.set_messages([])
    await get(service)
    sandbox.sandbox.period = period


async def cause_a_stopped_worker(
    client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pricing process stops while a query waits for it."""
    others = child_pids()
    service = await client(usage={"own_process_bytes": 1}, cache={"ttl_s": 60.0})
    await get(service)
    (child,) = child_pids() - others
    os.kill(child, signal.SIGSTOP)
    monkeypatch.setattr("service.usage.snapshots.process_worker.CHECK_AFTER_S", 0.01)
    monkeypatch.setattr("service.usage.snapshots.process_worker.PING_S", 0.01)
    await get(service, "/usage/1")
    monkeypatch.undo()


async def cause_sharing(
    client: MakeClient, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A period is shared through Redis, which then has bad data, refuses, and fails."""
    double, sharing = RedisDouble(), {"redis_url": "redis://a.test", "ttl_s": 60.0}
    monkeypatch.setattr(redis.asyncio.Redis, "from_url", double.from_url)
    monkeypatch.setattr("service.storage.redis_store.PING_EVERY_S", 0.0)
    for _ in range(2):
        await get(await client(cache=sharing))
    await cause_a_failure_in_another_process(client, sandbox, sharing)
    for key in double.values:
        double.values[key] = b"spoiled"
    await get(await client(cache=sharing))
    double.failure = redis.ResponseError("full")
    await get(await client(cache=sharing))
    double.failure = redis.ConnectionError("gone")
    await get(await client(cache=sharing))
    asked, double.failure = double.asked, None
    async with asyncio.timeout(GIVE_UP_S):
        while double.asked == asked:  # noqa: ASYNC110 - the ping sets no event
            await asyncio.sleep(0)


async def cause_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Sentinel answers; then one names a master, and later another one."""
    monkeypatch.setattr("service.storage.redis_store.PING_EVERY_S", 0.0)
    double = RedisDouble()
    monkeypatch.setattr(redis.asyncio.Redis, "from_url", double.from_url)
    store = RedisStore("redis+sentinel://127.0.0.1:1/m", "test")
    with pytest.raises(RedisUnavailable):
        await store.run(lambda pipeline: pipeline.get("a"))
    state = dict.fromkeys(("is_sdown", "is_odown"), 0) | {"is_master": 1, "port": 1}
    for epoch in range(2):
        found = state | {"ip": f"10.0.0.{epoch}", "config-epoch": epoch}
        monkeypatch.setattr(Sentinels, "_ask", AsyncMock(return_value=found))
        async with asyncio.timeout(GIVE_UP_S):
            while str(found["ip"]) not in store._url:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0)
    await store.close()


async def cause_a_failure_in_another_process(
    client: MakeClient, sandbox: RunningSandbox, sharing: dict[str, Any]
) -> None:
    """A process waits for the refresh of another one, which fails."""
    sandbox.sandbox.faults = always("server_error")
    services = [await client(cache={**sharing, "ttl_s": 0.0}) for _ in range(2)]
    await asyncio.gather(*(get(each) for each in services))
    sandbox.sandbox.faults = Faults()


async def cause_periods(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A period opens, changes and closes, one is doubtful, and keeping fails."""
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/periods.db")
    service = await client(
        storage={"url": storage.url},
        periods={"enabled": True},
        cache={"confirm_shrink_s": 0.0},
    )
    kept = asyncio.Queue[None]()
    keep = UpstreamPeriods.keep

    async def note(keeper: UpstreamPeriods, fetched: Fetched, skipped: int) -> None:
        await keep(keeper, fetched, skipped)
        kept.put_nowait(None)

    with monkeypatch.context() as patched:
        patched.setattr(UpstreamPeriods, "keep", note)
        later = message(4, timestamp="2024-05-29T03:25:03.613Z")
        for some in ([1], [1, 2], [3], []):
            messages = [message(each) for each in some] or [later]
            sandbox.sandbox.set_messages(messages)
            await get(service)
            await asyncio.wait_for(kept.get(), GIVE_UP_S)
        await cause_statements(service, storage)
        patched.setattr(recording, "RETRY_S", 0.0)
        for error in (StorageUnavailable("away"), ZeroDivisionError()):
            failing = AsyncMock(side_effect=[error, None])
            patched.setattr(UpstreamPeriods, "keep", failing)
            await cause_catching_up(service, failing)
    await cause_months(client, sandbox, tmp_path, monkeypatch)


async def cause_months(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A calendar month is closed, and adjusted; then closing fails."""
    april = read_instant("2024-04-29")
    closings = asyncio.Queue[Closing]()

    class Noted(Closing):
        """A closing that the test runs."""

        async def run(self) -> None:
            closings.put_nowait(self)

    with monkeypatch.context() as patched:
        patched.setattr("service.app.Schedule", partial(Schedule, clock=lambda: april))
        patched.setattr(keeping, "Closing", Noted)
        service = await client(
            storage={"url": f"sqlite+aiosqlite:///{tmp_path}/months.db"},
            periods={"enabled": True, "boundary": "calendar", "grace_s": 0.0},
            cache={"confirm_shrink_s": 0.0},
        )
        sandbox.sandbox.set_messages([message(1)])
        await get(service)
        closing = await asyncio.wait_for(closings.get(), GIVE_UP_S)
        async with asyncio.timeout(GIVE_UP_S):
            while (await service.get("/usage/changes")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await closing.look()
        sandbox.sandbox.set_messages([message(1), message(2)])
        await get(service)
        async with asyncio.timeout(GIVE_UP_S):
            while not await adjustments_of(service):  # noqa: ASYNC110
                await asyncio.sleep(0)
    for error in (StorageUnavailable("away"), ZeroDivisionError()):
        failing = Mock(previous_month=Mock(side_effect=error))
        await cause_failure(Closing(failing, Mock(), 0.0).run(), failing.previous_month)


async def adjustments_of(service: Client) -> float:
    answer = await service.get("/usage/periods")
    adjustments: float = (await answer.json())["periods"][0]["adjustments"]
    return adjustments


async def cause_catching_up(service: Client, failing: AsyncMock) -> None:
    """A snapshot is kept after a failure."""
    assert service.app is not None
    cached = service.app[SNAPSHOTS].current
    assert cached is not None
    recorder = Recorder(UpstreamPeriods(Mock(), Mock()))
    recorder.keep(cached.snapshot, 0)
    running = asyncio.create_task(recorder.run())
    async with asyncio.timeout(GIVE_UP_S):
        while failing.call_count < 2:  # noqa: ASYNC110 - a failure sets no event
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


async def cause_statements(service: Client, storage: StorageSettings) -> None:
    """A period is sealed, one is removed, and the open one is damaged."""
    async with open_database(storage) as database:
        await Sealing(database).seal()
        async with database.writing() as connection:
            closed = select(periods).where(periods.c.status == CLOSED)
            row = (await connection.execute(closed)).mappings().one()
            later = {**row, "number": 9, "period": "later"}
            await connection.execute(insert(periods), later)
        await PeriodRetention(1, database).remove()
        async with database.writing() as connection:
            await connection.execute(update(chunks).values(content=b"x"))
    assert (await service.get("/usage/4?period=2024-05-29")).status == 500


async def test_the_table_lists_all_logged_values(
    client: MakeClient,
    period: RunningSandbox,
    log_entries: list[EventDict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every event is logged with exactly the levels and values of its row."""
    await cause_every_event(client, period, tmp_path, monkeypatch)

    seen: dict[str, Documented] = {}
    for entry in log_entries:
        row = seen.setdefault(entry["event"], Documented(set(), set()))
        row.levels.add(entry["log_level"])
        values = {"exception" if key == "exc_info" else key for key in entry}
        row.values.update(values - IN_EVERY_LINE)
    documented = documented_events()
    # Those of the event queue need its servers; the calls in the code are compared.
    of_queue = [each for each in documented if each.startswith("events.queue_")]
    assert seen == {
        each: documented[each] for each in documented if each not in of_queue
    }
