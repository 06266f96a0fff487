"""Dashboard, alert rules and queries: every name in them exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import jq
import pytest
import yaml

from tests.observability.test_log_events import documented_events
from tests.observability.test_metrics import documented

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "deploy"
RUNBOOK: Final = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
DASHBOARD: Final = json.loads((FOLDER / "grafana" / "dashboard.json").read_bytes())
ALERTS_FILE: Final = FOLDER / "prometheus" / "alerts.yaml"
RULES: Final = [
    rule
    for group in yaml.safe_load(ALERTS_FILE.read_bytes())["groups"]
    for rule in group["rules"]
]
ALERTS: Final = [rule for rule in RULES if "alert" in rule]
JQ_LINES: Final = re.findall(r"jq -\w '(.+?)' usage\.log", RUNBOOK.replace("\\|", "|"))
ENTRIES: Final = re.findall(r"^### (CopilotUsage.+?)(?=^##)", RUNBOOK, re.M | re.S)

STRING: Final = re.compile(r'"[^"]*"')
SELECTOR: Final = re.compile(
    r"(?<![\w:$])([a-z_][\w:]*)\s*(?:\{([^}]*)\})?(?!\s*[\w(])"
)
GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
DURATION: Final = re.compile(r"\[[^\]]*\]")
OPERATORS: Final = {"and", "or", "unless"}
EVERYWHERE: Final = {"job", "instance", "le"}
SUFFIXES: Final = {"histogram": ("_bucket", "_sum", "_count")}


class Named(NamedTuple):
    """The names in a PromQL expression."""

    metrics: set[str]
    labels: set[str]


def named_in(expression: str) -> Named:
    """The metrics and labels of a PromQL expression."""
    bare = DURATION.sub("", STRING.sub('""', expression))
    labels = {
        label.strip() for group in GROUPING.findall(bare) for label in group.split(",")
    }
    found = SELECTOR.findall(GROUPING.sub("", bare))
    matchers = ",".join(matchers for _, matchers in found)
    labels |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return Named({name for name, _ in found} - OPERATORS, labels)


def known_samples() -> dict[str, frozenset[str]]:
    """The labels of everything that can be asked for, by its name."""
    samples = {
        name + suffix: metric.labels
        for name, metric in documented().items()
        for suffix in SUFFIXES.get(metric.kind, ("",))
    }
    labels = frozenset({"domain", "slo"})
    recorded = {rule["record"]: labels for rule in RULES if "record" in rule}
    return {**samples, **recorded, "up": frozenset()}


def panels() -> Iterator[dict[str, Any]]:
    """Every panel that shows something."""
    return (each for each in DASHBOARD["panels"] if each["type"] != "row")


def queries() -> Iterator[tuple[str, str]]:
    """Every expression of the dashboard and the rules, and where it stands."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]


QUERIES: Final = dict(queries())


@pytest.mark.parametrize(
    "expression, metrics, labels",
    [
        ("up == 0", {"up"}, set()),
        (
            'sum by (a, b) (rate(x_total{c="d{e}", f!~"g"}[5m])) > 0',
            {"x_total"},
            set("abcf"),
        ),
        ("a:b:rate5m > 14.4 * 0.001 and on (c) d", {"a:b:rate5m", "d"}, {"c"}),
        (
            "histogram_quantile(0.9, sum(rate(x_bucket[$__rate_interval])))",
            {"x_bucket"},
            set(),
        ),
    ],
)
def test_expressions_are_read_as_meant(
    expression: str, metrics: set[str], labels: set[str]
) -> None:
    """The reader that the tests below rest on finds names and nothing else."""
    assert named_in(expression) == (metrics, labels)


def test_what_is_asked_for_exists() -> None:
    """A renamed metric or label would leave a panel empty and an alert silent."""
    known = known_samples()
    for where, query in QUERIES.items():
        named = named_in(query)
        assert named.metrics or query.startswith("vector("), where
        assert named.metrics <= known.keys(), where
        labels = EVERYWHERE.union(*(known[each] for each in named.metrics))
        assert named.labels <= labels, where


def test_every_metric_is_looked_at() -> None:
    """Every metric is on the dashboard or in a rule."""
    asked_for = {each for query in QUERIES.values() for each in named_in(query).metrics}
    for name, metric in documented().items():
        known = {name + suffix for suffix in SUFFIXES.get(metric.kind, ("",))}
        assert known & asked_for or name.endswith("_timestamp_seconds"), name


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """It names no data source but the one chosen at its import."""
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    sources = [
        each["datasource"] for panel in panels() for each in (panel, *panel["targets"])
    ]
    assert [each for each in sources if each != chosen] == []
    used = set(re.findall(r"\$(?!__)(\w+)", "".join(QUERIES.values())))
    assert used <= variables.keys()


def test_grafana_is_provisioned_with_the_dashboard() -> None:
    """The data source has a fixed id, and dashboards come from one folder."""
    folder = FOLDER / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_bytes())
    (source,) = sources["datasources"]
    assert (source["type"], source["uid"]) == ("prometheus", "prometheus")
    dashboards = yaml.safe_load(
        (folder / "dashboards" / "copilot-usage.yaml").read_bytes()
    )
    (provider,) = dashboards["providers"]
    assert provider["options"] == {"path": "/var/lib/grafana/dashboards"}


def test_alerts_say_how_bad_they_are_and_where_help_is() -> None:
    """Each has a severity, a sentence, and a link to its own entry of the runbook."""
    for alert in ALERTS:
        assert alert["alert"].startswith("CopilotUsage")
        assert alert["labels"].keys() == {"severity"}
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"].keys() == {"summary", "runbook"}
        link = f"docs/runbook.md#{alert['alert'].lower()}"
        assert alert["annotations"]["runbook"] == link
    entries = [each["alert"] for each in ALERTS]
    assert re.findall(r"^### (CopilotUsage\w+)$", RUNBOOK, re.MULTILINE) == entries
    for entry in ENTRIES:
        parts = re.findall(r"^- \*\*(\w+):\*\* .+", entry, re.MULTILINE)
        assert parts == ["Symptom", "Cause", "Confirm", "Action"], entry


@pytest.mark.parametrize("line", JQ_LINES)
def test_the_runbooks_log_lines_find_what_they_look_for(line: str) -> None:
    """They are valid, and name events and values that are logged."""
    jq.compile(line)
    events, values = documented_events(), {"level", "timestamp", "request_id"}
    for event in re.findall(r'\.event == "([\w.]+)"', line):
        values |= events[event].values
    asked_for = set(re.findall(r'\."([\w.]+)"', line))
    asked_for |= set(re.findall(r"(?<![\w\"])\.(\w+)", STRING.sub("", line)))
    assert asked_for - {"event"} <= values
