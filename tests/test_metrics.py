"""Metrics: what is counted, over one process or many, and the documented table.

Counts are of the whole process, so tests compare them before and after.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.serving import listening
from service.upstream.breaker import State
from service.usage.errors import RefreshFailed
from tests.conftest import MakeClient, MakeSettings, always, message, report
from tests.patience import GIVE_UP_S

PAGE: Final = Path(__file__).parents[1] / "docs" / "metrics.md"
ROW: Final = re.compile(r"\| `(\w+)` \| (\w+) \|(.*?)\|.*?\| .+ \|")
DURATION: Final = "http_server_request_duration_seconds"
TRY: Final = "http_client_request_duration_seconds"
RETRIES: Final = "copilot_usage_upstream_retries_total"
REFRESH: Final = "copilot_usage_refresh_duration_seconds"
PLAN: Final = {"usage_plan": "text-rules/1"}

Read = Callable[..., float]


class Sample(NamedTuple):
    """One line of the text form."""

    name: str
    labels: dict[str, str]
    value: float


def samples() -> Iterator[Sample]:
    """Every sample that is told now."""
    body, _ = metrics.expose("")
    for family in text_string_to_metric_families(body.decode()):
        for each in family.samples:
            yield Sample(each.name, each.labels, each.value)


def value(name: str, **labels: str) -> float:
    """The value of a sample now; 0 where there is none yet."""
    found = (each.value for each in samples() if each[:2] == (name, labels))
    return next(found, 0.0)


@pytest.fixture
def added() -> Read:
    """How much a sample has grown since the test began."""
    before = {(each.name, str(sorted(each.labels.items()))): each for each in samples()}

    def read(name: str, **labels: str) -> float:
        known = before.get((name, str(sorted(labels.items()))))
        return value(name, **labels) - (known.value if known else 0.0)

    return read


# --- requests -----------------------------------------------------------------------


def labels_of(route: str, status: str, method: str = "GET") -> dict[str, str]:
    return {
        "http_request_method": method,
        "http_route": route,
        "http_response_status_code": status,
    }


async def test_requests_are_counted_by_how_they_were_answered(added: Read) -> None:
    """Each counts once, in the bucket of its duration and all above."""
    for duration_s in (0.2, 0.0001, 0.005, 0.0051, 100.0):
        metrics.request_answered("GET", "/some", 200, duration_s)
    metrics.request_answered("GET", "/some", 503, 0.0)

    fine = labels_of("/some", "200")
    counts = {
        bound: added(f"{DURATION}_bucket", **fine, le=bound)
        for bound in ("0.005", "0.01", "0.1", "0.25", "10.0", "+Inf")
    }
    assert counts == {
        "0.005": 2,
        "0.01": 3,
        "0.1": 3,
        "0.25": 4,
        "10.0": 4,
        "+Inf": 5,
    }
    assert added(f"{DURATION}_count", **fine) == 5
    assert added(f"{DURATION}_sum", **fine) == pytest.approx(100.2102)
    assert added(f"{DURATION}_count", **labels_of("/some", "503")) == 1


def test_buckets_are_those_that_opentelemetry_advises() -> None:
    """Dashboards made for any service fit ours."""
    advised = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1]
    assert list(metrics.HTTP_BUCKETS_S) == [*advised, 2.5, 5, 7.5, 10]


async def test_strangers_share_their_labels(added: Read) -> None:
    """No caller can make a new series: unknown methods and paths count as one."""
    for method in ("BREW", "GETT", "get", "x" * 1000):
        metrics.request_answered(method, None, 404, 0.1)
        metrics.request_started(method)
        metrics.request_ended(method)

    strange = labels_of("_OTHER", "404", "_OTHER")
    assert added(f"{DURATION}_count", **strange) == 4
    methods = {each.labels.get("http_request_method") for each in samples()}
    assert methods <= metrics.METHODS | {"_OTHER", None}


@pytest.mark.parametrize("result", ["hit", "stale", "miss"])
async def test_cache_results_are_counted_with_the_request(
    added: Read, result: str
) -> None:
    """An answer that came from the cache, or could have, counts there too."""
    metrics.request_answered("GET", "/usage", 200, 0.1, result)
    metrics.request_answered("GET", "/usage", 200, 0.1, result)
    metrics.request_answered("GET", "/health/live", 200, 0.1)

    assert added("copilot_usage_cache_results_total", result=result) == 2


async def test_requests_are_written_down_without_a_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another worker may be the one that is scraped: nothing waits for that."""
    flushed = asyncio.Event()
    flush = metrics.flush

    def note() -> None:
        flush()
        flushed.set()

    monkeypatch.setattr(metrics, "FLUSH_AFTER_S", 0.0)
    monkeypatch.setattr(metrics, "flush", note)
    note()
    flushed.clear()
    metrics.request_answered("GET", "/some", 200, 0.1)

    await asyncio.wait_for(flushed.wait(), GIVE_UP_S)


