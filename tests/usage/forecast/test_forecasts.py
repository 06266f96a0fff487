"""Forecasts as clients get them: from the current period, and from kept ones."""

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from service.instants import read_instant
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.usage.forecast.days import end_of
from service.usage.handlers import FORECASTS
from service.usage.periods.handlers import KEPT
from tests.conftest import Client, MakeClient, message
from tests.usage.periods.conftest import Keep, Messages

KEEPING: Final = {"enabled": True, "length": "P30D"}
TODAY: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
FORTNIGHT_AGO: Final = (TODAY - timedelta(days=14)).date()
CALENDAR: Final = {"boundary": "calendar", "anchor_day": FORTNIGHT_AGO.day}
"""Months of which the current one has begun a fortnight ago."""
ELEVEN_CHARACTERS: Final = "How much is"
"""Many equal messages have equal prices."""


def days_ago(first: int, last: int) -> list[dict[str, object]]:
    """Return a message at the beginning of each day, from one to another."""
    return [
        message(
            100 - day,
            ELEVEN_CHARACTERS,
            timestamp=(TODAY - timedelta(days=day)).isoformat(),
        )
        for day in range(first, last - 1, -1)
    ]


async def forecast(service: Client) -> dict[str, Any]:
    """Return a forecast."""
    answer = await service.get("/usage/forecast")
    assert answer.status == 200
    found: dict[str, Any] = await answer.json()
    return found


