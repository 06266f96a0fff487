"""Counts of events by category and by name: in total, by day and by hour.

Triggers write each change of the number of events to `event_changes`, in the
transaction of the events. This module adds the changes to the counts, in transactions
of its own. Queries take both, so they see every committed event.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.events import change_statements as statements
from service.events import metrics
from service.events.tables import (
    DAY,
    HOUR,
    HOURS_PER_DAY,
    OTHER_NAMES,
    TOTAL,
    category_counts,
    event_changes,
    name_counts,
)
from service.storage.database import Database
from service.storage.maintenance import Batches, repeat_logged
from service.storage.uses import Use

MAX_NAMES: Final = 10_000
"""Names of one category that are counted apart; the others are counted together."""
EVERY_S: Final = 1.0
SHARE: Final = 0.5
"""Share of the time in which full batches are added."""
MIN_ROWS: Final = 500

# By the ids, of which a transaction that is rolled back leaves some out: counting the
# rows would take the longer, the more there are. Each subquery reads one entry of the
# index; SQLite would read all rows for both in one query.
_UNCOUNTED: Final = (
    select(func.max(event_changes.c.id)).scalar_subquery()
    - select(func.min(event_changes.c.id)).scalar_subquery()
    + 1
)

log = structlog.get_logger()


class Category(NamedTuple):
    """A category of an application."""

    application: str
    category: str


class Name(NamedTuple):
    """A name of a category."""

    application: str
    category: str
    name: str


class Counting:
    """Adds changes to the counts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches = Batches(database, SHARE, MIN_ROWS)

    async def run(self) -> None:
        """Add changes at every interval; a failure is logged, and tried again."""
        await repeat_logged("events.counting_failed", self.add_changes, EVERY_S)

    async def add_changes(self) -> None:
        """Add the changes that exist; raises `StorageError`."""
        # Changes that arrive meanwhile wait for the next interval: a small batch would
        # cost a commit, too.
        while uncounted := await self._measure():
            limit = self._batches.rows
            number = await self._batches.run(add_changes)
            left = max(0, uncounted - number)
            log.debug("events.counted", changes=number, uncounted=left)
            if number < limit:
                return

    async def _measure(self) -> int:
        """Return about how many changes exist, and publish it as a metric."""
        async with self._database.reading(Use.RETENTION) as connection:
            uncounted = int(await connection.scalar(select(_UNCOUNTED)) or 0)
        metrics.changes_uncounted(uncounted)
        return uncounted


async def add_changes(connection: AsyncConnection, limit: int) -> int:
    """Add the first `limit` changes to the counts; return their number."""
    # One process at a time: together they could count too many names apart.
    if not await statements.lock(connection):
        return 0
    changes = await statements.take_changes(connection, limit)
    names = dict.fromkeys(Name(*change[:3]) for change in changes)
    counted_as = await _choose_names(connection, names)
    by_category: Counter[tuple[Any, ...]] = Counter()
    by_name: Counter[tuple[Any, ...]] = Counter()
    for application, category, name, hour, events, _ in changes:
        counted_name = counted_as[Name(application, category, name)]
        for span, start in _spans(hour):
            by_category[application, span, start, category] += events
            by_name[application, span, start, category, counted_name] += events
    await statements.add(connection, category_counts, by_category)
    await statements.add(connection, name_counts, by_name)
    return sum(change.number for change in changes)


def _spans(hour: int) -> Iterator[tuple[str, int]]:
    yield TOTAL, 0
    yield DAY, hour // HOURS_PER_DAY
    yield HOUR, hour


async def _choose_names(
    connection: AsyncConnection, names: Iterable[Name]
) -> dict[Name, str]:
    """Return for each name itself if it is counted apart, else `OTHER_NAMES`.

    Once a category has other names, its new names join them until their count is zero.
    So each name is counted in one place, from which removed events are subtracted.
    """
    others = {each._replace(name=OTHER_NAMES) for each in names}
    rows = await statements.find_names(connection, [*names, *others])
    stored = {Name(*row) for row in rows}
    new = [each for each in names if each not in stored]
    free = await _free_names(connection, {Category(*each[:2]) for each in new})
    chosen = {each: each.name for each in names}
    for each in new:
        category = Category(*each[:2])
        if free[category] <= 0 or each._replace(name=OTHER_NAMES) in stored:
            chosen[each] = OTHER_NAMES
        free[category] -= 1
    return chosen


async def _free_names(
    connection: AsyncConnection, categories: set[Category]
) -> dict[Category, int]:
    """Return how many more names of each category can be counted apart."""
    if not categories:
        return {}
    rows = await statements.count_names(connection, categories)
    return {Category(*category): MAX_NAMES - number for *category, number in rows}
