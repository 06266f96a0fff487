"""Page on load testing: the names on it are those of the service."""

import re
from pathlib import Path
from typing import Final

import pytest

from benchmarks.gate.figures import GROUPS
from service.settings import load

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = (DOCS / "load-testing.md").read_text(encoding="utf-8")
METRICS: Final = (DOCS / "metrics.md").read_text(encoding="utf-8")


def names(pattern: str) -> list[str]:
    """Names between backquotes that match, each once."""
    return sorted(set(re.findall(f"`({pattern})`", PAGE)))


@pytest.mark.parametrize("name", names(r"(?:http|copilot_usage)_\w+"))
def test_a_metric_exists(name: str) -> None:
    """A metric that the page names is documented as one of the service."""
    assert f"| `{name}` |" in METRICS


@pytest.mark.parametrize(
    "name",
    names(r"(?:cache|events|limits|logging|sandbox|server|vehicles)\.[a-z_]+"),
)
def test_a_setting_exists(name: str) -> None:
    """A setting that the page names can be set."""
    assert name in load().origins


def test_the_environment_is_accepted() -> None:
    """The variables in the examples set what they should."""
    given = dict(re.findall(r"(COPILOT_USAGE_\w+)=(\S+)", PAGE))

    settings = load(environment=given).settings

    assert (settings.sandbox.seed, settings.sandbox.messages) == (7, 110)
    assert settings.storage.url == "sqlite+aiosqlite:////tmp/load-test.db"


def test_the_groups_are_listed() -> None:
    """The page lists the groups of figures of the gate."""
    (listed,) = re.findall(r"The groups are (.+)\.", PAGE)
    assert re.findall(r"`(\w+)`", listed) == list(GROUPS)
