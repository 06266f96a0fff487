"""Storage of a partition's messages: sizes of transactions, and counted results."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
from msgspec.structs import replace
from structlog.typing import EventDict

from service.events.model import EventFailure, Origin, Source
from service.events.parsing import EventParser
from service.events.queue import metrics, storing
from service.events.queue.deliveries import Delivery
from service.events.queue.message import QueuedRequest, encode
from service.events.queue.storing import QueueStore, Stopped
from service.events.store import EventStore, ReceivedEvent, Stored
from service.storage.database import Database
from service.storage.errors import StorageTimeout, ValueRefused
from tests.events.conftest import on_sqlite
from tests.events.queue.publishing import Item, with_time
from tests.events.queue.test_writer import failed, ids_in_feed, sent

pytestmark = on_sqlite
FIRST_EVENTS: Final = 4
NOT_STORED: Final = "events.queue_not_stored"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store few events at once, and try again at once."""
    monkeypatch.setattr(storing, "FIRST_EVENTS", FIRST_EVENTS)
    monkeypatch.setattr(storing, "PAUSE_S", 0.001)


class Limited(EventStore):
    """A store that does not store more than so many events in time."""

    def __init__(self, database: Database, limit: int) -> None:
        super().__init__(database, keeps_order=True)
        self.limit = limit
        self.sizes: list[int] = []
        """Those of all transactions."""

    async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store events unless they are too many."""
        self.sizes.append(len(received))
        if len(received) > self.limit:
            raise StorageTimeout("no answer in time")
        return await super().store(received)


def queue_store(store: EventStore) -> QueueStore:
    """Return the store of a partition."""
    return QueueStore(store, 0, asyncio.Semaphore(2), asyncio.Event())


def batch_of(*requests: Sequence[Item]) -> list[Delivery]:
    """Return the messages of requests."""
    messages = [encode(QueuedRequest("shop", list(each))) for each in requests]
    return [Delivery(each, "", place, place) for place, each in enumerate(messages)]


def events_of(parser: EventParser, first: int, number: int) -> list[Item]:
    """Return events with numbers as ids."""
    ids = range(first, first + number)
    return [parser.parse(sent(f"{each:04}"), "shop") for each in ids]


async def test_a_batch_that_takes_too_long_is_stored_in_parts(
    parser: EventParser,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """It has one attempt and one log line, and the next batches have none."""
    limited = Limited(database, 1_000)
    store = queue_store(limited)
    await store.store(batch_of(events_of(parser, 0, 60)))
    monkeypatch.setattr(storing, "QUICK_S", 0.0)
    limited.limit = FIRST_EVENTS
    limited.sizes.clear()
    batch = batch_of(events_of(parser, 60, 5), events_of(parser, 65, 11))
    outcomes = await store.store(batch)
    await store.store(batch_of(events_of(parser, 76, 8)))

    assert limited.sizes == [16, *[4] * 6]
    assert [len(stored) for _, stored in outcomes] == [5, 11]
    assert all(each.is_new for _, stored in outcomes for each in stored)
    assert await ids_in_feed(database) == [f"{each:04}" for each in range(84)]
    (line,) = [each for each in log_entries if each["event"] == NOT_STORED]
    assert (line["error.type"], line["events"]) == ("StorageTimeout", 16)


async def test_a_quick_transaction_lets_the_next_one_be_larger(
    parser: EventParser, database: Database
) -> None:
    """The first one is small: the database may just have been started, too."""
    limited = Limited(database, 1_000)
    store = queue_store(limited)
    await store.store(batch_of(events_of(parser, 0, 64)))
    await store.store(batch_of(events_of(parser, 64, 64)))

    assert limited.sizes == [4, 4, 8, 16, 32, 64]


async def test_a_batch_is_halved_until_its_parts_are_stored_in_time(
    parser: EventParser, database: Database, log_entries: list[EventDict]
) -> None:
    """Also below the first size: a database may be slower than anybody expects."""
    limited = Limited(database, 1)
    store = queue_store(limited)
    await store.store(batch_of(events_of(parser, 0, 4)))

    assert limited.sizes[:4] == [4, 2, 1, 1]
    assert await ids_in_feed(database) == [f"{each:04}" for each in range(4)]
    lines = [each for each in log_entries if each["event"] == NOT_STORED]
    # Each size once until the next success.
    assert [each["events"] for each in lines[:2]] == [4, 2]


async def test_transactions_grow_again_when_they_are_slow(
    parser: EventParser, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take long whatever its size, as a commit to a distant replica does."""
    monkeypatch.setattr(storing, "QUICK_S", 0.0)
    limited = Limited(database, 1)
    store = queue_store(limited)
    await store.store(batch_of(events_of(parser, 0, 4)))
    limited.limit = 1_000
    for first in range(4, 20, 4):
        await store.store(batch_of(events_of(parser, first, 4)))

    assert limited.sizes[-1] == FIRST_EVENTS