async def test_a_period_is_forecast(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Half of the days have half of the credits; the figures are those of `/usage`."""
    sandbox.sandbox.set_messages(days_ago(14, 0))
    service = await client(periods={"length": "P30D"})
    found = await forecast(service)
    usage = (await (await service.get("/usage")).json())["usage"]
    used = sum(each["credits_used"] for each in usage)
    assert found["credits_used"] == pytest.approx(used)
    assert found["expected"] == pytest.approx(2 * used, rel=0.1)
    assert used < found["low"] < found["expected"] < found["high"]
    assert found["confidence"] == 0.8
    assert found["period"] == FORTNIGHT_AGO.isoformat()
    ends = (FORTNIGHT_AGO + timedelta(days=30)).isoformat()
    assert found["ends"] == f"{ends}T00:00:00.000000Z"


async def test_a_calendar_month_is_forecast(
    client: MakeClient, storage: StorageSettings, sandbox: RunningSandbox
) -> None:
    """It ends where the next one begins, and has its own messages only."""
    sandbox.sandbox.set_messages(days_ago(20, 0))
    kept = {"enabled": True, **CALENDAR}
    service = await client(storage={"url": storage.url}, periods=kept)
    found = await forecast(service)
    usage = (await (await service.get("/usage")).json())["usage"]
    assert len(usage) == 15
    used = sum(each["credits_used"] for each in usage)
    assert found["credits_used"] == pytest.approx(used)
    assert found["period"] == FORTNIGHT_AGO.isoformat()
    ends = end_of(FORTNIGHT_AGO, "P1M")
    assert found["ends"] == f"{ends}T00:00:00.000000Z"


async def test_days_are_those_of_the_zone(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Midnight in Tokyo is at 15:00 UTC."""
    sandbox.sandbox.set_messages(days_ago(14, 0))
    zone = {"length": "P30D", "zone": "Asia/Tokyo"}
    found = await forecast(await client(periods=zone))
    ends = (FORTNIGHT_AGO + timedelta(days=29)).isoformat()
    assert found["ends"] == f"{ends}T15:00:00.000000Z"


async def test_a_forecast_agrees_with_the_snapshot_in_its_headers(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """It names the revision, and caches may store it as long as `/usage`."""
    sandbox.sandbox.set_messages(days_ago(14, 0))
    service = await client(periods={"length": "P30D"})
    usage = await service.get("/usage")
    answer = await service.get("/usage/forecast")
    for name in ("Usage-Revision", "Usage-Period", "Usage-Plan", "Cache-Control"):
        assert answer.headers[name] == usage.headers[name]


@pytest.mark.parametrize(
    "length, messages, reason",
    [
        ("P30D", days_ago(5, 0), "too_early"),
        ("P30D", [], "too_early"),
        ("", days_ago(14, 0), "no_end_known"),
        ("P10D", days_ago(14, 0), "no_end_known"),
    ],
    ids=["five days", "no message", "no length", "a length that is wrong"],
)
async def test_what_is_unknown_is_not_guessed(
    client: MakeClient,
    sandbox: RunningSandbox,
    length: str,
    messages: Messages,
    reason: str,
) -> None:
    """The answer is the reason."""
    sandbox.sandbox.set_messages(messages)
    service = await client(periods={"length": length})
    assert await forecast(service) == {"reason": reason}


async def test_a_message_of_the_future_does_not_hide_the_end(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Its clock was wrong, while the length of the period is right."""
    wrong = message(1, timestamp="2999-01-01T00:00:00Z")
    sandbox.sandbox.set_messages([*days_ago(14, 0), wrong])
    found = await forecast(await client(periods={"length": "P30D"}))
    assert found["period"] == FORTNIGHT_AGO.isoformat()


async def test_a_period_at_the_end_of_the_calendar_has_no_forecast(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Its end cannot be written as a date."""
    sandbox.sandbox.set_messages([message(1, timestamp="9999-12-31T23:59:59Z")])
    service = await client(periods={"length": "P1M"})
    assert await forecast(service) == {"reason": "no_end_known"}


@pytest.mark.parametrize(
    "timestamp, zone, found",
    [
        ("9999-12-31T23:59:59Z", "Asia/Tokyo", {"period": FORTNIGHT_AGO.isoformat()}),
        ("0001-01-01T00:00:00Z", "America/New_York", {"reason": "no_end_known"}),
    ],
    ids=["year 10000", "year 0"],
)
async def test_a_day_beyond_all_dates_is_the_nearest_date(
    client: MakeClient,
    sandbox: RunningSandbox,
    timestamp: str,
    zone: str,
    found: dict[str, str],
) -> None:
    """The zone moves the first and the last timestamps there; no forecast fails."""
    wrong = message(1, timestamp=timestamp)
    sandbox.sandbox.set_messages([*days_ago(14, 0), wrong])
    service = await client(periods={"length": "P30D", "zone": zone})
    answer = await forecast(service)
    assert answer.items() >= found.items()


async def test_after_its_end_a_period_is_forecast_as_it_is(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Nothing more is expected, and the band is closed."""
    sandbox.sandbox.set_messages(days_ago(60, 45))
    found = await forecast(await client(periods={"length": "P30D"}))
    assert found["low"] == found["expected"] == found["high"] == found["credits_used"]


async def test_earlier_kept_periods_are_used(
    client: MakeClient, storage: StorageSettings, keep: Keep
) -> None:
    """A period of three days has a forecast, and its id."""
    service = await client(
        storage={"url": storage.url},
        periods=KEEPING,
        cache={"confirm_shrink_s": 0.0},
    )
    await keep(service, days_ago(33, 4))
    await keep(service, days_ago(3, 0))
    found = await forecast(service)
    per_day = found["credits_used"] / 4
    assert found["expected"] == pytest.approx(30 * per_day, rel=0.1)
    # The next forecast has them in memory.
    assert await forecast(service) == found


async def test_a_damaged_earlier_period_is_left_out(
    client: MakeClient, tmp_path: Path, empty_file: Path, keep: Keep
) -> None:
    """The current one is forecast by what is known besides."""
    file = shutil.copy(empty_file, tmp_path / "kept.db")
    url = f"sqlite+aiosqlite:///{file}"
    service = await client(storage={"url": url}, periods=KEEPING)
    await keep(service, days_ago(33, 4))
    await keep(service, days_ago(3, 0))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE usage_outlines SET content = x'00'")
    assert await forecast(service) == {"reason": "too_early"}


@pytest.mark.parametrize("end", [{"length": "P30D"}, CALENDAR], ids=["length", "month"])
async def test_the_kept_open_period_has_a_forecast_for_budgets(
    client: MakeClient,
    storage: StorageSettings,
    keep: Keep,
    end: dict[str, object],
) -> None:
    """It is that of the current period, for the same time."""
    kept_too = {"enabled": True, **end}
    service = await client(storage={"url": storage.url}, periods=kept_too)
    await keep(service, days_ago(14, 0))
    found = await forecast(service)
    forecasts = service.app[FORECASTS]
    period = await service.app[KEPT].find_or_open(None)
    kept = await forecasts.of_period(period, read_instant(found["as_of"]))
    assert {name: getattr(kept, name) for name in found} == found
