"""Logs: whole entries of a refresh, the line on standard output, the documented table.

The table of events is an interface. It is held against the calls in the code, by
reading it, and against what is really logged, by making every event happen.
"""

import ast
import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
import redis.asyncio
import structlog
from aiohttp import web
from msgspec.structs import replace
from structlog.typing import EventDict

from service import logs, workers
from service.__main__ import log_start
from service.events.client import EventsClient
from service.events.keys import add_key
from service.events.retention import Retention
from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.serving import listening
from service.settings import load
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnavailable
from service.usage.cache import SnapshotCache
from tests.conftest import (
    GIVE_UP_S,
    Client,
    MakeClient,
    always,
    message,
    report,
    storage_at,
)
from tests.events.conftest import event
from tests.leftovers import child_pids
from tests.redis_double import RedisDouble

ROOT = Path(__file__).parents[1]
EVENTS_PAGE = ROOT / "docs" / "log-events.md"
ROW = re.compile(r"\| `([\w.]+)` \| ([\w, ]+) \| .+? \| (.+) \|")
EVENT_NAME = re.compile(r"[a-z]+(\.[a-z_]+)+")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
IN_EVERY_LINE = {"event", "log_level", "request_id", "refresh_id", "revision"}
MESSAGES = "/messages/current-period"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


# --- the entries of a refresh -------------------------------------------------------


@pytest.fixture
def period(sandbox: RunningSandbox) -> RunningSandbox:
    """Four messages: of a report, of text, of a missing report, of an unusable id."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(
        [
            message(1, "ignored", report_id=7),
            message(2, "What is the rent?"),
            message(3, "Hi", report_id="x y"),
            message(4, "Hi", report_id=None),
        ]
    )
    return sandbox


async def get(service: Client, path: str = "/usage") -> None:
    """Ask as a request with a known id."""
    response = await service.get(path, headers={"X-Request-ID": "some-id"})
    await response.read()


def step(message_id: int, name: str, amount: float, total: float) -> EventDict:
    return {
        "event": "credits.step",
        "plan": "token-estimate/1",
        "message_id": message_id,
        "step": name,
        "credits": amount,
        "total": total,
    }


def rated(message_id: int, source: str, used: float, **more: object) -> EventDict:
    return {
        "event": "credits.rated",
        "message_id": message_id,
        "source": source,
        "credits_used": used,
        **more,
    }


def tried(path: str, status: int) -> EventDict:
    return {
        "event": "upstream.request",
        "url.path": path,
        "http.response.status_code": status,
        "http.request.resend_count": 0,
    }


def settled(event: str, report_id: str, attempts: int) -> EventDict:
    return {
        "event": event,
        "report_id": report_id,
        "attempts": attempts,
        "cached": False,
    }


PLAN = "token-estimate/1"
REFRESH: list[EventDict] = [
    {"event": "usage.refresh.started", "plan": PLAN},
    tried(MESSAGES, 200),
    settled("report.invalid_id", "null", 0),
    tried("/reports/7", 200),
    settled("report.resolved", "7", 1),
    tried("/reports/x%20y", 404),
    settled("report.missing", "x y", 1),
    step(1, "report", 61.0, 61.0),
    rated(1, "report", 61.0, report_id="7"),
    step(2, "tokens", 2.0, 2.0),
    step(2, "minimum", 0.0, 2.0),
    rated(2, "text", 2.0),
    step(3, "tokens", 0.4, 0.4),
    step(3, "minimum", 0.6, 1.0),
    rated(3, "text", 1.0),
    step(4, "tokens", 0.4, 0.4),
    step(4, "minimum", 0.6, 1.0),
    rated(4, "text", 1.0),
    {
        "event": "usage.refresh.finished",
        "plan": PLAN,
        "messages": 4,
        "reports": 2,
        "missing_reports": 1,
        "credits_total": 65.0,
        "reused": 0,
    },
    {
        "event": "http.request",
        "http.request.method": "GET",
        "http.route": "/usage",
        "url.path": "/usage",
        "http.response.status_code": 200,
        "cache": "miss",
    },
]
MEASURED = {
    "upstream.request": {"duration_s"},
    "usage.refresh.finished": {"duration_s"},
    "http.request": {"duration_s", "http.response.body.size"},
}


async def test_a_refresh_entry_by_entry(
    client: MakeClient, period: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """Every entry of a small refresh, whole, in order, and with the request's id."""
    service = await client(
        usage={"plan": "token-estimate"}, upstream={"concurrency": 1}
    )

    await get(service)

    ids = [(each.pop("refresh_id"), each.pop("revision")) for each in log_entries]
    assert len(set(ids)) == 1
    for entry in log_entries:
        assert entry.pop("request_id") == "some-id"
        assert entry.pop("log_level") == "info"
        for measured in MEASURED.get(entry["event"], ()):
            assert entry.pop(measured) > 0
    assert log_entries == REFRESH


