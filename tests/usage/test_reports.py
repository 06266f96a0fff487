"""Reports: how ids travel, how resolving them ends, and what the cache keeps."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.upstream.client import open_client
from service.upstream.errors import ContractBroken, UnexpectedStatus
from service.usage.errors import ReportUnavailable
from service.usage.reports import (
    OnReportError,
    Report,
    ReportCache,
    ReportResolver,
    Resolved,
    log_invalid_id,
)
from service.usage.snapshots.messages import read_messages
from tests.clock import Clock, LoopTime
from tests.conftest import Client, MakeClient, MakeSettings, always, message, report

ATTEMPTS = 2
LEASE = Report(7, "Short Lease Report", 61)
TENANTS = Report(8, "Tenant Obligations Report", 79)

Until = Callable[[Callable[[], bool]], Awaitable[None]]
OpenResolver = Callable[..., AbstractAsyncContextManager[ReportResolver]]

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
def open_resolver(settings: MakeSettings, sandbox: RunningSandbox) -> OpenResolver:
    """A factory of resolvers that ask the sandbox."""

    @asynccontextmanager
    async def opened(
        concurrency: int = 8, on_error: OnReportError = "fail"
    ) -> AsyncIterator[ReportResolver]:
        made = settings(
            upstream={
                "base_url": sandbox.url,
                "attempts": ATTEMPTS,
                "concurrency": concurrency,
            }
        )
        async with open_client(made.upstream, made.breaker) as client:
            cache = ReportCache(made.cache)
            yield ReportResolver(
                client, cache, concurrency=concurrency, on_error=on_error
            )

    return opened


def resolving_tasks() -> int:
    """Tasks of `resolve` that are not done."""
    names = [getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()]
    return names.count("_resolve_next")


# --- ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("report_id", IDS.values(), ids=IDS.keys())
async def test_an_id_cannot_change_the_path(
    open_resolver: OpenResolver, sandbox: RunningSandbox, report_id: int | str
) -> None:
    """On the wire an id is one segment after `/reports/`, and decodes to itself."""
    sandbox.sandbox.set_report(report_id, report(1, "Found", 61))
    body = msgspec.json.encode({"messages": [message(1, report_id=report_id)]})

    async with open_resolver() as resolver:
        resolved = await resolver.resolve(read_messages(body).report_keys)

    (path,) = sandbox.sandbox.calls.elements()
    segment = path.removeprefix("/reports/")
    assert segment != path
    assert not set("/?#\\") & set(segment)
    assert segment not in {"", ".", ".."}
    assert unquote(segment) == str(report_id)
    assert resolved == Resolved({str(report_id): Report(1, "Found", 61)}, set())


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


# --- resolving ----------------------------------------------------------------------


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


async def test_nothing_to_resolve(
    open_resolver: OpenResolver, sandbox: RunningSandbox
) -> None:
    """A period without reports asks for none."""
    async with open_resolver() as resolver:
        assert await resolver.resolve([]) == Resolved({}, set())

    assert not sandbox.sandbox.calls


async def test_resolving_is_parallel_and_bounded(
    open_resolver: OpenResolver, sandbox: RunningSandbox, loop_time: LoopTime
) -> None:
    """As many reports are asked for at once as there are slots, never more."""
    sandbox.sandbox.options = msgspec.structs.replace(
        sandbox.sandbox.options, latency_ms=10_000
    )
    keys = [str(number) for number in range(20)]
    calls = sandbox.sandbox.calls

    async with (
        open_resolver(concurrency=4) as resolver,
        loop_time.passing(10.0, at_each=lambda: calls.total() // 4),
    ):
        resolved = await resolver.resolve(keys)

    assert sandbox.sandbox.max_in_flight == 4
    assert list(resolved.reports.values()) == [None] * 20
    assert resolved.reports.keys() == set(keys)


async def test_tasks_are_bounded_too(
    open_resolver: OpenResolver, sandbox: RunningSandbox, until: Until
) -> None:
    """A period with thousands of reports does not make thousands of tasks."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with open_resolver(concurrency=4) as resolver:
        task = asyncio.create_task(resolver.resolve([str(n) for n in range(5000)]))
        await until(lambda: sandbox.sandbox.in_flight == 4)

        assert resolving_tasks() == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_first_failure_stops_the_rest(
    open_resolver: OpenResolver, sandbox: RunningSandbox, until: Until
) -> None:
    """Requests on their way are broken off, and the others are never made."""
    sandbox.sandbox.set_report(1, b"{}")
    sandbox.sandbox.faults = always("hang", path="/reports/2")
    keys = [f"2{number}" for number in range(20)]

    async with open_resolver(concurrency=3) as resolver:
        with pytest.raises(ReportUnavailable) as raised:
            await resolver.resolve([*keys[:2], "1", *keys[2:]])
        assert resolving_tasks() == 0

    assert isinstance(raised.value.__cause__, ContractBroken)
    assert sandbox.sandbox.calls.total() == 3
    await until(lambda: sandbox.sandbox.in_flight == 0)


