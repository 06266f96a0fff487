"""Group commit: requests share commits, and each gets its own receipt or error."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from unittest.mock import Mock

import pytest
from structlog.typing import EventDict

from service.events import ingest as ingest_module
from service.events.arrivals import Arrivals
from service.events.errors import BacklogFull
from service.events.ingest import Ingest, running_ingest
from service.events.model import Event, EventFailure, Receipt
from service.events.parsing import EventParser
from service.events.queries import EventQueries
from service.events.statements import EventCursor, EventFilter
from service.events.store import EventStore, ReceivedEvent, Stored
from service.instants import US_PER_S
from service.storage.database import Database
from service.storage.errors import StorageUnavailable, ValueRefused
from tests.clock import LoopTime
from tests.conftest import MakeSettings
from tests.events.conftest import event
from tests.metric_samples import Read
from tests.metric_samples import value as sample
from tests.patience import GIVE_UP_S

QUEUE_WAIT_S: Final = GIVE_UP_S

Open = Callable[..., AbstractAsyncContextManager[tuple[Ingest, "BlockableStore"]]]
Until = Callable[[Callable[[], bool]], Any]


class BlockableStore(EventStore):
    """A store that waits until `is_open` is set, and raises the given failures."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.groups: list[list[ReceivedEvent]] = []
        self.failures: list[BaseException] = []
        self.refused_id = "none"

    async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store a group, or fail."""
        self.groups.append(list(received))
        await self.is_open.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.refused_id in {_id(each) for each in received}:
            raise ValueRefused("no such value")
        return await super().store(received)

    @property
    def sizes(self) -> list[int]:
        """Number of events of each group."""
        return [len(group) for group in self.groups]


class Fatal(BaseException):
    """An error that nothing handles."""


def _id(arrival: ReceivedEvent) -> str:
    return arrival.item.id if isinstance(arrival.item, Event) else ""


@pytest.fixture
def opened(database: Database, settings: MakeSettings) -> Open:
    """A factory of running ingests that commit at once, each with its store."""

    @asynccontextmanager
    async def run(
        *, overlaps: bool = False, **events: Any
    ) -> AsyncIterator[tuple[Ingest, BlockableStore]]:
        store = BlockableStore(database)
        given = settings(events={"commit_wait_ms": 0.0, **events}).events
        running = running_ingest(given, store, QUEUE_WAIT_S, overlaps=overlaps)
        async with running as ingest:
            yield ingest, store

    return run


@pytest.fixture
def items(parser: EventParser) -> Callable[..., list[Event | EventFailure]]:
    """A factory of a request's events with these ids."""

    def make(*ids: str, **more: Any) -> list[Event | EventFailure]:
        sources = [json.dumps(event(id=each, **more)).encode() for each in ids]
        return [parser.parse(each, "shop") for each in sources]

    return make


Items = Callable[..., list[Event | EventFailure]]


async def accept(
    ingest: Ingest, items: list[Event | EventFailure], application: str = "shop"
) -> Receipt:
    """Store events as the endpoint does, with their part of the backlog reserved."""
    with ingest.reserve(application, len(items)) as reservation:
        return await ingest.accept(items, reservation)


async def stored_ids(database: Database) -> list[str]:
    """Return the ids of the stored events, by arrival."""
    page = await EventQueries(database).events(EventFilter("shop"), 1_000)
    return [each.id for each in sorted(page.items, key=lambda each: each.received_at)]


def ids_of(receipt: Receipt) -> list[str | None]:
    """Return the ids of a receipt; all events must be accepted."""
    assert receipt.accepted == len(receipt.results)
    return [each.id for each in receipt.results]


