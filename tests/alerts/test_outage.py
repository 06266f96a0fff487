"""A service before a real Prometheus: the dashboard's queries, and one outage."""

import asyncio
import json
from typing import Any, Final

import pytest

from tests.alerts.outages import REFUSING, WITHOUT_STORAGE, Watch
from tests.patience import GIVE_UP_S
from tests.running import ROOT

pytestmark = pytest.mark.services
LOOK_AGAIN_S: Final = 0.5
DASHBOARD: Final[dict[str, Any]] = json.loads(
    (ROOT / "deploy" / "grafana" / "dashboard.json").read_bytes()
)
VARIABLES: Final = {
    "$job": "copilot-usage",
    "$instance": ".*",
    "$__rate_interval": "10s",
}
EMPTY_IN_CALM: Final = {
    "Retries A",
    "Retries B",
    "Errors of failed events A",
    "Requests for events refused A",
    "Backlog, replays and removals B",
    "Delay of the removal of events A",
    "Requests refused by keys and scopes A",
    "Removals and exports A",
    "Removals and exports B",
    "Failed answers A",
    "Delay of kept periods A",
    "Oldest firing that is not delivered A",
    "Exports of usage A",
    "Waits for events by end A",
}
"""Queries that find nothing as long as nothing fails, waits or is removed."""
OF_THE_QUEUE: Final = "copilot_usage_queue_"
"""Metrics that a service without an event queue does not have."""


async def test_the_queries_of_the_dashboard_find_data(watch: Watch) -> None:
    """Each is valid, and finds something after some traffic, unless it names faults."""
    queries = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }
    for name, query in queries.items():
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)  # noqa: PLW2901
        queries[name] = query
    empty = {name for name, query in queries.items() if OF_THE_QUEUE not in query}
    async with watch(REFUSING) as watched, asyncio.timeout(GIVE_UP_S):
        while empty - EMPTY_IN_CALM:
            await asyncio.sleep(LOOK_AGAIN_S)
            for name in sorted(empty):
                if await watched.prometheus.query(queries[name]):
                    empty.remove(name)


async def test_an_outage_of_postgresql_pages_and_clears(watch: Watch) -> None:
    """The alert fires though no commit is tried, and clears with the outage."""
    async with watch(REFUSING) as watched:
        prometheus = watched.prometheus
        await prometheus.until(set[str]().issuperset, GIVE_UP_S)
        await watched.begin(REFUSING)
        await prometheus.until(WITHOUT_STORAGE.alerts.issubset, GIVE_UP_S)
        await watched.end(REFUSING)
        await prometheus.until({"CopilotUsageStorageAway"}.isdisjoint, GIVE_UP_S)

    pages = {each.domain for each in prometheus.seen if each.severity == "page"}
    assert pages - {""} == WITHOUT_STORAGE.domains
