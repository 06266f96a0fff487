"""Reports: which ids are asked for, how they travel, and how settling ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import unquote

import msgspec
import pytest
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.upstream.client import open_client
from service.upstream.errors import ContractBroken, UnexpectedStatus
from service.usage.errors import ReportUnavailable
from service.usage.ledger import read_messages
from service.usage.model import Report
from service.usage.report_cache import ReportCache
from service.usage.reports import (
    MAX_KEY_CHARACTERS,
    OnReportError,
    Reports,
    Settled,
    log_invalid_id,
    report_key,
)
from tests.clock import LoopTime
from tests.conftest import Client, MakeClient, MakeSettings, always, message, report

ATTEMPTS = 2

Until = Callable[[Callable[[], bool]], Awaitable[None]]
OpenReports = Callable[..., AbstractAsyncContextManager[Reports]]

IDS = {
    "integer": 7,
    "zero": 0,
    "negative": -5,
    "beyond 64 bits": 10**30,
    "slash": "a/b",
    "leading slash": "/a",
    "backslash": "a\\b",
    "dot": ".",
    "two dots": "..",
    "climbing": "../../messages/current-period",
    "three dots": "...",
    "encoded dot": "%2e",
    "encoded dots": "%2e%2e",
    "encoded slash": "%2F",
    "lone percent": "100%",
    "bad escape": "%zz",
    "query": "?x=1",
    "fragment": "#x",
    "parameters": ";a=b&c",
    "space": "short lease",
    "space alone": " ",
    "plus": "a+b",
    "line feed": "a\r\nHost: elsewhere",
    "NUL": "a\0b",
    "umlaut": "Prüfung",
    "emoji": "🏠",
    "combining": "e\u0301",
    "scheme": "http://elsewhere/",
    "user": "@elsewhere",
    "colon": "a:b",
    "long": "x" * 2000,
}


@pytest.fixture
def open_reports(settings: MakeSettings, sandbox: RunningSandbox) -> OpenReports:
    """A factory of `Reports` that ask the sandbox."""

    @asynccontextmanager
    async def opened(
        concurrency: int = 8, on_error: OnReportError = "fail"
    ) -> AsyncIterator[Reports]:
        made = settings(
            upstream={
                "base_url": sandbox.url,
                "attempts": ATTEMPTS,
                "concurrency": concurrency,
            }
        )
        async with open_client(made) as client:
            cache = ReportCache(made.cache)
            yield Reports(client, cache, concurrency=concurrency, on_error=on_error)

    return opened


def settling_tasks() -> int:
    """Tasks of `settle` that are not done."""
    names = [getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()]
    return names.count("_settle_from")


# --- ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("report_id", IDS.values(), ids=IDS.keys())
async def test_an_id_cannot_change_the_path(
    open_reports: OpenReports, sandbox: RunningSandbox, report_id: int | str
) -> None:
    """On the wire an id is one segment after `/reports/`, and decodes to itself."""
    sandbox.sandbox.set_report(report_id, report(1, "Found", 61))
    body = msgspec.json.encode({"messages": [message(1, report_id=report_id)]})

    async with open_reports() as reports:
        settled = await reports.settle(read_messages(body).references.keys)

    (path,) = sandbox.sandbox.calls.elements()
    segment = path.removeprefix("/reports/")
    assert segment != path
    assert not set("/?#\\") & set(segment)
    assert segment not in {"", ".", ".."}
    assert unquote(segment) == str(report_id)
    assert settled == Settled({str(report_id): Report(1, "Found", 61)}, set())


@pytest.mark.parametrize(
    "report_id, key",
    [
        (7, "7"),
        ("7", "7"),
        ("007", "007"),
        (0, "0"),
        (-1, "-1"),
        ("x", "x"),
        (" ", " "),
        ("", None),
        (None, None),
        (True, None),
        (False, None),
        (1.0, None),
        ([], None),
        ([7], None),
        ({}, None),
        ("x" * MAX_KEY_CHARACTERS, "x" * MAX_KEY_CHARACTERS),
        ("x" * (MAX_KEY_CHARACTERS + 1), None),
        (10**MAX_KEY_CHARACTERS, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_usable_ids_are_integers_and_strings_of_something(
    report_id: object, key: str | None
) -> None:
    """An integer and its digits are the same report; all else is no id."""
    assert report_key(report_id) == key


async def test_an_unusable_id_is_never_sent(
    client: MakeClient, sandbox: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """Messages with such ids are priced by text, and the log shows each id."""
    ids: list[object] = [None, True, 1.5, "", {"a": [10**30]}, [None]]
    sandbox.sandbox.set_messages([message(n, report_id=i) for n, i in enumerate(ids)])

    answer = await get_usage(await client())

    assert [item.get("report_name") for item in answer] == [None] * len(ids)
    assert list(sandbox.sandbox.calls) == ["/messages/current-period"]
    logged = [e for e in log_entries if e["event"] == "report.invalid_id"]
    assert [entry["report_id"] for entry in logged] == [
        *["null", "true", "1.5", '""'],
        '{"a":[1000000000000000000000000000000]}',
        "[null]",
    ]


async def get_usage(client: Client) -> list[dict[str, object]]:
    response = await client.get("/usage")
    items: list[dict[str, object]] = (await response.json())["usage"]
    return items


async def test_a_long_unusable_id_is_cut_in_the_log(
    log_entries: list[EventDict],
) -> None:
    """What upstream sends cannot make a line of any length."""
    log_invalid_id(["x" * 5000])

    assert log_entries == [
        {
            "event": "report.invalid_id",
            "log_level": "info",
            "report_id": '["' + "x" * 98,
            "attempts": 0,
            "cached": False,
        }
    ]


# --- settling -----------------------------------------------------------------------


async def test_a_report_is_asked_for_once(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """However many messages name it, and whether as a number or as its digits."""
    ids: list[object] = [7, "7", 9] * 20
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages([message(n, report_id=i) for n, i in enumerate(ids)])

    answer = await get_usage(await client())

    assert sandbox.sandbox.calls == {
        "/messages/current-period": 1,
        "/reports/7": 1,
        "/reports/9": 1,
    }
    names = [item.get("report_name") for item in answer]
    assert names == ["Short Lease Report", "Short Lease Report", None] * 20


async def test_nothing_to_settle(
    open_reports: OpenReports, sandbox: RunningSandbox
) -> None:
    """A period without reports asks for none."""
    async with open_reports() as reports:
        assert await reports.settle([]) == Settled({}, set())

    assert not sandbox.sandbox.calls


async def test_settling_is_parallel_and_bounded(
    open_reports: OpenReports, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """As many reports are asked for at once as there are slots, never more."""
    sandbox.sandbox.options = msgspec.structs.replace(
        sandbox.sandbox.options, latency_ms=10_000
    )
    keys = [str(number) for number in range(20)]
    calls = sandbox.sandbox.calls

    async with (
        open_reports(concurrency=4) as reports,
        loop_time.passing(10.0, at_each=lambda: calls.total() // 4),
    ):
        settled = await reports.settle(keys)

    assert sandbox.sandbox.max_in_flight == 4
    assert list(settled.reports.values()) == [None] * 20
    assert settled.reports.keys() == set(keys)


async def test_tasks_are_bounded_too(
    open_reports: OpenReports, sandbox: RunningSandbox, until: Until
) -> None:
    """A period with thousands of reports does not make thousands of tasks."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with open_reports(concurrency=4) as reports:
        task = asyncio.create_task(reports.settle([str(n) for n in range(5000)]))
        await until(lambda: sandbox.sandbox.in_flight == 4)

        assert settling_tasks() == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_first_failure_stops_the_rest(
    open_reports: OpenReports, sandbox: RunningSandbox, until: Until
) -> None:
    """Requests on their way are broken off, and the others are never made."""
    sandbox.sandbox.set_report(1, b"{}")
    sandbox.sandbox.faults = always("hang", path="/reports/2")
    keys = [f"2{number}" for number in range(20)]

    async with open_reports(concurrency=3) as reports:
        with pytest.raises(ReportUnavailable) as raised:
            await reports.settle([*keys[:2], "1", *keys[2:]])
        assert settling_tasks() == 0

    assert isinstance(raised.value.__cause__, ContractBroken)
    assert sandbox.sandbox.calls.total() == 3
    await until(lambda: sandbox.sandbox.in_flight == 0)