def test_without_a_loop_requests_are_written_down_at_once(
    monkeypatch: pytest.MonkeyPatch, added: Read
) -> None:
    """Where nothing could write them down later, they are not kept back."""
    metrics.request_answered("GET", "/some", 200, 0.1)

    monkeypatch.setattr(metrics, "flush", lambda: None)
    assert added(f"{DURATION}_count", **labels_of("/some", "200")) == 1


def test_active_requests_come_and_go(added: Read) -> None:
    """The gauge tells how many have started and not ended."""
    metrics.request_started("GET")
    metrics.request_started("GET")
    metrics.request_ended("GET")
    active = added("http_server_active_requests", http_request_method="GET")
    metrics.request_ended("GET")

    assert active == 1
    assert added("http_server_active_requests", http_request_method="GET") == 0


# --- the application ----------------------------------------------------------------


async def test_every_answer_counts_whichever_way_it_goes(
    settings: MakeSettings, sandbox: RunningSandbox, added: Read
) -> None:
    """Held answers, which skip most of the service, problems and strange paths too."""
    ours = settings(
        server={"port": 0},
        upstream={"base_url": sandbox.url},
        cache={"ttl_s": 60.0},
    )
    sandbox.sandbox.set_messages([message(1)])
    async with listening(create_app(ours), ours.server) as url, ClientSession() as http:
        for path in ("/usage", "/usage", "/usage", "/usage?limit=0", "/no/such/path"):
            async with http.get(url + path) as answer:
                await answer.read()

    told = {
        (route, status): added(f"{DURATION}_count", **labels_of(route, status))
        for route, status in (("/usage", "200"), ("/usage", "400"), ("_OTHER", "404"))
    }
    assert told == {("/usage", "200"): 3, ("/usage", "400"): 1, ("_OTHER", "404"): 1}
    results = "copilot_usage_cache_results_total"
    assert [added(results, result=each) for each in ("miss", "hit")] == [1, 2]
    assert value("http_server_active_requests", http_request_method="GET") == 0


