"""The alert rules, judged by Prometheus' own `promtool`.

The cases are in the YAML files beside this module. They leave annotations out, which
promtool would compare word for word.
"""

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.alerts.prometheus import ALERTS_FILE, CONFIG_FILE, PROMTOOL

CASES: Final = sorted(Path(__file__).parent.glob("*.yaml"))

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


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> (
    None
):
    """A rule that cannot fire, or always does, would pass without notice."""
    outcomes = defaultdict[str, set[bool]](set)
    for file in CASES:
        for test in yaml.safe_load(file.read_bytes())["tests"]:
            for case in test["alert_rule_test"]:
                outcomes[case["alertname"]].add(bool(case["exp_alerts"]))
    groups = yaml.safe_load(ALERTS_FILE.read_bytes())["groups"]
    alerts = {each.get("alert") for group in groups for each in group["rules"]} - {None}

    assert dict(outcomes) == {each: {True, False} for each in alerts}
