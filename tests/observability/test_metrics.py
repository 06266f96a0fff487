"""The registry of metrics: several worker processes, and the documented table."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.admin import metrics as admin_metrics
from service.events import metrics as events_metrics
from service.events.queue import metrics as queue_metrics  # noqa: F401 - they count
from service.observability import http_metrics, metrics
from service.server import connection_limit, lifecycle  # noqa: F401 - they count
from service.storage import metrics as storage_metrics
from service.upstream import metrics as upstream_metrics
from service.usage import metrics as usage_metrics
from service.vehicles import metrics as vehicles_metrics
from service.web.lane_metrics import LaneMetrics

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW: Final = re.compile(r"\| `(\w+)` \| (\w+) \|(.*?)\|.*?\| .+ \|")

# --- many workers -------------------------------------------------------------------

WORKERS: Final = """
import json, os, sys, time
from prometheus_client.parser import text_string_to_metric_families
from service.observability import http_metrics, metrics
from service.events import metrics as events_metrics
from service.upstream import metrics as upstream_metrics
from service.usage import metrics as usage_metrics
from service.vehicles import metrics as vehicles_metrics

def read():
    return {
        f"{each.name} {sorted(each.labels.values())}": each.value
        for family in text_string_to_metric_families(metrics.expose("")[0].decode())
        for each in family.samples
    }

def idle():
    # It has answered an hour ago, and its circuit was opened then.
    now, time.time = time.time, lambda: now() - 3600
    upstream_metrics.breaker_changed("copilot", "open", 5)
    usage_metrics.answered(5000)

def work(age_s, messages, answered):
    http_metrics.request_started("GET")
    for _ in range(answered):
        http_metrics.request_answered("GET", "/usage", 200, 0.1, "hit")
    upstream_metrics.breaker_changed("copilot", "open", 3600)
    usage_metrics.snapshot_cached("some-plan", messages, 2.5)
    usage_metrics.answered(age_s)
    usage_metrics.reports_cached(messages)
    http_metrics.flush()

def forked(work, *args):
    pid = os.fork()
    if not pid:
        work(*args)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return pid

metrics.prepare_workers()
folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
# A worker that has just started has made a file, and written nothing.
open(f"{folder}/counter_1.db", "x").close()
before = read()
forked(idle)
first, second = forked(work, 1000, 7, 3), forked(work, 10, 5, 4)
alive = read()
metrics.child_exited(first)
left = read()
metrics.child_exited(second)
print(json.dumps([folder, before, alive, left, read()]))
"""


def run_workers(**environment: str) -> list[dict[str, float]]:
    """Samples before the start, with both workers, with one, and with none."""
    ran = subprocess.run(  # noqa: S603 - it runs this interpreter
        [sys.executable, "-c", WORKERS],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    assert ran.stderr == b""
    folder, *read = json.loads(ran.stdout)
    assert Path(folder).exists() == bool(environment)
    return list(read)


@pytest.mark.parametrize("where", ["given", "made"])
def test_workers_are_summed(tmp_path: Path, where: str) -> None:
    """Counters are summed, gauges count running workers, and the age is the maximum.

    An idle worker has no age, and its circuit is not open. Files of an earlier run in
    a given folder are not counted.
    """
    given = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    if where == "given":
        run_workers(**given)
    before, alive, left, none = run_workers(**(given if where == "given" else {}))

    count = "http_server_request_duration_seconds_count ['/usage', '200', 'GET']"
    active = "http_server_active_requests ['GET']"
    age = "copilot_usage_answer_age_seconds []"
    opened = "copilot_usage_upstream_breaker_state ['copilot', 'open']"
    messages = "copilot_usage_period_messages ['some-plan']"
    hits = "copilot_usage_cache_results_total ['hit']"
    assert not {count, active, age, opened, messages, hits} & before.keys()
    assert [alive[count], left[count], none[count]] == [7, 7, 7]
    assert [alive[hits], left[hits], none[hits]] == [7, 7, 7]
    assert [alive[active], left[active]] == [2, 1]
    assert [alive[opened], left[opened]] == [2, 1]
    assert active not in none
    half_open = opened.replace("open", "half_open")
    assert [alive[half_open], left[half_open], none[half_open]] == [1, 1, 1]
    assert [alive[age], left[age]] == [1000, 10]
    assert age not in none
    assert alive[messages] == 5
    assert alive["copilot_usage_reports_held []"] == 7
    builds = [name for name in alive if name.startswith("copilot_usage_build_info")]
    assert [alive[name] for name in builds] == [1]


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
    """Every metric of the code with its labels, except for the library's own."""
    found = {}
    body, _ = metrics.expose("")
    for family in text_string_to_metric_families(body.decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for each in family.samples for label in each.labels}
        if not name.startswith("process_"):
            found[name] = Documented(family.type, frozenset(labels - {"le"}))
    return found


def measure_events() -> None:
    """Set each metric of events."""
    events_metrics.events_received({"accepted": 1}, ["schema"])
    events_metrics.events_replayed("accepted", 1)
    events_metrics.events_discarded(1)
    events_metrics.events_removed(1)
    events_metrics.removal_behind(0.0)
    events_metrics.changes_uncounted(0)
    events_metrics.commit_ended(metrics.SUCCESS, 0.1)
    events_metrics.backlog_changed(0)


def test_the_table_lists_the_metrics_of_the_code() -> None:
    """Each metric is documented with its type and labels, and no other is."""
    http_metrics.request_answered("GET", "/usage", 200, 0.1, "hit")
    http_metrics.request_started("GET")
    http_metrics.request_ended("GET")
    upstream_metrics.try_ended("GET", "/", "200", 0.1)
    upstream_metrics.retried("copilot", "500")
    upstream_metrics.retry_refused("copilot", "budget")
    upstream_metrics.breaker_changed("copilot", "closed", 0.0)
    admin_metrics.circuits_begin(["copilot"])
    usage_metrics.snapshot_cached("text-rules/1", 1, 1.0)
    usage_metrics.answered(0.0)
    usage_metrics.export_ended("csv", metrics.SUCCESS)
    with usage_metrics.refreshing(lambda: 0.0):
        pass
    measure_events()
    vehicles_metrics.vehicle_removed(was_kept=True)
    vehicles_metrics.export_ended(metrics.SUCCESS)
    lane = LaneMetrics("usage_queries")
    lane.waiting(0)
    lane.started(0.1, 1)
    storage_metrics.changed("keys", "running", 0)
    storage_metrics.circuit_changed(is_open=False)

    assert documented() == defined()
