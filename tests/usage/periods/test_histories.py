"""Generated histories: changes explain totals, and closed periods never change."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from unittest.mock import patch

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from service.instants import format_instant, read_instant
from service.settings import load
from service.storage.database import Database, open_database
from service.upstream.bodies import UpstreamResponse
from service.usage.parameters import find_plan
from service.usage.periods.calendar import Schedule
from service.usage.periods.keeping import closing
from service.usage.periods.keeping.closing import Closing, MonthSource
from service.usage.periods.keeping.contents import Fetched
from service.usage.periods.keeping.months import Months
from service.usage.periods.keeping.upstream_periods import UpstreamPeriods
from service.usage.periods.observer import UnobservedPeriods
from service.usage.periods.reading.chunk_cache import ChunkCache
from service.usage.periods.reading.kept_items import read_items
from service.usage.periods.statements.kept_credits import find_altered
from service.usage.periods.statements.sealing import Sealing
from service.usage.periods.statements.verification import Verification
from service.usage.periods.store import PeriodStore
from service.usage.refresh import Refresher
from service.usage.reports import Report, ReportResolver, Resolved
from service.usage.snapshots.spans import Span
from service.usage.sources import MessageSource
from tests.conftest import message, storage_at
from tests.faults.period_kills import changes_of, check_period, fingerprint

EXAMPLES: Final = 25
DAY_US: Final = 86_400_000_000
START_US: Final = read_instant("2024-01-10")
SHIPPED: Final = load().settings

Sent = dict[str, Any]
Reports = Mapping[str, Report | None]


class State(NamedTuple):
    """What the upstream returns at one time."""

    messages: list[Sent]
    reports: Reports


class Upstream:
    """A source of messages, and of their reports."""

    has_all_spans = True

    def __init__(self) -> None:
        self.state = State([], {})
        self.resolver = cast(ReportResolver, self)

    async def fetch(
        self, known_etag: str | None, span: Span | None = None
    ) -> UpstreamResponse:
        """Return the messages of a span."""
        messages = [
            each
            for each in self.state.messages
            if span is None or span.begin <= read_instant(each["timestamp"]) < span.end
        ]
        body = msgspec.json.encode({"messages": messages})
        etag = sha256(body).hexdigest()
        content = None if etag == known_etag else bytearray(body)
        return UpstreamResponse(content, 1, etag)

    async def resolve(self, keys: Sequence[str]) -> Resolved:
        """Return the reports of these ids."""
        return Resolved({key: self.state.reports.get(key) for key in keys}, set())

    def refresher(self, *, source: MessageSource) -> Refresher:
        """Return a refresher of these reports."""
        return Refresher(SHIPPED, source, self.resolver, find_plan("text-rules"))


@asynccontextmanager
async def copied(empty_file: Path) -> AsyncIterator[Database]:
    """Open a database of its own for one example."""
    with tempfile.TemporaryDirectory() as folder:
        file = shutil.copy(empty_file, Path(folder) / "kept.db")
        async with open_database(storage_at(f"sqlite+aiosqlite:///{file}")) as database:
            yield database


class Kept:
    """Checks of all that is kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._frozen: dict[int, str] = {}

    async def check(self) -> None:
        """Fail unless changes explain totals, and closed periods are as they were."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(text("SELECT * FROM usage_periods"))).all()
            for row in rows:
                await check_period(connection, row)
                if row.status == "closed":
                    digest = await fingerprint(connection, row)
                    assert self._frozen.setdefault(row.number, digest) == digest

    async def check_sums(self, since: int) -> None:
        """Fail unless the changes since a revision are the difference of its total."""
        store = PeriodStore(self._database)
        for period in await store.newest(None, 100):
            found = await store.changes(period, (since, None), None, 10_000)
            sums = sum(each.after - each.before for _, _, each in found.changes)
            assert sums == found.after - found.before
            if found.changes:
                late = await store.find_adjustments(period.number)
                assert found.after == period.hundredths + late.hundredths

    async def verify(self) -> None:
        """Fail unless all closed periods are sealed and verified as they are."""
        await Sealing(self._database).seal()
        verification = Verification(self._database)
        await verification.open()
        results = [each async for each in verification.run(lambda: None)]
        differing = [each for each in results if each.difference is not None]
        assert differing == []
        store = PeriodStore(self._database)
        for period in await store.newest_closed(100):
            items = read_items(ChunkCache(store), period)
            assert await find_altered(self._database, period, items) is None

    async def ids(self) -> Counter[int]:
        """Return how often each message is in a period, or an adjustment of one."""
        found: Counter[int] = Counter()
        async with self._database.reading() as connection:
            rows = await connection.execute(
                text("SELECT period_number, attempt FROM usage_revisions")
            )
            for number, attempt in rows.all():
                for change in await changes_of(connection, number, attempt):
                    kinds = {"added": 1, "removed": -1, "adjustment": 1}
                    found[change.message_id] += kinds.get(change.kind, 0)
        return +found


# --- periods of the upstream ---------------------------------------------------------

REPORTS: Final = st.dictionaries(
    st.sampled_from(["7", "8"]),
    st.sampled_from(
        [
            None,
            Report(7, "Tenants", 79),
            Report(7, "Tenants", 79.01),
            Report(7, "Owners", 0),
        ]
    ),
)


REFERENCES: Final[list[dict[str, object]]] = [{}, {"report_id": 7}, {"report_id": "8"}]


@st.composite
def messages_of(draw: st.DrawFn, period: int) -> list[Sent]:
    """Draw some messages of a period, in any order; some of them are listed twice."""
    ids = draw(st.lists(st.integers(1, 6), max_size=8))
    return [
        message(
            each,
            draw(st.sampled_from(["Rent?", "Why is it due?", "a" * 120])),
            # Ids begin again in each period.
            timestamp=f"2024-0{period}-{each + 1:02}T00:00:00Z",
            **draw(st.sampled_from(REFERENCES)),
        )
        for each in ids
    ]


@st.composite
def states(draw: st.DrawFn) -> State:
    """Draw what the upstream returns: also old periods again, or nothing."""
    messages = draw(messages_of(draw(st.integers(1, 4))))
    return State(messages, draw(REPORTS))


@settings(max_examples=EXAMPLES)
@given(history=st.lists(states(), min_size=1, max_size=8), since=st.integers(0, 4))
def test_changes_explain_all_totals(
    history: list[State], since: int, empty_file: Path
) -> None:
    """Whatever the upstream returns, to the hundredth of a credit."""
    asyncio.run(keep_all(history, since, empty_file))


async def keep_all(history: list[State], since: int, empty_file: Path) -> None:
    """Keep one state after the other, as the service does."""
    upstream = Upstream()
    refresher = upstream.refresher(source=upstream)
    async with copied(empty_file) as database:
        keeper, kept = UpstreamPeriods(database, UnobservedPeriods()), Kept(database)
        for number, state in enumerate(history, START_US):
            upstream.state = state
            snapshot = await refresher.run(None, is_servable=False)
            if snapshot.summary.messages:
                await keeper.keep(Fetched(snapshot, number + DAY_US * 200), 0)
            await kept.check()
        await kept.check_sums(since)
        await kept.verify()
    await refresher.workers.close()


# --- calendar months -----------------------------------------------------------------


class Step(NamedTuple):
    """The days that pass, and the ages of messages that arrive then, in days."""

    days: int
    ages: list[int]


STEPS: Final = st.builds(
    Step, st.integers(0, 12), st.lists(st.integers(0, 27), max_size=4)
)


@settings(max_examples=EXAMPLES)
@given(
    steps=st.lists(STEPS, min_size=1, max_size=8),
    anchor_day=st.sampled_from([1, 15, 31]),
    grace_days=st.integers(0, 5),
)
@example(steps=[Step(0, [0]), Step(0, [0])], anchor_day=1, grace_days=0)
def test_each_message_is_in_one_month(
    steps: list[Step], anchor_day: int, grace_days: int, empty_file: Path
) -> None:
    """However late it arrives: in the rows of its month, or as an adjustment."""
    periods = {"anchor_day": anchor_day, "grace_s": 86_400.0 * grace_days}
    with patch.object(closing, "CLOSED_EVERY_S", 0.0):
        asyncio.run(keep_months(steps, periods, empty_file))


async def keep_months(
    steps: list[Step], periods: dict[str, Any], empty_file: Path
) -> None:
    """Let messages arrive, and look at the months after each step."""
    upstream, now, sent = Upstream(), START_US, list[Sent]()
    chosen = load(options={"periods": periods}).settings
    schedule = Schedule(chosen, clock=lambda: now)
    source = MonthSource(upstream, upstream.refresher, lambda _: True)
    refresher = upstream.refresher(source=upstream)
    async with copied(empty_file) as database:
        kept = Kept(database)
        months = Months(database, UnobservedPeriods(), schedule, is_complete=True)
        look = Closing(months, source, chosen.periods.grace_s, lambda: now).look
        for step in steps:
            # Of two snapshots that were fetched at once, either may be the later one.
            now += step.days * DAY_US + 1
            sent += [
                message(
                    len(sent) + place,
                    timestamp=format_instant(now - age * DAY_US),
                )
                for place, age in enumerate(step.ages, 1)
            ]
            upstream.state = State(sent, {})
            snapshot = await refresher.run(
                None, is_servable=False, span=schedule.current()
            )
            if snapshot.summary.messages:
                await months.keep(Fetched(snapshot, now), 0)
            await look()
            await kept.check()
        assert await kept.ids() == Counter(each["id"] for each in sent)
        await kept.check_sums(0)
        await kept.verify()
    await refresher.workers.close()