async def test_a_part_whose_first_attempt_was_committed_is_a_duplicate(
    parser: EventParser, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a commit may be lost in a time-out."""
    batch = batch_of(events_of(parser, 0, 10))
    await queue_store(EventStore(database, keeps_order=True)).store(batch)
    monkeypatch.setattr(storing, "QUICK_S", 0.0)
    limited = Limited(database, FIRST_EVENTS)
    ((_, stored),) = await queue_store(limited).store(batch)

    assert not any(each.is_new or each.conflict for each in stored)
    assert await ids_in_feed(database) == [f"{each:04}" for each in range(10)]


async def test_a_writer_that_ends_begins_no_further_part(
    parser: EventParser, database: Database
) -> None:
    """The messages come again, to the next writer."""
    stopped = asyncio.Event()

    class Stopping(Limited):
        """A store during whose first transaction the writer is stopped."""

        async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
            """Store events."""
            stopped.set()
            return await super().store(received)

    store = QueueStore(Stopping(database, 1_000), 0, asyncio.Semaphore(2), stopped)
    with pytest.raises(Stopped):
        await store.store(batch_of(events_of(parser, 0, 8)))
    assert len(await ids_in_feed(database)) == FIRST_EVENTS


class NoFailures(EventStore):
    """A store that refuses all failed events."""

    async def store(self, received: Sequence[ReceivedEvent]) -> list[Stored]:
        """Store events."""
        if any(isinstance(each.item, EventFailure) for each in received):
            raise ValueRefused("not this one")
        return await super().store(received)


async def test_results_are_counted_as_in_receipts(
    parser: EventParser, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed event that is refused is no new one, and no conflict."""
    counted: list[Mapping[str, int]] = []
    monkeypatch.setattr(metrics, "events_stored", counted.append)
    invalid = parser.parse(b"{", "shop")
    new, twice, other = (parser.parse(sent(each), "shop") for each in "abc")
    conflict = parser.parse(sent("c", name="other"), "shop")
    batch = batch_of([invalid], [new, twice, twice, other, conflict])
    store = EventStore(database, keeps_order=True)
    await queue_store(store).store(batch)
    await queue_store(NoFailures(database, keeps_order=True)).store(batch[:1])
    await asyncio.sleep(0)

    # Each transaction has its own count, so that the metric grows within a large batch.
    assert counted == [
        {"accepted": 2, "failed": 1},
        {"accepted": 1, "duplicate": 1, "conflict": 1},
        {"failed": 1},
    ]


async def test_a_defect_of_metrics_keeps_no_message_in_the_stream(
    parser: EventParser, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages are stored, and are to be acknowledged."""
    monkeypatch.setattr(metrics, "events_stored", None)
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    store = queue_store(EventStore(database, keeps_order=True))
    assert await store.store(batch_of(events_of(parser, 0, 1)))
    await asyncio.sleep(0)
    assert [type(each["exception"]) for each in reported] == [TypeError]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"source": Source(["text"], 7)}, id="no such text"),  # type: ignore[list-item]
        pytest.param({"origin": Origin("x" * 17)}, id="no such format"),
    ],
)
async def test_a_refused_event_without_a_text_is_kept(
    parser: EventParser, database: Database, fields: dict[str, Any]
) -> None:
    """Another program may publish what no text can be made of."""
    (item,) = events_of(parser, 0, 1)
    # No number of the database is so large.
    unreadable = replace(with_time(item, 2**63), **fields)
    store = queue_store(EventStore(database, keeps_order=True))
    await store.store(batch_of([unreadable]))
    (kept,) = await failed(database)
    assert (kept.application, kept.codes) == ("shop", "value_refused")