async def test_requests_share_a_commit(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """Requests that arrive during a commit share the next one."""
    async with opened() as (ingest, store):
        store.is_open.clear()
        first = asyncio.create_task(accept(ingest, items("a")))
        await until(lambda: store.sizes == [1])
        requests = [items("b", "c"), items("d"), items("e", "f", "g")]
        tasks = [asyncio.create_task(accept(ingest, each)) for each in requests]
        await asyncio.sleep(0)
        store.is_open.set()
        receipts = await asyncio.gather(first, *tasks)

    assert store.sizes == [1, 6]
    assert list(map(ids_of, receipts)) == [["a"], ["b", "c"], ["d"], ["e", "f", "g"]]
    assert await stored_ids(database) == list("abcdefg")


async def test_a_group_is_bounded(opened: Open, items: Items, until: Until) -> None:
    """A group has as many requests as fit, in order; no request is split."""
    async with opened(commit_max_events=3) as (ingest, store):
        store.is_open.clear()
        sent = [
            items("a"),
            items("b", "c"),
            items("d", "e"),
            items(*"fghij"),
            items("k"),
        ]
        tasks = [asyncio.create_task(accept(ingest, each)) for each in sent]
        await until(lambda: bool(store.groups))
        store.is_open.set()
        await asyncio.gather(*tasks)

    assert ["".join(map(_id, group)) for group in store.groups] == [
        "abc",
        "de",
        "fghij",
        "k",
    ]


async def test_requests_join_a_waiting_group(opened: Open, items: Items) -> None:
    """A group waits for more requests until it is full."""
    async with opened(commit_wait_ms=1_000.0, commit_max_events=3) as (ingest, store):
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(accept(ingest, items(name))))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    assert store.sizes == [3]


async def test_a_refused_value_fails_its_request_alone(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """The other requests of the group are stored."""
    async with opened() as (ingest, store):
        store.refused_id = "bad"
        store.is_open.clear()
        sent = [items("0"), items("a"), items("b", "bad"), items("c")]
        tasks = [asyncio.create_task(accept(ingest, sent[0]))]
        await until(lambda: bool(store.groups))
        tasks += [asyncio.create_task(accept(ingest, each)) for each in sent[1:]]
        await asyncio.sleep(0)
        store.is_open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(each, Receipt) for each in results] == [True, True, False, True]
    assert isinstance(results[2], ValueRefused)
    assert await stored_ids(database) == ["0", "a", "c"]


@pytest.mark.parametrize(
    "failure", [StorageUnavailable("disk full"), ZeroDivisionError("a bug")]
)
async def test_a_failed_commit_fails_all_its_requests(
    opened: Open,
    items: Items,
    database: Database,
    *,
    log_entries: list[EventDict],
    added: Read,
    failure: Exception,
) -> None:
    """All requests of the group get the error, and the next request is stored."""
    ended = "copilot_usage_events_commit_duration_seconds_count"
    async with opened() as (ingest, store):
        store.failures = [failure]
        sent = [accept(ingest, items("a")), accept(ingest, items("b"))]
        results = await asyncio.gather(*sent, return_exceptions=True)
        assert results == [failure, failure]
        assert await stored_ids(database) == []

        assert ids_of(await accept(ingest, items("a"))) == ["a"]

    entry, *others = [each for each in log_entries if each["log_level"] == "error"]
    assert not others
    assert entry["event"] == "events.commit_failed"
    assert entry["events"] == 2
    assert entry["reason"] == str(failure)
    assert entry["error.type"] == type(failure).__name__
    assert ("exc_info" in entry) == isinstance(failure, ZeroDivisionError)
    for outcome in ("success", type(failure).__name__):
        assert added(ended, outcome=outcome) == 1