async def test_a_caller_that_leaves_stops_all(
    open_reports: OpenReports, sandbox: RunningSandbox, until: Until
) -> None:
    """Cancelling leaves no task and no open request behind."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with open_reports(concurrency=3) as reports:
        task = asyncio.create_task(reports.settle([str(n) for n in range(9)]))
        await until(lambda: sandbox.sandbox.in_flight == 3)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert settling_tasks() == 0
        await until(lambda: sandbox.sandbox.in_flight == 0)
    assert sandbox.sandbox.calls.total() == 3


async def test_a_failure_carries_what_upstream_asked_for(
    open_reports: OpenReports, sandbox: RunningSandbox
) -> None:
    """The wish of the last try is there for the answer's own `Retry-After`."""
    sandbox.sandbox.faults = always("unavailable", retry_after="0")

    async with open_reports() as reports:
        with pytest.raises(ReportUnavailable) as raised:
            await reports.settle(["1"])

    assert raised.value.retry_after_s == 0
    assert isinstance(raised.value.__cause__, UnexpectedStatus)
    assert sandbox.sandbox.calls == {"/reports/1": ATTEMPTS}


@pytest.mark.parametrize(
    "fault, logged",
    [
        ("server_error", {"error.type": "500", "attempts": ATTEMPTS}),
        ("reset", {"error.type": "ConnectionDropped", "attempts": ATTEMPTS}),
        ("truncated", {"error.type": "MalformedBody", "attempts": ATTEMPTS}),
        ("missing_field", {"error.type": "ContractBroken", "attempts": 1}),
        ("wrong_type", {"error.type": "ContractBroken", "attempts": 1}),
        ("redirect", {"error.type": "302", "attempts": 1}),
    ],
)
async def test_where_text_may_stand_in_the_failed_are_told(
    open_reports: OpenReports,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    fault: str,
    logged: dict[str, object],
) -> None:
    """With "text", a failed report has no value, is remembered, and is logged."""
    sandbox.sandbox.set_report(1, report(1, "Lost", 5))
    sandbox.sandbox.set_report(2, report(2, "Found", 5))
    sandbox.sandbox.faults = always(fault, path="/reports/1")

    async with open_reports(concurrency=1, on_error="text") as reports:
        settled = await reports.settle(["1", "2", "3"])

    found = Report(2, "Found", 5)
    assert settled == Settled({"1": None, "2": found, "3": None}, {"1"})
    assert [e for e in log_entries if e["event"].startswith("report.")] == [
        {
            "event": "report.failed",
            "log_level": "warning",
            "report_id": "1",
            "cached": False,
            **logged,
        },
        {
            "event": "report.resolved",
            "log_level": "info",
            "report_id": "2",
            "attempts": 1,
            "cached": False,
        },
        {
            "event": "report.missing",
            "log_level": "info",
            "report_id": "3",
            "attempts": 1,
            "cached": False,
        },
    ]
