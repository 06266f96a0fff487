"""Events go to disk in groups, and all who wait hear what became of theirs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from msgspec import UNSET
from structlog.typing import EventDict

from service.events.errors import BacklogFull
from service.events.ingest import Ingest, running_ingest
from service.events.model import Event, Failure, Receipt
from service.events.questions import Filter, Questions
from service.events.reading import EventReader
from service.events.store import Arrival, EventStore, Stored
from service.storage.database import Database
from service.storage.errors import StorageUnavailable, ValueRefused
from tests.conftest import MakeSettings
from tests.events.conftest import event

Open = Callable[..., AbstractAsyncContextManager[tuple[Ingest, "GatedStore"]]]
Until = Callable[[Callable[[], bool]], Any]


class GatedStore(EventStore):
    """Stores when it is let, after failing as it was told to."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.gate = asyncio.Event()
        self.gate.set()
        self.groups: list[list[Arrival]] = []
        self.failures: list[Exception] = []
        self.refused_id = "none"

    async def store(self, arrivals: Sequence[Arrival]) -> list[Stored]:
        """Store a group, or fail."""
        self.groups.append(list(arrivals))
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.refused_id in {_id(each) for each in arrivals}:
            raise ValueRefused("no such value")
        return await super().store(arrivals)

    @property
    def sizes(self) -> list[int]:
        """How many events each group had."""
        return [len(group) for group in self.groups]


def _id(arrival: Arrival) -> str:
    return arrival.item.id if isinstance(arrival.item, Event) else ""


@pytest.fixture
def opened(database: Database, settings: MakeSettings) -> Open:
    """A factory of running ingests that commit without waiting, each with its store."""

    @asynccontextmanager
    async def run(**events: Any) -> AsyncIterator[tuple[Ingest, GatedStore]]:
        store = GatedStore(database)
        given = settings(events={"commit_wait_ms": 0.0, **events}).events
        async with running_ingest(given, store) as ingest:
            yield ingest, store

    return run


@pytest.fixture
def items(reader: EventReader) -> Callable[..., list[Event | Failure]]:
    """A factory of a request's events, by their ids."""

    def make(*ids: str, **more: Any) -> list[Event | Failure]:
        said = [json.dumps(event(id=each, **more)).encode() for each in ids]
        return [reader.read(each, "shop") for each in said]

    return make


Items = Callable[..., list[Event | Failure]]


async def stored_ids(database: Database) -> list[str]:
    """The ids of what is on disk, in order of arrival."""
    page = await Questions(database).events(Filter("shop"), 1_000)
    return [each.id for each in sorted(page.items, key=lambda each: each.received_at)]


def ids_of(receipt: Receipt) -> list[str | None]:
    """The ids of a receipt, all of them accepted."""
    assert receipt.accepted == len(receipt.results)
    return [each.id for each in receipt.results]