async def test_a_cancelled_request_is_stored(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """The accepted events of a cancelled request are stored with its group."""
    async with opened() as (ingest, store):
        store.is_open.clear()
        tasks = [asyncio.create_task(accept(ingest, items(name))) for name in "abc"]
        await until(lambda: bool(store.groups))
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        store.is_open.set()
        receipts = [await tasks[0], await tasks[2]]

    assert list(map(ids_of, receipts)) == [["a"], ["c"]]
    assert await stored_ids(database) == ["a", "b", "c"]


async def test_a_failure_after_a_cancelled_request(
    opened: Open, items: Items, until: Until
) -> None:
    """The writer continues when the request of a failed commit was cancelled."""
    async with opened() as (ingest, store):
        store.failures = [StorageUnavailable("disk full")]
        store.is_open.clear()
        task = asyncio.create_task(accept(ingest, items("a")))
        await until(lambda: bool(store.groups))
        task.cancel()
        await asyncio.wait([task])
        store.is_open.set()

        assert ids_of(await accept(ingest, items("b"))) == ["b"]


async def test_closing_stores_the_queue(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """Accepted events are stored and answered; further events are refused."""
    async with opened(commit_max_events=1) as (ingest, store):
        store.is_open.clear()
        tasks = [asyncio.create_task(accept(ingest, items(name))) for name in "abc"]
        await until(lambda: bool(store.groups))
        ingest.close()
        with pytest.raises(BacklogFull, match="about to stop"):
            await accept(ingest, items("d"))
        store.is_open.set()

    assert [ids_of(await task) for task in tasks] == [["a"], ["b"], ["c"]]
    assert await stored_ids(database) == ["a", "b", "c"]


async def test_the_backlog_is_bounded(opened: Open, items: Items, until: Until) -> None:
    """A request beyond the backlog is refused whole, and accepted later."""
    async with opened(max_backlog=3) as (ingest, store):
        store.is_open.clear()
        task = asyncio.create_task(accept(ingest, items("a", "b")))
        await until(lambda: bool(store.groups))
        with pytest.raises(BacklogFull, match="2 events wait"):
            await accept(ingest, items("c", "d"), "other")
        last = asyncio.create_task(accept(ingest, items("e"), "other"))
        await asyncio.sleep(0)
        with pytest.raises(BacklogFull, match="3 events wait") as raised:
            await accept(ingest, items("f"), "other")
        assert raised.value.retry_after_s > 0
        store.is_open.set()
        await asyncio.gather(task, last)

        assert ids_of(await accept(ingest, items("c", "d"))) == ["c", "d"]


async def test_an_application_leaves_room_for_others(
    opened: Open, items: Items, until: Until
) -> None:
    """An application reserves as much as it leaves free, of events and of bytes."""
    async with opened(max_backlog=8, max_backlog_bytes=8) as (ingest, store):
        store.is_open.clear()
        tasks = [asyncio.create_task(accept(ingest, items("first")))]
        await until(lambda: bool(store.groups))
        tasks += [asyncio.create_task(accept(ingest, items(each))) for each in "abc"]
        await asyncio.sleep(0)
        with pytest.raises(BacklogFull, match="4 bytes wait"):
            await accept(ingest, items("d"))
        tasks += [
            asyncio.create_task(accept(ingest, items(each), "other")) for each in "ef"
        ]
        await asyncio.sleep(0)
        with pytest.raises(BacklogFull, match="6 bytes wait"):
            await accept(ingest, items("g"), "other")
        tasks.append(asyncio.create_task(accept(ingest, items("h"), "third")))
        await asyncio.sleep(0)
        store.is_open.set()
        receipts = await asyncio.gather(*tasks)

    assert ["".join(map(str, ids_of(each))) for each in receipts] == [
        "first",
        *"abcefh",
    ]


async def test_applications_take_turns(
    opened: Open, items: Items, until: Until
) -> None:
    """Events of an application do not wait behind all events of another one."""
    async with opened(commit_max_events=2) as (ingest, store):
        store.is_open.clear()
        tasks = [asyncio.create_task(accept(ingest, items("first")))]
        await until(lambda: bool(store.groups))
        for each in "abcdexy":
            application = "other" if each in "xy" else "shop"
            sent = accept(ingest, items(each), application)
            tasks.append(asyncio.create_task(sent))
        await asyncio.sleep(0)
        store.is_open.set()
        await asyncio.gather(*tasks)

    groups = ["".join(map(_id, group)) for group in store.groups]
    assert groups == ["first", "ax", "by", "cd", "e"]


async def test_a_wait_is_bounded(
    opened: Open, items: Items, database: Database, until: Until, loop_time: LoopTime
) -> None:
    """Events that wait too long are refused; those whose write has begun are not."""
    async with opened() as (ingest, store):
        store.is_open.clear()
        first = asyncio.create_task(accept(ingest, items("a")))
        await until(lambda: bool(store.groups))
        second = asyncio.create_task(accept(ingest, items("b")))
        await asyncio.sleep(0)
        await loop_time.pass_s(QUEUE_WAIT_S)
        with pytest.raises(BacklogFull, match="not begun to be written in"):
            await second
        store.is_open.set()

        assert ids_of(await first) == ["a"]
        assert await stored_ids(database) == ["a"]
    assert sample("copilot_usage_events_backlog") == 0
    assert sample("copilot_usage_events_backlog_bytes") == 0


async def test_the_writer_outlives_an_expired_queue(
    database: Database, settings: MakeSettings, items: Items
) -> None:
    """If all waiting events are refused, the next ones are written nevertheless."""
    events = {"commit_wait_ms": 1_000.0, "commit_max_events": 2}
    store = EventStore(database)
    async with running_ingest(settings(events=events).events, store, 0.01) as ingest:
        with pytest.raises(BacklogFull):
            await accept(ingest, items("late"))

        assert ids_of(await accept(ingest, items("a", "b"))) == ["a", "b"]
    assert await stored_ids(database) == ["a", "b"]


async def test_bytes_stay_reserved_while_events_wait(
    opened: Open, items: Items, until: Until
) -> None:
    """The bytes of a cancelled request are released when its events are written."""
    async with opened(max_backlog_bytes=2) as (ingest, store):
        store.is_open.clear()
        task = asyncio.create_task(accept(ingest, items("a")))
        await until(lambda: bool(store.groups))
        task.cancel()
        await asyncio.wait([task])
        with (
            pytest.raises(BacklogFull, match="1 bytes wait"),
            ingest.reserve("other", 2),
        ):
            pass
        store.is_open.set()
        await until(lambda: sample("copilot_usage_events_backlog_bytes") == 0)

        assert ids_of(await accept(ingest, items("b"), "other")) == ["b"]


async def test_the_end_of_the_writer_fails_all(
    opened: Open, items: Items, until: Until, *, log_entries: list[EventDict]
) -> None:
    """Waiting requests get an error, further ones too at once, and a line says so."""
    async with opened() as (ingest, store):
        store.is_open.clear()
        store.failures = [Fatal("a bug")]
        tasks = [asyncio.create_task(accept(ingest, items("a")))]
        await until(lambda: bool(store.groups))
        tasks.append(asyncio.create_task(accept(ingest, items("b"))))
        await asyncio.sleep(0)
        store.is_open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(StorageUnavailable, match="the writer of events has ended"):
            await accept(ingest, items("c"))

        assert ingest.failure == "the writer of events has ended"
    assert {type(each) for each in results} == {StorageUnavailable}
    (entry,) = [each for each in log_entries if each["log_level"] == "error"]
    assert entry["event"] == "events.writer_failed"


async def test_the_writer_goes_on_after_a_defect(
    opened: Open,
    items: Items,
    monkeypatch: pytest.MonkeyPatch,
    *,
    log_entries: list[EventDict],
) -> None:
    """The requests of its group get an error, and the next group is stored."""
    monkeypatch.setattr(ingest_module, "RECOVERY_S", 0.0)
    async with opened() as (ingest, _):
        with monkeypatch.context() as patched:
            patched.setattr(Ingest, "_start", Mock(side_effect=ZeroDivisionError))
            with pytest.raises(StorageUnavailable, match="the writer has failed"):
                await accept(ingest, items("a"))
        assert ids_of(await accept(ingest, items("b"))) == ["b"]

        assert ingest.failure is None
    (entry,) = [each for each in log_entries if each["log_level"] == "error"]
    assert entry["event"] == "events.writer_failed"


async def test_closing_does_not_wait_for_a_hanging_write(
    opened: Open, items: Items, until: Until, loop_time: LoopTime
) -> None:
    """After a bounded time the write is cancelled, and its requests get an error."""
    async with opened() as (ingest, store):
        store.is_open.clear()
        task = asyncio.create_task(accept(ingest, items("a")))
        await until(lambda: bool(store.groups))
        passing = asyncio.create_task(loop_time.pass_s(QUEUE_WAIT_S))
    await passing
    with pytest.raises(StorageUnavailable):
        await task


async def test_a_single_request_may_exceed_the_backlog(
    opened: Open, items: Items
) -> None:
    """Without other requests it is accepted; otherwise it could never be stored."""
    async with opened(max_backlog=1) as (ingest, _):
        assert ids_of(await accept(ingest, items("a", "b"))) == ["a", "b"]


def test_times_of_arrival_only_increase(items: Items) -> None:
    """Times are unique and increase even if the clock stops or goes back."""
    times = iter([100, 100, 50, 101, 1_000])
    arrivals = Arrivals(lambda: next(times))

    groups = [arrivals.stamp(items("a", "b")) for _ in range(5)]

    moments = [each.received_at for group in groups for each in group]
    assert moments == [100, 101, 102, 103, 104, 105, 106, 107, 1_000, 1_001]


def test_times_of_arrival_return_to_the_clock(items: Items) -> None:
    """After a jump into the future and back, they are at most seconds ahead of it."""
    second = US_PER_S
    times = iter([0, 3_600 * second, 5 * second, 6 * second, 0, 0, 17 * second])
    arrivals = Arrivals(lambda: next(times))

    moments = [arrivals.stamp(items("a"))[0].received_at for _ in range(7)]

    assert moments == [
        *(1, 3_600 * second, 5 * second, 6 * second),
        # The clock went back by a few seconds only: it will catch up soon.
        *(6 * second + 1, 6 * second + 2, 17 * second),
    ]


async def test_pages_skip_no_event_after_the_clock_has_gone_back(
    database: Database, items: Items
) -> None:
    """Events with earlier and with equal times of arrival are on one page each."""
    hour = 3_600 * US_PER_S
    times = iter([hour, 2 * hour, hour, hour - US_PER_S, 3 * hour, hour])
    store = EventStore(database)
    arrivals = Arrivals(lambda: next(times))
    for name in "fedcba":
        await store.store(arrivals.stamp(items(name)))
    queries = EventQueries(database)

    listed: list[tuple[str, str | None]] = []
    page = await queries.events(EventFilter("shop"), 1)
    while isinstance(page.next, EventCursor):
        listed += [(each.received_at, each.id) for each in page.items]
        page = await queries.events(EventFilter("shop"), 1, page.next)
    listed += [(each.received_at, each.id) for each in page.items]

    assert listed == sorted(listed)
    assert sorted(str(name) for _, name in listed) == list("abcdef")
    assert len({received_at for received_at, _ in listed}) < len(listed)


async def test_a_full_group_does_not_wait_for_the_one_before(
    opened: Open, items: Items, until: Until, database: Database
) -> None:
    """Two groups are written at once, and what is no full group forms the next one."""
    async with opened(overlaps=True, commit_max_events=2) as (ingest, store):
        store.is_open.clear()
        tasks = [asyncio.create_task(accept(ingest, items("0")))]
        await until(lambda: store.sizes == [1])
        tasks += [asyncio.create_task(accept(ingest, items(each))) for each in "12345"]
        await until(lambda: store.sizes == [1, 2])
        store.is_open.set()
        assert [(await each).accepted for each in tasks] == [1] * 6
    assert sorted(await stored_ids(database)) == list("012345")


async def test_events_of_groups_that_overlap_are_stored_once(
    opened: Open, items: Items, until: Until, database: Database
) -> None:
    """Equal events in two groups that are written at once get one place."""
    async with opened(overlaps=True, commit_max_events=2) as (ingest, store):
        store.is_open.clear()
        tasks = [asyncio.create_task(accept(ingest, items("a", "b"))) for _ in range(4)]
        await until(lambda: len(store.sizes) == 2)
        store.is_open.set()
        receipts = [await each for each in tasks]
    assert sum(each.accepted for each in receipts) == 2
    assert sum(each.duplicates for each in receipts) == 6
    assert sorted(await stored_ids(database)) == ["a", "b"]


async def test_a_defect_fails_one_of_two_groups(
    opened: Open, items: Items, until: Until
) -> None:
    """The other group is stored, and the end of the writers fails what still waits."""
    async with opened(overlaps=True, commit_max_events=1) as (ingest, store):
        store.is_open.clear()
        store.failures = [ValueError("a defect")]
        tasks = [asyncio.create_task(accept(ingest, items(each))) for each in "ab"]
        await until(lambda: len(store.sizes) == 2)
        store.is_open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(type(each).__name__ for each in results) == [
            "Receipt",
            "ValueError",
        ]


async def test_a_defect_of_one_answer_fails_no_other(
    opened: Open, items: Items, until: Until
) -> None:
    """The other requests of its group get their receipts."""
    async with opened(commit_max_events=9) as (ingest, store):
        store.is_open.clear()
        first = asyncio.create_task(accept(ingest, items("first")))
        await until(lambda: store.sizes == [1])
        with ingest.reserve("shop", 1) as reservation:
            ingest.submit(items("a"), reservation, Mock(side_effect=ValueError))
        second = asyncio.create_task(accept(ingest, items("b")))
        await until(lambda: ingest.backlog[0] == 3)
        store.is_open.set()
        assert [(await each).accepted for each in (first, second)] == [1, 1]


async def test_the_end_waits_for_both_groups(
    opened: Open, items: Items, until: Until, database: Database
) -> None:
    """All accepted events are stored when the ingest has closed."""
    async with opened(overlaps=True, commit_max_events=1) as (ingest, store):
        store.is_open.clear()
        tasks = [asyncio.create_task(accept(ingest, items(each))) for each in "abc"]
        await until(lambda: len(store.sizes) == 2)
        asyncio.get_running_loop().call_soon(store.is_open.set)
    assert [(await each).accepted for each in tasks] == [1] * 3
    assert sorted(await stored_ids(database)) == list("abc")