async def test_what_was_priced_is_not_logged_again(
    client: MakeClient, period: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """The second refresh counts its messages as reused; a new one is logged."""
    service = await client()
    await get(service)
    mark = len(log_entries)
    await get(service, "/usage/daily")
    again = log_entries[mark:]
    texts = ["What is the rent?", "Is it due?"]
    period.sandbox.set_messages([message(n, t) for n, t in enumerate(texts, 2)])
    mark = len(log_entries)
    await get(service)

    assert not [e for e in again if e["event"].startswith("credits.")]
    assert [e["reused"] for e in again if "reused" in e] == [4]
    later = log_entries[mark:]
    priced = [e["message_id"] for e in later if e["event"] == "credits.rated"]
    assert priced == [3]
    assert [e["reused"] for e in later if "reused" in e] == [1]


@pytest.mark.parametrize(
    "limit, logged, omitted", [(0, [], [4]), (1, [1], [3]), (4, [1, 2, 3, 4], [])]
)
@pytest.mark.usefixtures("period")
async def test_steps_are_logged_as_far_as_wanted(
    client: MakeClient,
    log_entries: list[EventDict],
    limit: int,
    logged: list[int],
    omitted: list[int],
) -> None:
    """Beyond `steps_per_refresh` messages, the log says how many it leaves out."""
    await get(await client(logging={"steps_per_refresh": limit}))

    by_event: dict[str, list[EventDict]] = {}
    for entry in log_entries:
        by_event.setdefault(entry["event"], []).append(entry)
    rated_ids = [e["message_id"] for e in by_event.get("credits.rated", [])]
    stepped = dict.fromkeys(e["message_id"] for e in by_event.get("credits.step", []))
    assert rated_ids == list(stepped) == logged
    counts = [e["messages"] for e in by_event.get("credits.steps_omitted", [])]
    assert counts == omitted


# --- the line on standard output ----------------------------------------------------


def render(**entry: object) -> bytes:
    return logs.render_json(None, "info", dict(entry))


def test_a_line_to_the_byte() -> None:
    """Time, level and name come first; the rest as it was logged, as compact JSON."""
    line = render(
        message_id=7,
        level="info",
        text="naïve\n",
        timestamp="2024-04-29T03:25:03.613Z",
        event="credits.rated",
        **{"url.path": "/usage", "cache": None},
    )

    assert line == (
        b'{"timestamp":"2024-04-29T03:25:03.613Z","level":"info",'
        b'"event":"credits.rated","message_id":7,"text":"na\xc3\xafve\\n",'
        b'"url.path":"/usage","cache":null}'
    )


class Odd:
    """A value that JSON does not know."""

    def __str__(self) -> str:
        return "an odd value"


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value, shown",
    [
        (Odd(), "an odd value"),
        (ValueError("no"), "no"),
        (Path("/tmp"), "/tmp"),  # noqa: S108
        (1j, "1j"),
        ([Odd()], ["an odd value"]),
        ("\ud83c", "'\\ud83c'"),
        ({(1, 2): "x"}, {"(1, 2)": "x"}),
        (CYCLE, "[[...]]"),
        (float("nan"), None),
        (10**30, 10**30),
    ],
    ids=[
        "object",
        "error",
        "path",
        "complex",
        "list",
        "half",
        "key",
        "cycle",
        "NaN",
        "huge",
    ],
)
def test_a_value_without_json_becomes_a_string(value: object, shown: object) -> None:
    """No value keeps a line from being written, and the others in it stay sound."""
    line = json.loads(render(event="test", odd=value, sound="näh"))

    assert line["odd"] == shown
    assert line["sound"] == "näh"


