"""Derived answers are computed once; a snapshot without readers is dropped."""

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable

import pytest

from service.usage.pricing.plans import TEXT_RULES
from service.usage.reports import Resolved
from service.usage.snapshot import DerivedAnswers, Snapshot
from service.usage.snapshots.build import ResolvedReports
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.errors import RevisionGone
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.logged_prices import PriceLogging
from service.usage.snapshots.process_worker import ProcessWorker
from service.usage.snapshots.store import SnapshotStore
from service.usage.snapshots.worker import InlineWorker, PricingWorker
from service.web.http_cache.encodings import Answer
from tests.patience import GIVE_UP_S
from tests.reference import body_of, message

DEFAULT = TEXT_RULES.id
TEN = b"0123456789"


class Computing:
    """Computes a body, counts how often, and waits if it has to."""

    def __init__(self, body: bytes = TEN) -> None:
        self.count = 0
        self.body = body
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> bytes:
        self.count += 1
        await self.may_end.wait()
        return self.body


# Derived answers.


@pytest.mark.parametrize("kind", ["body", "value", "once"])
async def test_simultaneous_requests_wait_for_one_computation(kind: str) -> None:
    """1,000 requests for one zone compute it once."""
    derived, computing = DerivedAnswers(), Computing()
    get: Callable[..., Awaitable[bytes]] = getattr(derived, kind)
    computing.may_end.clear()
    requests = [asyncio.ensure_future(get("x", computing)) for _ in range(1000)]
    await asyncio.sleep(0)
    requests[0].cancel()
    await asyncio.sleep(0)
    computing.may_end.set()

    assert await asyncio.gather(*requests[1:]) == [TEN] * 999
    assert computing.count == 1


async def test_kept_bodies_are_bounded_in_bytes() -> None:
    """The body that was used longest ago makes room; the others stay."""
    derived, computing = DerivedAnswers(max_bytes=30), Computing()
    for key in (1, 2, 3, 1, 4):
        await derived.body(key, computing)
    assert computing.count == 4
    for key in (1, 3, 4):
        await derived.body(key, computing)
    assert computing.count == 4
    await derived.body(2, computing)
    assert computing.count == 5


async def test_a_value_is_kept_though_its_only_client_left() -> None:
    """A client that never waits long enough does not have it computed each time."""
    derived, computing = DerivedAnswers(), Computing()
    computing.may_end.clear()
    request = asyncio.ensure_future(derived.value("x", computing))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    computing.may_end.set()
    async with asyncio.timeout(GIVE_UP_S):
        while derived._computing:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)

    assert await derived.value("x", computing) == TEN
    assert computing.count == 1


@pytest.mark.parametrize("kind", ["body", "value", "once"])
async def test_failure_is_not_kept(kind: str) -> None:
    """All who wait for it fail alike, and the next request computes anew."""
    derived, counter = DerivedAnswers(), itertools.count()
    get: Callable[..., Awaitable[bytes]] = getattr(derived, kind)

    async def fail_first() -> bytes:
        await asyncio.sleep(0)
        if not next(counter):
            raise RevisionGone
        return TEN

    waiting = [get("x", fail_first) for _ in range(2)]
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in failed] == [RevisionGone] * 2
    assert await get("x", fail_first) == TEN


async def test_computation_continues_when_its_only_caller_is_cancelled() -> None:
    """The next caller gets the result of a cancelled caller."""
    derived, computing = DerivedAnswers(), Computing()
    computing.may_end.clear()
    request = asyncio.ensure_future(derived.once("x", computing))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    again = asyncio.ensure_future(derived.once("x", computing))
    computing.may_end.set()
    assert await again == TEN
    assert computing.count == 1


# Snapshots.


def snapshot_in(worker: PricingWorker, number: int = 1) -> Snapshot:
    return Snapshot(
        number=number,
        revision="r1",
        refresh_id="a1",
        etag=None,
        digest="",
        reports=Resolved({}, set()),
        plan=TEXT_RULES,
        summary=Summary(DEFAULT, 1, 1.0, 0),
        answer=Answer(b"{}", JSON, {}),
        worker=worker,
        has_texts=True,
    )


@pytest.mark.parametrize("make_worker", [InlineWorker, ProcessWorker])
async def test_worker_drops_a_snapshot_that_no_request_holds(
    make_worker: type[InlineWorker | ProcessWorker],
) -> None:
    """It stays while one request still answers from it, in the child process too."""
    worker = make_worker()
    await worker.load(1, bytearray(body_of([message(1)])), None)
    none, logging = ResolvedReports((), ()), PriceLogging("a1", 0)
    await worker.compute(SnapshotStore.build, 1, None, none, logging, plan=DEFAULT)
    current = snapshot_in(worker)
    request = current
    del current
    gc.collect()
    assert request.is_here
    assert await worker.query(SnapshotStore.messages, 1) == 1

    del request
    gc.collect()

    assert not worker.has(1)
    async with asyncio.timeout(GIVE_UP_S):
        while await is_kept(worker):
            pass
    await worker.close()


async def is_kept(worker: PricingWorker) -> bool:
    try:
        await worker.query(SnapshotStore.messages, 1)
    except RevisionGone:
        return False
    return True
