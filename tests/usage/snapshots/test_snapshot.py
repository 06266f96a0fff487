"""Derived answers are computed once; a snapshot without readers is dropped."""

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable
from unittest.mock import Mock

import pytest

from service.usage.encodings import Answer
from service.usage.pricing.plans import TEXT_RULES
from service.usage.reports import Resolved
from service.usage.snapshots.build import ResolvedReports
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.errors import RevisionGone
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.snapshot import DerivedAnswers, Snapshot
from service.usage.snapshots.store import Logging, SnapshotStore
from service.usage.snapshots.worker import InlineWorker, ProcessWorker, Worker
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


async def test_body_is_computed_on_demand_and_once() -> None:
    """Each key has a body of its own, which later requests get at once."""
    derived, computing = DerivedAnswers(), Computing()
    assert computing.count == 0
    assert [await derived.body("London", computing) for _ in range(3)] == [TEN] * 3
    assert computing.count == 1
    await derived.body("Paris", computing)
    assert computing.count == 2


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


async def test_body_larger_than_the_bound_is_not_kept() -> None:
    """It is answered, and computed again for the next request."""
    derived, computing = DerivedAnswers(max_bytes=9), Computing()
    assert [await derived.body(1, computing) for _ in range(2)] == [TEN] * 2
    assert computing.count == 2


async def test_many_zones_keep_no_more_than_the_bound() -> None:
    """Callers choose the zone, so its number has no other bound."""
    derived = DerivedAnswers(max_bytes=1000)
    for zone in range(500):
        await derived.body(zone, Computing(bytes(100)))
    assert sum(map(len, derived._bodies.values())) == derived._bytes == 1000


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


async def test_value_is_computed_once_and_kept() -> None:
    """The totals under a plan are computed once for each snapshot; None counts."""
    derived, compute = DerivedAnswers(), Mock(side_effect=lambda: asyncio.sleep(0))
    for _ in range(2):
        assert await derived.value("plan", compute) is None
    assert compute.call_count == 1


async def test_work_goes_on_when_its_only_caller_leaves() -> None:
    """What was begun for a caller who left is there for the next one."""
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


def snapshot_in(worker: Worker, number: int = 1) -> Snapshot:
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


def test_log_values_lead_to_the_calculation() -> None:
    """They name the shared revision and the refresh that built it."""
    snapshot = snapshot_in(Mock(has=lambda number: number == 1))
    assert snapshot.log_values == {"revision": "r1", "refresh_id": "a1"}
    assert snapshot.is_here
    assert not snapshot_in(snapshot.worker, 2).is_here


def test_snapshot_cannot_be_changed() -> None:
    """A request that holds it never sees anything else."""
    snapshot = snapshot_in(Mock())
    with pytest.raises(AttributeError):
        snapshot.revision = "r2"  # type: ignore[misc]


@pytest.mark.parametrize("make_worker", [InlineWorker, ProcessWorker])
async def test_worker_drops_a_snapshot_that_no_request_holds(
    make_worker: type[InlineWorker | ProcessWorker],
) -> None:
    """It stays while one request still answers from it, in the child process too."""
    worker = make_worker()
    await worker.load(1, bytearray(body_of([message(1)])), None)
    none, logging = ResolvedReports((), ()), Logging("a1", 0)
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


async def is_kept(worker: Worker) -> bool:
    try:
        await worker.query(SnapshotStore.messages, 1)
    except RevisionGone:
        return False
    return True
