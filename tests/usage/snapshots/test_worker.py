"""Workers: the same snapshots in this process and in a child, and the child's end."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.cursors import MessageCursor
from service.usage.snapshots.errors import (
    CursorExpired,
    MessageNotFound,
    RevisionGone,
    TextsMissing,
)
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.logged_prices import PriceLogging
from service.usage.snapshots.process_worker import ProcessWorker
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.store import SnapshotStore
from service.usage.snapshots.worker import (
    INLINE_MESSAGES,
    InlineWorker,
    PricingWorker,
)
from tests.leftovers import child_pids
from tests.patience import GIVE_UP_S
from tests.reference import body_of, message
from tests.usage.conftest import Until

DEFAULT: Final = TEXT_RULES.id
OTHER: Final = TOKEN_ESTIMATE.id
LOGGING: Final = PriceLogging("a1", 100)
MESSAGES: Final = [message(n, "rent " * n, report_id=7 + n % 2) for n in range(40)]
REPORTS: Final = ResolvedReports([ReportPrice("Lease", 6100), None], [1])


async def add(
    worker: PricingWorker,
    number: int = 1,
    messages: list[dict[str, Any]] = MESSAGES,
    reports: ResolvedReports = REPORTS,
) -> None:
    """Load and build a snapshot."""
    await worker.load(number, bytearray(body_of(messages)), None)
    await worker.compute(
        SnapshotStore.build, number, None, reports, LOGGING, plan=DEFAULT
    )


async def every_answer_of(worker: PricingWorker, number: int = 1) -> list[object]:
    """Return the answer to every query."""
    page = Selection(limit=3)
    return [
        *[bytes(await worker.answer(number, DEFAULT, each)) for each in FORMATS],
        await worker.query(SnapshotStore.extract, number, DEFAULT, JSON, page),
        await worker.query(SnapshotStore.explain, number, DEFAULT, 3),
        await worker.query(SnapshotStore.daily, number, DEFAULT, "Europe/London"),
        await worker.query(SnapshotStore.by_report, number, DEFAULT),
        await worker.query(SnapshotStore.price, number, DEFAULT, LOGGING),
        await worker.query(SnapshotStore.messages, number),
        await worker.pack(number, DEFAULT),
    ]


@pytest.fixture
async def worker() -> AsyncIterator[ProcessWorker]:
    """Keeps the messages above in a child, as snapshot 1."""
    worker = ProcessWorker()
    await add(worker)
    yield worker
    await worker.close()


async def test_both_workers_answer_alike(worker: ProcessWorker) -> None:
    """No byte, value or error shows in which process a snapshot is."""
    inline = InlineWorker()
    await add(inline)

    assert await every_answer_of(worker) == await every_answer_of(inline)
    each: PricingWorker
    for each in (worker, inline):
        assert each.has(1)
        assert not each.has(2)
        gone = Selection(
            cursor=MessageCursor("", "", 99, (0, 0), 0, "", (0, 1), (0, 1), 40, "")
        )
        with pytest.raises(MessageNotFound, match="no message 99"):
            await each.query(SnapshotStore.explain, 1, DEFAULT, 99)
        with pytest.raises(CursorExpired):
            await each.query(SnapshotStore.extract, 1, DEFAULT, JSON, gone)
        with pytest.raises(RevisionGone):
            await each.query(SnapshotStore.by_report, 2, DEFAULT)
        with pytest.raises(msgspec.ValidationError, match=r"\$\.messages\[0\]"):
            await each.load(2, bytearray(b'{"messages":[{}]}'), None)
        assert each.has(1)


async def test_a_period_that_grows_in_the_child_is_answered_alike(
    worker: ProcessWorker,
) -> None:
    """What is taken over of a body of several chunks shows in no answer."""
    inline, many = InlineWorker(), MESSAGES * 100
    grown = [*many[:3_000], message(99, "corrected"), *many[3_001:], message(98)]
    await add(worker, 2, many)
    await worker.load(3, bytearray(body_of(grown)), 2)
    await worker.compute(SnapshotStore.build, 3, 2, REPORTS, LOGGING, plan=DEFAULT)
    await add(inline, 3, grown)

    for media_type in FORMATS:
        expected = await inline.answer(3, DEFAULT, media_type)
        assert bytes(await worker.answer(3, DEFAULT, media_type)) == bytes(expected)
    page = Selection(limit=3)
    extracts = [await each.extract(3, DEFAULT, JSON, page) for each in (worker, inline)]
    assert extracts[0].body == extracts[1].body
    await inline.close()


async def test_both_workers_adopt_alike(worker: ProcessWorker) -> None:
    """Packed columns of either worker are answered from in the other."""
    inline = InlineWorker()
    await inline.adopt(5, await worker.pack(1, DEFAULT))
    await worker.adopt(6, await inline.pack(5, DEFAULT))

    assert inline.has(5)
    assert worker.has(6)
    assert await every_answer_of(inline, 5) == await every_answer_of(worker, 6)
    for each, number in ((inline, 5), (worker, 6)):
        with pytest.raises(TextsMissing):
            await each.query(SnapshotStore.price, number, OTHER, LOGGING)
        with pytest.raises(msgspec.DecodeError):
            await each.adopt(9, b"nonsense")
        assert not each.has(9)


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
async def test_a_query_on_many_messages_leaves_the_event_loop(
    *, is_large: bool
) -> None:
    """Only what takes microseconds runs where it keeps other requests waiting."""
    worker = InlineWorker()
    count = INLINE_MESSAGES + is_large
    await add(worker, 1, [message(n) for n in range(count)], ResolvedReports((), ()))

    def thread(_store: SnapshotStore, _number: int) -> threading.Thread:
        return threading.current_thread()

    ran_in_main = await worker.query(thread, 1) is threading.main_thread()
    assert ran_in_main is not is_large


# Snapshots that nobody needs.


async def test_a_dropped_snapshot_is_gone(worker: ProcessWorker, until: Until) -> None:
    """Neither worker keeps it, and the drop waits for nothing."""
    inline = InlineWorker()
    await add(inline)
    each: PricingWorker
    for each in (inline, worker):
        each.drop(1)
        each.drop(1)
        assert not each.has(1)
    with pytest.raises(RevisionGone):
        await inline.query(SnapshotStore.messages, 1)

    async def is_gone() -> bool:
        try:
            await worker.query(SnapshotStore.messages, 1)
        except RevisionGone:
            return True
        return False

    async with asyncio.timeout(GIVE_UP_S):
        while not await is_gone():
            pass


# The end.


async def test_closing_an_unused_worker() -> None:
    """A service that never met a large period has nothing to end."""
    children = child_pids()
    worker, inline = ProcessWorker(), InlineWorker()
    assert not worker.has(1)
    worker.drop(1)
    await worker.close()
    worker.drop(1)
    await add(inline)
    await inline.close()

    assert not inline.has(1)
    with pytest.raises(RevisionGone):
        await inline.query(SnapshotStore.messages, 1)
    assert child_pids() == children