def lines_of(written: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.splitlines()]


def test_a_logged_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """What is logged comes out on standard output, stamped in UTC, with its context."""
    logs.configure("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="some-id"):
        structlog.get_logger().info("test.event", value="two\nlines")

    (line,) = lines_of(capsys.readouterr().out)
    assert TIMESTAMP.fullmatch(line["timestamp"])
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert {k: v for k, v in line.items() if k != "timestamp"} == {
        "level": "info",
        "event": "test.event",
        "value": "two\nlines",
        "request_id": "some-id",
    }


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A trace is one value of the line that tells of it."""
    logs.configure("info", "json")
    try:
        raise KeyError("lost")
    except KeyError as error:
        structlog.get_logger().error("http.error", exc_info=error)

    (line,) = lines_of(capsys.readouterr().out)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("KeyError: 'lost'")
    assert "exc_info" not in line


@pytest.mark.parametrize(
    "level, written",
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_less_than_the_level_is_not_written(
    capsys: pytest.CaptureFixture[str], level: str, written: list[str]
) -> None:
    """Each level lets through itself and what is more urgent."""
    logs.configure(level, "json")
    log = structlog.get_logger()
    for each in ("debug", "info", "warning", "error"):
        getattr(log, each)("test.event")

    assert [line["level"] for line in lines_of(capsys.readouterr().out)] == written


def test_stdlib_records_join_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A library's warning is a JSON line like any other, in its place among ours."""
    logs.configure("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="some-id"):
        structlog.get_logger().info("test.before")
        logging.getLogger("a.library").warning("%d of %s", 3, "four")
        logging.getLogger("a.library").info("not worth a line")
        structlog.get_logger().info("test.after")

    before, joined, after = lines_of(capsys.readouterr().out)
    assert [before["event"], after["event"]] == ["test.before", "test.after"]
    assert TIMESTAMP.fullmatch(joined.pop("timestamp"))
    assert joined == {
        "level": "warning",
        "event": "3 of four",
        "logger": "a.library",
        "request_id": "some-id",
    }


def test_a_stdlib_exception_joins_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Its trace is a value of the line."""
    logs.configure("error", "json")
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("aiohttp.server").exception("Error handling request")

    (line,) = lines_of(capsys.readouterr().out)
    assert line["logger"] == "aiohttp.server"
    assert line["exception"].endswith("KeyError: 'lost'")


def test_people_get_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The console form names the event and its values, for our lines and others'."""
    logs.configure("info", "console")
    structlog.get_logger().info("test.event", value=7)
    logging.getLogger("a.library").warning("look out")

    ours, others = capsys.readouterr().out.splitlines()
    assert "test.event" in ours
    assert not ours.startswith("{")
    assert "look out" in others


@pytest.mark.parametrize(
    "form, is_terminal, expected",
    [
        ("auto", True, True),
        ("auto", False, False),
        ("json", True, False),
        ("console", False, True),
    ],
)
def test_the_form_follows_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    form: logs.Format,
    is_terminal: object,
    expected: object,
) -> None:
    """ "auto" is for people on a terminal, and JSON anywhere else."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    assert logs.is_console(form) is expected


# --- the documented table -----------------------------------------------------------


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
    """The events that a call logs: constants, given to what is named like a log."""
    name = called_name(call)
    is_log = name in {*LEVELS, "write", "log_once"} or "_log" in name
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


def test_the_table_tells_the_levels_of_the_code() -> None:
    """Where the code names a level, the table does."""
    events = documented_events()
    calls = [(event, name) for event, name in logging_calls() if name in LEVELS]

    assert calls
    assert [call for call in calls if call[1] not in events[call[0]].levels] == []


async def play_everything(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Make every event happen."""
    no_waits = {"timeout_s": 5.0, "attempts": 2}
    await get(await client(logging={"steps_per_refresh": 2}))
    sandbox.sandbox.faults = Faults(reset=1, path="/reports")
    await get(await client(upstream=no_waits))
    await play_the_circuit(client, sandbox)
    sandbox.sandbox.faults = Faults()
    knowing = await client(cache={"report_ttl_s": 60.0, "missing_report_ttl_s": 60.0})
    await get(knowing)
    await get(knowing)
    await play_shrinking(client, sandbox)
    await play_sharing(client, sandbox, monkeypatch)
    await play_a_stopped_worker(client, monkeypatch)
    await play_connections()
    await play_events(client, tmp_path, monkeypatch)
    await play_vehicles(client, sandbox, tmp_path, monkeypatch)
    log_start("http://127.0.0.1:8000")
    workers.note_start(Mock(pid=1))
    workers.note_exit(Mock(), Mock(pid=1))
    monkeypatch.setattr(SnapshotCache, "view", None)
    await get(await client())


async def play_the_circuit(client: MakeClient, sandbox: RunningSandbox) -> None:
    """One failure opens it; the next call finds its time over, and closes it."""
    sandbox.sandbox.faults = always("server_error", times=1)
    breaker = {"minimum_calls": 1, "half_open_calls": 1, "open_s": 1e-9}
    service = await client(breaker=breaker, upstream={"attempts": 1})
    await get(service)
    await get(service)
    sandbox.sandbox.faults = Faults(server_error=1)
    await get(await client(upstream={"retry_floor": 0, "retry_rate": 0.0}))


async def play_connections() -> None:
    """One caller sends what is no request, another does not end what is one."""
    server = replace(load().settings.server, port=0, drain_s=0.0, header_timeout_s=0.2)
    async with listening(web.Application(), server) as url:
        for sent in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection(*url[7:].split(":"))
            writer.write(sent)
            await reader.read()
            writer.close()
            await writer.wait_closed()


async def play_events(
    client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event fails, is replayed and removed; then the database is away."""
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/events.db")
    async with open_database(storage) as database:
        key = await add_key(database, "shop")
        own = {"url": storage.url}
        headers = {"X-API-Key": key}
        strange = event(category="strange")
        options = {"enabled": True, "unknown_types": "fail"}
        strict = await client(events=options, storage=own)
        await strict.post("/events", json=strange, headers=headers)
        mended = await client(events={"enabled": True}, storage=own)
        failed = await (await mended.get("/events/failed", headers=headers)).json()
        failed_id = failed["failed"][0]["id"]
        await mended.post(f"/events/failed/{failed_id}/replay", headers=headers)
        kept = replace(load().settings.events, retention_s=1e-6)
        await Retention(kept, database).remove()
        away = Mock(side_effect=StorageUnavailable("away"))
        monkeypatch.setattr(Database, "writing", away)
        url = str(mended.make_url("/"))
        await play_client(EventsClient(url, key, close_timeout_s=0.3))
        upset = Mock(side_effect=ZeroDivisionError)
        await play_client(
            EventsClient(url, key, close_timeout_s=0, on_undelivered=upset)
        )
        await play_retention(Retention(kept, database), away)
    monkeypatch.undo()


async def play_vehicles(
    client: MakeClient,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """VINs are decoded and not, not kept, removed, exported; then vPIC is away."""
    storage = {"url": f"sqlite+aiosqlite:///{tmp_path}/vehicles.db"}
    monkeypatch.setattr("ultravin.decode", Mock(side_effect=ZeroDivisionError))
    vehicles = {"enabled": True, "offline": True}
    service = await client(vehicles=vehicles, storage=storage)
    known, unknown = "1XPWD40X1ED215307", "12345678901234567"
    await service.get("/vehicles/lookup", params={"vin": unknown})
    with monkeypatch.context() as patched:
        away = Mock(side_effect=StorageUnavailable("away"))
        patched.setattr(Database, "writing", away)
        await service.get("/vehicles/lookup", params={"vin": known})
    await service.delete("/vehicles/remove", params={"vin": known})
    await get(service, "/vehicles/export")
    with monkeypatch.context() as patched:
        patched.setattr("service.vehicles.export.COMMAND", (str(tmp_path / "missing"),))
        await get(service, "/vehicles/export")
    sandbox.sandbox.faults = always("forbidden")
    await service.get("/vehicles/lookup", params={"vin": known})
    sandbox.sandbox.faults = Faults()


async def play_client(sender: EventsClient) -> None:
    """It cannot deliver what it was given."""
    async with sender:
        await sender.send("page interaction", "pageview", {}, session_id="1")


async def play_retention(retention: Retention, away: Mock) -> None:
    """It is its time, but the database is away."""
    away.reset_mock()
    removing = asyncio.create_task(retention.run())
    async with asyncio.timeout(GIVE_UP_S):
        while not away.called:  # noqa: ASYNC110 - a failure sets no event
            await asyncio.sleep(0)
    removing.cancel()
    await asyncio.wait([removing])


async def play_shrinking(client: MakeClient, sandbox: RunningSandbox) -> None:
    """Upstream loses all messages."""
    service = await client(cache={"stale_if_error_s": 60.0})
    await get(service)
    period = sandbox.sandbox.period
    sandbox.sandbox.set_messages([])
    await get(service)
    sandbox.sandbox.period = period


async def play_a_stopped_worker(
    client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that has the columns stops while a query waits for it."""
    others = child_pids()
    service = await client(usage={"own_process_bytes": 1}, cache={"ttl_s": 60.0})
    await get(service)
    (child,) = child_pids() - others
    os.kill(child, signal.SIGSTOP)
    monkeypatch.setattr("service.usage.snapshots.worker.CHECK_AFTER_S", 0.01)
    monkeypatch.setattr("service.usage.snapshots.worker.PING_S", 0.01)
    await get(service, "/usage/1")
    monkeypatch.undo()


async def play_sharing(
    client: MakeClient, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A period is adopted from a Redis, which then is spoiled, refuses and goes."""
    double, sharing = RedisDouble(), {"redis_url": "redis://a.test", "ttl_s": 60.0}
    monkeypatch.setattr(redis.asyncio.Redis, "from_url", double.from_url)
    monkeypatch.setattr("service.storage.shared_store.PING_EVERY_S", 0.0)
    for _ in range(2):
        await get(await client(cache=sharing))
    await play_a_failure_elsewhere(client, sandbox, sharing)
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


async def play_a_failure_elsewhere(
    client: MakeClient, sandbox: RunningSandbox, sharing: dict[str, Any]
) -> None:
    """A process waits for the refresh of another one, which fails."""
    sandbox.sandbox.faults = always("server_error")
    services = [await client(cache={**sharing, "ttl_s": 0.0}) for _ in range(2)]
    await asyncio.gather(*(get(each) for each in services))
    sandbox.sandbox.faults = Faults()


async def test_the_table_tells_what_is_logged(
    client: MakeClient,
    period: RunningSandbox,
    log_entries: list[EventDict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every event happens with the levels and exactly the values of its row."""
    await play_everything(client, period, tmp_path, monkeypatch)

    seen: dict[str, Documented] = {}
    for entry in log_entries:
        row = seen.setdefault(entry["event"], Documented(set(), set()))
        row.levels.add(entry["log_level"])
        values = {"exception" if key == "exc_info" else key for key in entry}
        row.values.update(values - IN_EVERY_LINE)
    assert seen == documented_events()