async def test_a_refresh_tells_of_the_period(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """Messages, credits, reports, age and duration are those of what was fetched."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(
        [message(1, report_id=7), message(2, "a"), message(3, report_id=8)]
    )
    service = await client(cache={"ttl_s": 60.0, "report_ttl_s": 60.0})

    assert (await service.get("/usage")).status == 200

    assert value("copilot_usage_period_messages", **PLAN) == 3
    assert value("copilot_usage_period_credits", **PLAN) == pytest.approx(61 + 2 + 1)
    assert value("copilot_usage_reports_held") == 2
    assert value("copilot_usage_refreshes_in_progress") == 0
    assert added(f"{REFRESH}_count", outcome="success") == 1
    fetched_at = value(metrics.FETCHED_AT, **PLAN)
    assert fetched_at > 1_700_000_000
    assert 0 <= value(metrics.AGE, **PLAN) <= time.time() - fetched_at


async def test_the_age_is_computed_at_the_scrape() -> None:
    """It grows by itself, without anybody asking for the period."""
    metrics.snapshot_cached("text-rules/1", 3, 4.5, 1000)

    assert 1000 <= value(metrics.AGE, **PLAN) < 1000 + 60
    metrics.snapshot_cached("text-rules/1", 3, 4.5, 0)
    assert 0 <= value(metrics.AGE, **PLAN) < 60


async def test_a_failed_refresh_is_counted_by_its_error(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """The outcome is the class of what the log calls `error.type`."""
    sandbox.sandbox.faults = always("not_found")

    assert (await (await client()).get("/usage")).status == 503

    assert added(f"{REFRESH}_count", outcome="MessagesUnavailable") == 1
    assert value("copilot_usage_refreshes_in_progress") == 0


async def test_refreshing_counts_however_it_ends(added: Read) -> None:
    """A mistake of ours and a cancellation are outcomes as well."""
    clock = iter([0.0, 2.0, 0.0, 20.0]).__next__
    for error in (RefreshFailed("no"), asyncio.CancelledError()):
        with pytest.raises(type(error)), metrics.refreshing(clock):
            raise error

    assert added(f"{REFRESH}_sum", outcome="RefreshFailed") == 2
    assert added(f"{REFRESH}_sum", outcome="CancelledError") == 20
    assert added("copilot_usage_refreshes_in_progress") == 0


async def test_tries_are_counted_by_template_and_outcome(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """A status is an outcome; ids of reports are in no label."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages([message(1, report_id=7), message(2, report_id="x")])

    assert (await (await client()).get("/usage")).status == 200

    told = {
        (template, outcome): added(
            f"{TRY}_count",
            http_request_method="GET",
            url_template=template,
            outcome=outcome,
        )
        for template, outcome in (
            ("/messages/current-period", "200"),
            ("/reports/{id}", "200"),
            ("/reports/{id}", "404"),
        )
    }
    assert set(told.values()) == {1}
    ids = {"http_request_method": "GET", "url_template": "/reports/7"}
    assert added(f"{TRY}_count", **ids, outcome="200") == 0


@pytest.mark.parametrize(
    "fault, outcome",
    [
        ("server_error", "500"),
        ("reset", "ConnectionDropped"),
        ("truncated", "MalformedBody"),
    ],
)
async def test_retries_are_counted_by_their_reason(
    client: MakeClient,
    sandbox: RunningSandbox,
    added: Read,
    fault: str,
    outcome: str,
) -> None:
    """Every try counts, and every repetition with what had gone wrong."""
    sandbox.sandbox.faults = always(fault)

    await (await client(upstream={"attempts": 3})).get("/usage")

    tried = {"http_request_method": "GET", "url_template": "/messages/current-period"}
    assert added(f"{TRY}_count", **tried, outcome=outcome) == 3
    assert (
        added(
            "copilot_usage_upstream_retries_total", upstream="copilot", reason=outcome
        )
        == 2
    )


async def test_refused_retries_are_counted(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """A spent budget is seen as such."""
    sandbox.sandbox.faults = always("server_error")

    upstream = {"attempts": 3, "retry_floor": 1, "retry_rate": 0.0}
    await (await client(upstream=upstream)).get("/usage")

    refused = "copilot_usage_upstream_retries_refused_total"
    assert added(refused, upstream="copilot", reason="budget") == 1
    assert (
        added("copilot_usage_upstream_retries_total", upstream="copilot", reason="500")
        == 1
    )


async def test_the_state_of_the_circuit_is_told(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """It is closed from the start, and open as soon as it opens."""

    def states() -> dict[str, float]:
        name = "copilot_usage_upstream_breaker_state"
        return {each: value(name, upstream="copilot", state=each) for each in State}

    sandbox.sandbox.faults = always("server_error")
    breaker = {"window_calls": 2, "minimum_calls": 2}
    service = await client(breaker=breaker, upstream={"attempts": 2})
    assert states() == {"closed": 1, "open": 0, "half_open": 0}

    await service.get("/usage")

    assert states() == {"closed": 0, "open": 1, "half_open": 0}


def test_the_states_are_those_of_the_circuit() -> None:
    """The metric knows each state that a circuit can be in."""
    assert list(State) == list(metrics.BREAKER_STATES)


# --- many workers -------------------------------------------------------------------

WORKERS: Final = """
import json, os, sys
from prometheus_client.parser import text_string_to_metric_families
from service import metrics

def tell():
    return {
        f"{each.name} {sorted(each.labels.values())}": each.value
        for family in text_string_to_metric_families(metrics.expose("")[0].decode())
        for each in family.samples
    }

def work(age_s, messages, answered):
    metrics.request_started("GET")
    for _ in range(answered):
        metrics.request_answered("GET", "/usage", 200, 0.1, "hit")
    metrics.breaker_changed("copilot", "open")
    metrics.snapshot_cached("some-plan", messages, 2.5, age_s)
    metrics.reports_cached(messages)
    metrics.flush()

def forked(*args):
    pid = os.fork()
    if not pid:
        work(*args)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return pid

metrics.prepare_workers()
folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
before = tell()
first, second = forked(1000, 7, 3), forked(10, 5, 4)
alive = tell()
metrics.child_exited(first)
left = tell()
metrics.child_exited(second)
print(json.dumps([folder, before, alive, left, tell()]))
"""


def run_workers(**environment: str) -> list[dict[str, float]]:
    """What is told before, with both workers, after the first, after both."""
    ran = subprocess.run(  # noqa: S603 - it runs this interpreter
        [sys.executable, "-c", WORKERS],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    assert ran.stderr == b""
    folder, *told = json.loads(ran.stdout)
    assert Path(folder).exists() == bool(environment)
    return list(told)


@pytest.mark.parametrize("where", ["given", "made"])
def test_many_workers_are_told_of_together(tmp_path: Path, where: str) -> None:
    """Counts add up; gauges follow those that live; the oldest period has the age.

    The folder may be given, and then what an earlier run left in it does not count.
    """
    given = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    if where == "given":
        run_workers(**given)
    before, alive, left, none = run_workers(**(given if where == "given" else {}))

    count = "http_server_request_duration_seconds_count ['/usage', '200', 'GET']"
    active = "http_server_active_requests ['GET']"
    age = "copilot_usage_held_age_seconds ['some-plan']"
    opened = "copilot_usage_upstream_breaker_state ['copilot', 'open']"
    messages = "copilot_usage_period_messages ['some-plan']"
    hits = "copilot_usage_cache_results_total ['hit']"
    assert not {count, active, age, opened, messages, hits} & before.keys()
    assert [alive[count], left[count], none[count]] == [7, 7, 7]
    assert [alive[hits], left[hits], none[hits]] == [7, 7, 7]
    assert [alive[active], left[active]] == [2, 1]
    assert [alive[opened], left[opened]] == [2, 1]
    assert active not in none
    assert 1000 <= alive[age] < 1000 + 60
    assert 10 <= left[age] < 10 + 60
    assert age not in none
    assert alive[messages] == 5
    assert alive["copilot_usage_reports_held []"] == 7
    builds = [name for name in alive if name.startswith("copilot_usage_build_info")]
    assert [alive[name] for name in builds] == [1]


def test_one_process_has_no_files(tmp_path: Path) -> None:
    """Without workers nothing is prepared, and a worker's end is no matter."""
    metrics.child_exited(1)

    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    assert list(tmp_path.iterdir()) == []


# --- events -------------------------------------------------------------------------


def test_events_are_counted_by_what_became_of_them(added: Read) -> None:
    """Each result and each error code by itself, over requests."""
    metrics.events_received({"accepted": 2, "failed": 1}, ["missing", "missing"])
    metrics.events_received({"accepted": 1, "conflict": 1}, ["conflict"])
    metrics.event_replayed("accepted")
    metrics.events_removed(7)

    events = "copilot_usage_events"
    results = {"accepted": 3, "failed": 1, "conflict": 1, "duplicate": 0}
    for result, number in results.items():
        assert added(f"{events}_total", result=result) == number
    assert added(f"{events}_errors_total", code="missing") == 2
    assert added(f"{events}_errors_total", code="conflict") == 1
    assert added(f"{events}_replayed_total", result="accepted") == 1
    assert added(f"{events}_removed_total") == 7


def test_commits_and_the_backlog_are_measured(added: Read) -> None:
    """A commit counts under its outcome, the backlog is what it was last."""
    metrics.commit_ended(metrics.SUCCESS, 0.004)
    metrics.commit_ended("StorageUnavailable", 5.0)
    metrics.backlog_changed(12)

    commit = "copilot_usage_events_commit_duration_seconds"
    assert added(f"{commit}_count", outcome="success") == 1
    assert added(f"{commit}_sum", outcome="success") == pytest.approx(0.004)
    assert added(f"{commit}_count", outcome="StorageUnavailable") == 1
    assert value("copilot_usage_events_backlog") == 12
    metrics.backlog_changed(0)


# --- the documented table -----------------------------------------------------------


class Documented(NamedTuple):
    """A row of the table, or the same of the code."""

    kind: str
    labels: frozenset[str]


def documented() -> dict[str, Documented]:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {
        name: Documented(kind, frozenset(re.findall("`(.+?)`", labels)))
        for name, kind, labels in rows
    }


def defined() -> dict[str, Documented]:
    """Every metric of the code but the library's own, with the labels it is told by."""
    found = {}
    body, _ = metrics.expose("")
    for family in text_string_to_metric_families(body.decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for each in family.samples for label in each.labels}
        if not name.startswith("process_"):
            found[name] = Documented(family.type, frozenset(labels - {"le"}))
    return found


def test_the_table_lists_the_metrics_of_the_code() -> None:
    """Each metric is documented with its type and labels, and no other is."""
    metrics.request_answered("GET", "/usage", 200, 0.1, "hit")
    metrics.request_started("GET")
    metrics.request_ended("GET")
    metrics.try_ended("GET", "/", "200", 0.1)
    metrics.retried("copilot", "500")
    metrics.retry_refused("copilot", "budget")
    metrics.breaker_changed("copilot", "closed")
    metrics.snapshot_cached("text-rules/1", 1, 1.0, 0.0)
    metrics.messages_shrunk("unconfirmed")
    with metrics.refreshing(lambda: 0.0):
        pass
    metrics.events_received({"accepted": 1}, ["schema"])
    metrics.event_replayed("accepted")
    metrics.events_removed(1)
    metrics.commit_ended(metrics.SUCCESS, 0.1)
    metrics.backlog_changed(0)
    metrics.vehicle_removed(was_kept=True)
    metrics.export_ended(metrics.SUCCESS)

    assert documented() == defined()
