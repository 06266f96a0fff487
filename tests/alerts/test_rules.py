"""The alert rules, judged by Prometheus' own `promtool`.

The cases are in the YAML files beside this module. They leave annotations out, which
promtool would compare word for word.
"""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from service.app import create_app
from service.observability.http_metrics import domain_of
from service.settings import load
from tests.alerts.prometheus import ALERTS_FILE, CONFIG_FILE, PROMTOOL

CASES: Final = sorted(Path(__file__).parent.glob("*.yaml"))
ROUTES: Final = re.compile(r'http_route=~"([^"]+)"')
METHOD: Final = re.compile(r'http_request_method(!?=)"POST"')
RECEIVE: Final = "/events", "/v1/track", "/v1/batch", "/api/v1/events"
"""Endpoints that receive events: of the service, of Segment, of OpenMeter."""

needs_promtool = pytest.mark.skipif(
    shutil.which(PROMTOOL) is None, reason="promtool is not installed"
)


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which must succeed."""
    ran = subprocess.run(  # noqa: S603
        [PROMTOOL, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def without_annotations(rules: Any) -> Any:
    """Return the rules without the annotations of the alerts."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    return rules


@needs_promtool
def test_the_rules_are_valid() -> None:
    """Prometheus loads them by its configuration, with the templates in them."""
    promtool("check", "config", CONFIG_FILE)


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=lambda each: each.stem)
def test_alerts_fire_when_they_should(cases: Path, tmp_path: Path) -> None:
    """Each fires in its outage, is silent before and after, and in other outages."""
    rules = without_annotations(yaml.safe_load(ALERTS_FILE.read_bytes()))
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    shutil.copy(cases, tmp_path)

    promtool("test", "rules", tmp_path / cases.name)


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    groups = yaml.safe_load(ALERTS_FILE.read_bytes())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def is_selected(expression: str, method: str, route: str) -> bool:
    """Return whether all selectors of an expression have an endpoint's requests."""
    methods = {
        (sign == "=") == (method == "POST") for sign in METHOD.findall(expression)
    }
    routes = {bool(re.fullmatch(each, route)) for each in ROUTES.findall(expression)}
    assert routes
    return methods | routes == {True}


def test_the_latency_of_each_domain_has_all_of_its_endpoints() -> None:
    """Those of stock clients too: without them, slow answers would fire no alert."""
    latency = [
        each for each in rules() if each.get("labels", {}).get("slo") == "latency"
    ]
    latency = [each for each in latency if ROUTES.search(each["expr"])]
    domains = {each["labels"]["domain"] for each in latency}
    routes = create_app(load().settings).router.routes()
    endpoints = {
        (each.method, each.resource.canonical) for each in routes if each.resource
    }

    expected = {(domain, *each) for each in endpoints for domain in [domain_of(*each)]}
    selected = {
        (rule["labels"]["domain"], *each)
        for rule in latency
        for each in endpoints
        if is_selected(rule["expr"], *each)
    }
    assert selected == {each for each in expected if each[0] in domains}


@pytest.mark.parametrize("route", RECEIVE)
def test_refused_events_of_every_client_are_watched(route: str) -> None:
    """A wrong write key of Segment counts as much as a wrong key."""
    (rule,) = (
        each for each in rules() if each.get("alert") == "CopilotUsageEventsRefused"
    )

    assert is_selected(rule["expr"], "POST", route)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> (
    None
):
    """A rule that cannot fire, or always does, would pass without notice."""
    outcomes = defaultdict[str, set[bool]](set)
    for file in CASES:
        for test in yaml.safe_load(file.read_bytes())["tests"]:
            for case in test["alert_rule_test"]:
                outcomes[case["alertname"]].add(bool(case["exp_alerts"]))
    alerts = {each.get("alert") for each in rules()} - {None}

    assert dict(outcomes) == {each: {True, False} for each in alerts}
