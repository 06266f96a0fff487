"""Periods of an upstream, and of clocks and databases, that misbehave."""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from sqlalchemy import text
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnavailable
from service.usage.periods.keeping import recorder
from service.usage.periods.keeping.upstream_periods import UpstreamPeriods
from tests.conftest import Client, message
from tests.metric_samples import growth
from tests.usage.periods.conftest import (
    Keep,
    changes_of,
    kept,
    periods_of,
)

APRIL: Final = [
    message(1, "Who?", timestamp="2024-04-29T02:08:29Z"),
    message(2, "When?", timestamp="2024-04-30T03:08:29Z"),
]
MAY: Final = [message(3, "Where?", timestamp="2024-05-29T02:08:29Z")]
IN_JUNE: Final = message(9, timestamp="2024-06-01")

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def test_an_upstream_that_flickers_opens_two_periods(
    keeping: Client, keep: Keep, log_entries: list[EventDict]
) -> None:
    """The closed one does not change, and the open one is kept as it is."""
    for _ in range(4):
        await keep(keeping, APRIL)
        if not kept(log_entries)[-1]["event"].endswith("doubtful"):
            await keep(keeping, MAY)
        else:
            await keep(keeping, [*MAY, message(9, timestamp="2024-05-30")])
            await keep(keeping, MAY)
    may, april = await periods_of(keeping)
    assert (april["status"], april["revision"], april["messages"]) == ("closed", 1, 2)
    assert (may["status"], may["messages"]) == ("open", 1)
    assert (await changes_of(keeping))["credits_after"] == may["credits_used"]


async def test_a_closed_period_that_returns_with_more_is_adjusted(
    in_file: Client, keep: Keep
) -> None:
    """What it lists late is not lost, and is listed once."""
    await keep(in_file, APRIL)
    await keep(in_file, MAY)
    late = message(4, "Late?", timestamp="2024-04-30T12:00:00Z")
    for _ in range(2):
        await keep(in_file, [*APRIL, late])
    _, april = await periods_of(in_file)
    assert (april["revision"], april["messages"]) == (2, 2)
    changes = (await changes_of(in_file, "period=2024-04-29&since=1"))["changes"]
    assert [(each["kind"], each["message_id"]) for each in changes] == [
        ("adjustment", 4)
    ]
    assert changes[0]["credits_after"] == april["adjustments"]


async def test_ids_that_begin_again_are_other_messages(
    in_file: Client, keep: Keep
) -> None:
    """A message is the same if its id and its timestamp are."""
    await keep(in_file, APRIL)
    again = [{**each, "timestamp": f"2024-05-0{each['id']}"} for each in APRIL]
    await keep(in_file, again)
    may, april = await periods_of(in_file)
    assert (may["messages"], april["messages"]) == (2, 2)
    assert (may["period"], april["status"]) == ("2024-05-01", "closed")


async def test_ten_periods_in_a_minute_are_ten_periods(
    in_file: Client, keep: Keep
) -> None:
    """Each has an id of its own, and one is open."""
    for each in range(10):
        sent = message(each, timestamp=f"2024-04-29T03:25:0{each}Z")
        await keep(in_file, [sent])
    listed = await periods_of(in_file)
    assert [each["period"] for each in listed] == [
        *(f"2024-04-29-{each}" for each in range(10, 1, -1)),
        "2024-04-29",
    ]
    assert [each["status"] for each in listed] == ["open", *["closed"] * 9]


async def test_duplicates_are_counted_each(in_file: Client, keep: Keep) -> None:
    """The upstream bills a message that it lists twice twice."""
    await keep(in_file, APRIL[:1])
    await keep(in_file, [APRIL[0], APRIL[0], APRIL[1], APRIL[1]])
    await keep(in_file, [APRIL[0], APRIL[1]])
    listed = (await changes_of(in_file))["changes"]
    kinds = [(each["revision"], each["kind"], each["message_id"]) for each in listed]
    assert kinds == [
        (1, "added", 1),
        *((2, "added", each) for each in (1, 2, 2)),
        *((3, "removed", each) for each in (1, 2)),
    ]


async def test_a_message_of_the_future_holds_up_no_period(
    in_file: Client, keep: Keep
) -> None:
    """The upstream has a wrong time, and the next period is opened all the same."""
    await keep(in_file, [*APRIL, message(8, timestamp="2199-01-01T00:00:00Z")])
    await keep(in_file, MAY)
    assert [each["status"] for each in await periods_of(in_file)] == ["open", "closed"]


async def test_a_clock_that_was_ahead_stops_no_revision(
    keeping: Client, keep: Keep, storage: StorageSettings
) -> None:
    """A process with a wrong clock has kept a revision of the next century."""
    await keep(keeping, APRIL[:1])
    async with open_database(storage) as database, database.writing() as connection:
        await connection.execute(
            text("UPDATE usage_periods SET fetched_at = 7226582400000000")
        )
    await keep(keeping, APRIL)
    (period,) = await periods_of(keeping)
    assert (period["revision"], period["messages"]) == (2, 2)


async def test_what_an_outage_has_hidden_is_named(
    in_file: Client,
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service answers, and keeps the last snapshot of each period later."""
    added = growth()
    monkeypatch.setattr(recorder, "RETRY_S", 0.0)
    with monkeypatch.context() as away:
        away.setattr(UpstreamPeriods, "keep", _fail)
        for messages in (
            APRIL[:1],
            APRIL,
            MAY,
            [*MAY, message(9, timestamp="2024-06-01")],
        ):
            sandbox.sandbox.set_messages(messages)
            assert (await in_file.get("/usage")).status == 200
            await until(lambda: bool(_logged(log_entries, "keeping_failed")))
    await until(lambda: len(kept(log_entries)) == 2)
    may, april = await periods_of(in_file)
    assert (april["messages"], may["messages"]) == (2, 2)
    (caught_up,) = _logged(log_entries, "keeping_caught_up")
    assert caught_up["skipped"] == 2
    missed = await changes_of(in_file, "period=2024-04-29")
    assert missed["missed_snapshots"] == 2
    assert added("copilot_usage_snapshots_not_kept_total") == 2


async def _fail(*_: object) -> None:
    raise StorageUnavailable("away")


def _logged(entries: list[EventDict], event: str) -> list[EventDict]:
    return [each for each in entries if each["event"] == f"usage.{event}"]


async def test_the_former_version_shares_the_database(
    keeping: Client, keep: Keep, storage: StorageSettings
) -> None:
    """Its rows have no bounds, no outline and no count of skipped snapshots."""
    await keep(keeping, APRIL)
    async with open_database(storage) as database:
        await _publish_as_former(database)
    await keep(keeping, [*APRIL, message(5, timestamp="2024-05-01")])
    (period,) = await periods_of(keeping)
    assert (period["revision"], period["messages"]) == (3, 3)
    answer = await changes_of(keeping)
    assert answer["missed_snapshots"] == 0
    assert answer["credits_after"] == period["credits_used"]


async def _publish_as_former(database: Database) -> None:
    """Publish a revision with the columns that the former version knew."""
    async with database.writing() as connection:
        await connection.execute(
            text("UPDATE usage_periods SET revision = 2, fetched_at = fetched_at + 1")
        )
        await connection.execute(
            text(
                "INSERT INTO usage_revisions (period_number, revision, at, "
                "hundredths_before, hundredths_after, attempt) SELECT number, 2, "
                "fetched_at, hundredths, hundredths, 'former' FROM usage_periods"
            )
        )
