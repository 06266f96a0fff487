"""The keys of the shared store: services share only if their answers are the same."""

from pathlib import Path
from typing import Any, Final

import pytest

from service.usage.shared_store import namespace_of
from tests.conftest import MakeSettings

Sections = dict[str, dict[str, Any]]

FILE: Final = {"url": "sqlite+aiosqlite:///var/b.db"}
SERVER: Final = {"url": "postgresql+asyncpg://a.test/b"}


def months(**periods: Any) -> Sections:
    """Return the settings of a service whose periods are calendar months."""
    return {"periods": {"boundary": "calendar", **periods}}


MONTHS: Final = months()


def events_in(storage: dict[str, str]) -> Sections:
    """Return the settings of a service that prices the events in a database."""
    return {
        "usage": {"source": "events"},
        "events": {"enabled": True},
        "storage": storage,
    }


@pytest.mark.parametrize(
    "one, other, is_same",
    [
        ({}, {}, True),
        ({"storage": FILE}, {"storage": SERVER}, True),
        ({}, {"usage": {"plan": "token-estimate"}}, False),
        ({}, {"usage": {"on_report_error": "text"}}, False),
        ({}, {"upstream": {"base_url": "http://elsewhere.test"}}, False),
        ({}, {"sandbox": {"enabled": True}}, False),
        (
            {"sandbox": {"enabled": True}},
            {"sandbox": {"enabled": True, "seed": 8}},
            False,
        ),
        (
            {"sandbox": {"enabled": True}, "upstream": {"base_url": "http://a.test:1"}},
            {"sandbox": {"enabled": True}, "upstream": {"base_url": "http://a.test:2"}},
            True,
        ),
        (events_in(SERVER), events_in(SERVER), True),
        (events_in(SERVER), events_in(FILE), False),
        (events_in(SERVER), {"storage": SERVER}, False),
        (MONTHS, MONTHS, True),
        ({}, MONTHS, False),
        (MONTHS, months(anchor_day=15), False),
        (MONTHS, months(zone="Asia/Tokyo"), False),
        ({}, {"periods": {"anchor_day": 15, "zone": "Asia/Tokyo"}}, True),
    ],
    ids=[
        *("same", "database unused", "plan", "report errors", "upstream", "sandbox"),
        *("another sandbox", "sandbox on another port"),
        *("same events", "other events", "events and upstream"),
        *("same months", "months and the upstream's period", "another day"),
        *("another zone", "months unused"),
    ],
)
def test_keys_are_those_of_the_answers(
    settings: MakeSettings, one: Sections, other: Sections, *, is_same: bool
) -> None:
    """Settings that change the answers change the keys, and no others do."""
    names = namespace_of(settings(**one)), namespace_of(settings(**other))

    assert (names[0] == names[1]) == is_same


def test_files_of_other_folders_are_not_shared(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is another database in another working directory."""
    before = namespace_of(settings(**events_in(FILE)))
    monkeypatch.chdir(tmp_path)

    assert namespace_of(settings(**events_in(FILE))) != before