async def test_a_caller_that_leaves_stops_all(
    open_resolver: OpenResolver, sandbox: RunningSandbox, until: Until
) -> None:
    """Cancelling leaves no task and no open request behind."""
    sandbox.sandbox.faults = Faults(hang=1)
    async with open_resolver(concurrency=3) as resolver:
        task = asyncio.create_task(resolver.resolve([str(n) for n in range(9)]))
        await until(lambda: sandbox.sandbox.in_flight == 3)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert resolving_tasks() == 0
        await until(lambda: sandbox.sandbox.in_flight == 0)
    assert sandbox.sandbox.calls.total() == 3


async def test_a_failure_carries_what_upstream_asked_for(
    open_resolver: OpenResolver, sandbox: RunningSandbox
) -> None:
    """The wish of the last try is there for the answer's own `Retry-After`."""
    sandbox.sandbox.faults = always("unavailable", retry_after="0")

    async with open_resolver() as resolver:
        with pytest.raises(ReportUnavailable) as raised:
            await resolver.resolve(["1"])

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
    open_resolver: OpenResolver,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    fault: str,
    logged: dict[str, object],
) -> None:
    """With "text", a failed report has no value, is remembered, and is logged."""
    sandbox.sandbox.set_report(1, report(1, "Lost", 5))
    sandbox.sandbox.set_report(2, report(2, "Found", 5))
    sandbox.sandbox.faults = always(fault, path="/reports/1")

    async with open_resolver(concurrency=1, on_error="text") as resolver:
        resolved = await resolver.resolve(["1", "2", "3"])

    found = Report(2, "Found", 5)
    assert resolved == Resolved({"1": None, "2": found, "3": None}, {"1"})
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


# --- the cache ----------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(settings: MakeSettings, clock: Clock) -> ReportCache:
    """Three entries; reports live for 100 s, their absence for 10 s."""
    times: dict[str, Any] = {"report_ttl_s": 100.0, "missing_report_ttl_s": 10.0}
    return ReportCache(settings(cache={**times, "max_reports": 3}).cache, clock)


def test_an_unknown_key_has_no_report(cache: ReportCache) -> None:
    """An empty cache makes nothing up."""
    assert cache.young("7") is None
    assert cache.last_known("7") is None
    assert len(cache) == 0


@pytest.mark.parametrize(
    "report, ttl_s", [(LEASE, 100), (None, 10)], ids=["report", "absence"]
)
def test_an_entry_is_young_for_its_own_time(
    cache: ReportCache, clock: Clock, report: Report | None, ttl_s: float
) -> None:
    """A report is believed for one time, its absence for another, to the moment."""
    cache.put("7", report)

    clock.pass_s(ttl_s - 0.001)
    entry = cache.young("7")
    assert entry is not None
    assert entry.report is report
    clock.pass_s(0.001)
    assert cache.young("7") is None


def test_an_old_report_is_still_the_last_known(
    cache: ReportCache, clock: Clock
) -> None:
    """Age takes nothing from the copy that stands in when upstream fails."""
    cache.put("7", LEASE)
    clock.pass_s(1e9)

    assert cache.young("7") is None
    assert cache.last_known("7") is LEASE


def test_a_report_that_is_gone_has_no_good_copy(cache: ReportCache) -> None:
    """Once upstream has said that there is none, the old price is not used again."""
    cache.put("7", LEASE)
    cache.put("7", None)

    assert cache.last_known("7") is None


def test_reading_does_not_make_it_younger(cache: ReportCache, clock: Clock) -> None:
    """However often it is used, an entry is asked for anew when its time is up."""
    cache.put("7", LEASE)
    for _ in range(10):
        assert cache.young("7")
        clock.pass_s(10)

    assert cache.young("7") is None


def test_a_new_answer_makes_it_young_again(cache: ReportCache, clock: Clock) -> None:
    """A new answer of upstream counts from now."""
    cache.put("7", LEASE)
    clock.pass_s(100)
    cache.put("7", TENANTS)

    entry = cache.young("7")
    assert entry is not None
    assert entry.report is TENANTS


def test_the_longest_unused_goes_first(cache: ReportCache) -> None:
    """Above `max_reports`, the entry that was used longest ago makes room."""
    for key in ("a", "b", "c"):
        cache.put(key, LEASE)
    assert cache.young("a")
    cache.put("b", TENANTS)

    cache.put("d", LEASE)
    assert [key for key in "abcd" if cache.last_known(key)] == ["a", "b", "d"]
    cache.put("e", LEASE)
    assert [key for key in "abcde" if cache.last_known(key)] == ["b", "d", "e"]
    assert len(cache) == 3