async def test_requests_share_a_commit(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """What comes while a group is written is the next; each has its own receipt."""
    async with opened() as (ingest, store):
        store.gate.clear()
        first = asyncio.create_task(ingest.take(items("a")))
        await until(lambda: store.sizes == [1])
        requests = [items("b", "c"), items("d"), items("e", "f", "g")]
        tasks = [asyncio.create_task(ingest.take(each)) for each in requests]
        await asyncio.sleep(0)
        store.gate.set()
        receipts = await asyncio.gather(first, *tasks)

    assert store.sizes == [1, 6]
    assert list(map(ids_of, receipts)) == [["a"], ["b", "c"], ["d"], ["e", "f", "g"]]
    assert await stored_ids(database) == list("abcdefg")


async def test_a_receipt_tells_of_each_event(
    opened: Open, items: Items, reader: EventReader
) -> None:
    """In the order sent: what became of it, with its errors if there are any."""
    broken = reader.read(json.dumps(event(id="c", name="")).encode(), "shop")
    sent = [*items("a"), broken, *items("a"), *items("a", name="other"), *items("b")]
    async with opened() as (ingest, _):
        receipt = await ingest.take(sent)

    statuses = [(each.id, each.status) for each in receipt.results]
    assert statuses == [
        ("a", "accepted"),
        ("c", "failed"),
        ("a", "duplicate"),
        ("a", "conflict"),
        ("b", "accepted"),
    ]
    assert (receipt.accepted, receipt.duplicates, receipt.failed) == (2, 1, 2)
    codes = [
        each.errors and [error.code for error in each.errors]
        for each in receipt.results
    ]
    assert codes == [UNSET, ["wrong_length"], UNSET, ["conflict"], UNSET]


async def test_identity_holds_across_requests(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """In one group or in two, the first is kept, and the others are told so."""
    async with opened() as (ingest, store):
        store.gate.clear()
        tasks = [asyncio.create_task(ingest.take(items("0")))]
        await until(lambda: len(store.groups) == 1)
        requests = [items("a"), items("a"), items("a", name="other")]
        tasks += [asyncio.create_task(ingest.take(each)) for each in requests]
        await asyncio.sleep(0)
        store.gate.set()
        together = await asyncio.gather(*tasks)
        later = [await ingest.take(items("a")), await ingest.take(items("a", name="x"))]

    statuses = [each.results[0].status for each in (*together[1:], *later)]
    assert statuses == ["accepted", "duplicate", "conflict", "duplicate", "conflict"]
    assert await stored_ids(database) == ["0", "a"]


async def test_a_group_is_bounded(opened: Open, items: Items, until: Until) -> None:
    """As many as fit go together, in their order; one request is never torn apart."""
    async with opened(commit_max_events=3) as (ingest, store):
        store.gate.clear()
        sent = [
            items("a"),
            items("b", "c"),
            items("d", "e"),
            items(*"fghij"),
            items("k"),
        ]
        tasks = [asyncio.create_task(ingest.take(each)) for each in sent]
        await until(lambda: bool(store.groups))
        store.gate.set()
        await asyncio.gather(*tasks)

    assert ["".join(map(_id, group)) for group in store.groups] == [
        "abc",
        "de",
        "fghij",
        "k",
    ]


async def test_a_full_group_waits_no_longer(opened: Open, items: Items) -> None:
    """The wait for more ends when the group is full."""
    async with opened(commit_wait_ms=1_000.0, commit_max_events=2) as (ingest, store):
        await asyncio.gather(ingest.take(items("a")), ingest.take(items("b")))

    assert store.sizes == [2]


async def test_a_wait_lets_others_join(opened: Open, items: Items) -> None:
    """Requests that come one after the other are committed together."""
    async with opened(commit_wait_ms=1_000.0, commit_max_events=3) as (ingest, store):
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(ingest.take(items(name))))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    assert store.sizes == [3]


async def test_a_wait_ends(opened: Open, items: Items) -> None:
    """Who comes alone is stored all the same."""
    async with opened(commit_wait_ms=1.0) as (ingest, store):
        await ingest.take(items("a"))

    assert store.sizes == [1]


async def test_a_refused_value_fails_its_request_alone(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """Where the database takes one value not, the others of the group are stored."""
    async with opened() as (ingest, store):
        store.refused_id = "bad"
        store.gate.clear()
        sent = [items("0"), items("a"), items("b", "bad"), items("c")]
        tasks = [asyncio.create_task(ingest.take(sent[0]))]
        await until(lambda: bool(store.groups))
        tasks += [asyncio.create_task(ingest.take(each)) for each in sent[1:]]
        await asyncio.sleep(0)
        store.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(each, Receipt) for each in results] == [True, True, False, True]
    assert isinstance(results[2], ValueRefused)
    assert await stored_ids(database) == ["0", "a", "c"]


@pytest.mark.parametrize(
    "failure", [StorageUnavailable("disk full"), ZeroDivisionError("a bug")]
)
async def test_a_failure_is_told_to_all(
    opened: Open,
    items: Items,
    database: Database,
    log_entries: list[EventDict],
    failure: Exception,
) -> None:
    """Nobody waits for ever, nothing is answered as stored, and the next are."""
    async with opened() as (ingest, store):
        store.failures = [failure]
        sent = [ingest.take(items("a")), ingest.take(items("b"))]
        results = await asyncio.gather(*sent, return_exceptions=True)
        assert results == [failure, failure]
        assert await stored_ids(database) == []

        assert ids_of(await ingest.take(items("a"))) == ["a"]

    entry, *others = [each for each in log_entries if each["log_level"] == "error"]
    assert not others
    assert entry["event"] == "events.commit_failed"
    assert entry["events"] == 2
    assert entry["reason"] == str(failure)
    assert entry["error.type"] == type(failure).__name__
    assert ("exc_info" in entry) == isinstance(failure, ZeroDivisionError)


async def test_who_gives_up_disturbs_no_one(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """Its events are stored, as others' in the group, since they were taken."""
    async with opened() as (ingest, store):
        store.gate.clear()
        tasks = [asyncio.create_task(ingest.take(items(name))) for name in "abc"]
        await until(lambda: bool(store.groups))
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        store.gate.set()
        receipts = [await tasks[0], await tasks[2]]

    assert list(map(ids_of, receipts)) == [["a"], ["c"]]
    assert await stored_ids(database) == ["a", "b", "c"]


async def test_giving_up_and_failing_go_together(
    opened: Open, items: Items, until: Until
) -> None:
    """A failure has no one to be told to, and the writer goes on."""
    async with opened() as (ingest, store):
        store.failures = [StorageUnavailable("disk full")]
        store.gate.clear()
        task = asyncio.create_task(ingest.take(items("a")))
        await until(lambda: bool(store.groups))
        task.cancel()
        await asyncio.wait([task])
        store.gate.set()

        assert ids_of(await ingest.take(items("b"))) == ["b"]


async def test_closing_writes_what_waits(
    opened: Open, items: Items, database: Database, until: Until
) -> None:
    """All that was taken is on disk and answered before the end; no more is taken."""
    async with opened(commit_max_events=1) as (ingest, store):
        store.gate.clear()
        tasks = [asyncio.create_task(ingest.take(items(name))) for name in "abc"]
        await until(lambda: bool(store.groups))
        ingest.close()
        with pytest.raises(BacklogFull, match="about to stop"):
            await ingest.take(items("d"))
        store.gate.set()

    assert [ids_of(await task) for task in tasks] == [["a"], ["b"], ["c"]]
    assert await stored_ids(database) == ["a", "b", "c"]


async def test_the_backlog_is_bounded(opened: Open, items: Items, until: Until) -> None:
    """What would wait beyond it is refused whole, and taken when there is room."""
    async with opened(max_backlog=3) as (ingest, store):
        store.gate.clear()
        task = asyncio.create_task(ingest.take(items("a", "b")))
        await until(lambda: bool(store.groups))
        with pytest.raises(BacklogFull, match="2 events wait"):
            await ingest.take(items("c", "d"))
        last = asyncio.create_task(ingest.take(items("e")))
        await asyncio.sleep(0)
        with pytest.raises(BacklogFull, match="3 events wait") as raised:
            await ingest.take(items("f"))
        assert raised.value.retry_after_s > 0
        store.gate.set()
        await asyncio.gather(task, last)

        assert ids_of(await ingest.take(items("c", "d"))) == ["c", "d"]


async def test_a_request_larger_than_the_backlog_is_taken(
    opened: Open, items: Items
) -> None:
    """Alone it may be: otherwise it could never be stored."""
    async with opened(max_backlog=1) as (ingest, _):
        assert ids_of(await ingest.take(items("a", "b"))) == ["a", "b"]


async def test_no_events_are_stored_at_once(opened: Open) -> None:
    """An empty request has its receipt without any commit."""
    async with opened() as (ingest, store):
        receipt = await ingest.take([])

    assert receipt == Receipt(accepted=0, duplicates=0, failed=0, results=[])
    assert store.groups == []


def test_arrivals_only_increase(
    database: Database, settings: MakeSettings, items: Items
) -> None:
    """Also when the clock stands or goes back, no two events came at one moment."""
    times = iter([100, 100, 50, 101, 1_000])
    ingest = Ingest(settings().events, EventStore(database), lambda: next(times))

    arrived = [ingest.arrive(items("a", "b")) for _ in range(5)]

    moments = [each.received_at for arrivals in arrived for each in arrivals]
    assert moments == [100, 101, 102, 103, 104, 105, 106, 107, 1_000, 1_001]


async def test_a_commit_is_logged(
    opened: Open, items: Items, log_entries: list[EventDict]
) -> None:
    """For who looks closely, each commit says how much was in it."""
    async with opened() as (ingest, _):
        await ingest.take(items("a", "b"))

    (entry,) = [each for each in log_entries if each["event"] == "events.committed"]
    assert entry["log_level"] == "debug"
    assert (entry["events"], entry["requests"]) == (2, 1)
    assert entry["duration_s"] >= 0
