"""A snapshot: the immutable result of one refresh, in the serving process.

A worker has its columns. They are dropped when no request refers to the snapshot any
more. Derived answers are cached with the snapshot.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

from service.storage.lru_cache import LruCache
from service.usage.pricing.plans import Plan
from service.usage.reports import Resolved
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.quarter_sums import QuarterSums
from service.usage.snapshots.spans import Span
from service.usage.snapshots.worker import PricingWorker
from service.web.http_cache.encodings import Answer
from service.web.lanes import Slot, no_slot

T = TypeVar("T")

MAX_DERIVED_BYTES: Final = 8 * 1024 * 1024
"""Upper bound of the encoded sums that are cached with a snapshot."""

REVISION_HEADER: Final = "Usage-Revision"
PERIOD_HEADER: Final = "Usage-Period"
"""An interval of ISO 8601: `2024-04-29/..` while the period is open."""


class Computation(Generic[T]):
    """A computation that concurrent requests share."""

    def __init__(self, computing: Awaitable[T]) -> None:
        self.task = asyncio.ensure_future(computing)
        # Otherwise asyncio logs that nobody has retrieved the exception.
        self.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.is_abandoned = False
        self._waiting = 0

    async def wait(self, *, is_cancellable: bool) -> T:
        """Return the result; the last request that is cancelled may cancel it too."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if is_cancellable and not self._waiting:
                self.is_abandoned = True
                self.task.cancel()


class DerivedAnswers:
    """A cache of answers derived from a snapshot; concurrent requests share the work.

    Bodies are bounded in bytes. Values are not bounded. Pages are shared while a
    request refers to them, such as one that sends it. A request enters the lane of its
    `slot` for what is not cached.
    """

    def __init__(self, max_bytes: int = MAX_DERIVED_BYTES) -> None:
        self._bodies = LruCache[Hashable, bytes](max_bytes=max_bytes, size_of=len)
        self._values: dict[Hashable, Any] = {}
        self._pages: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self._computing: dict[Hashable, Computation[Any]] = {}

    async def body(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[bytes]],
        slot: Slot = no_slot,
    ) -> bytes:
        """Return the encoded body of a key, from the cache or computed now."""
        body = self._bodies.get(key)
        if body is None:
            body = await self.once(key, compute, slot, is_cancellable=True)
            self._bodies.put(key, body)
        return body

    async def value(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[T]],
        slot: Slot = no_slot,
    ) -> T:
        """Return the value of a key, computed once. Use it for few keys only."""

        async def compute_and_keep() -> T:
            # In the computation: all clients may leave before it ends.
            value = self._values[key] = await compute()
            return value

        if key not in self._values:
            return await self.once(key, compute_and_keep, slot)
        value: T = self._values[key]
        return value

    async def shared(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[T]],
        slot: Slot = no_slot,
    ) -> T:
        """Return the page of a key: the same object for all requests that need it."""
        page: T | None = self._pages.get(key)
        if page is None:
            page = await self.once(key, compute, slot, is_cancellable=True)
            self._pages[key] = page
        return page

    async def once(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[T]],
        slot: Slot = no_slot,
        *,
        is_cancellable: bool = False,
    ) -> T:
        """Compute a value once for all concurrent requests, without caching it.

        Only the first request needs the slot, which is free when the computation ends.
        It continues when a request is cancelled, unless it `is_cancellable` and no
        other request waits for it.
        """
        computation: Computation[T] | None = self._find_computation(key)
        async with slot(is_shared=computation is not None) as keep:
            if computation is None:
                # Another request may have begun it during the wait for the lane.
                computation = self._find_computation(key)
            if computation is None:
                computation = self._start(key, compute())
                keep(computation.task)
            return await computation.wait(is_cancellable=is_cancellable)

    def _find_computation(self, key: Hashable) -> Computation[Any] | None:
        computation = self._computing.get(key)
        return None if computation is None or computation.is_abandoned else computation

    def _start(self, key: Hashable, computing: Awaitable[T]) -> Computation[T]:
        computation = self._computing[key] = Computation(computing)
        computation.task.add_done_callback(lambda _: self._forget(key))
        return computation

    def _forget(self, key: Hashable) -> None:
        # After an abandoned computation, the key may belong to the next one.
        if key in self._computing and self._computing[key].task.done():
            del self._computing[key]


@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """The result of one refresh: a period, priced under the default plan."""

    number: int
    """The id in this process: later snapshots have higher numbers."""
    revision: str
    """The id in all processes that share the snapshot."""
    refresh_id: str
    """The refresh that built it."""
    etag: str | None
    """The upstream's ETag of the messages."""
    digest: str
    """The digest of the upstream's body."""
    reports: Resolved
    plan: Plan
    summary: Summary
    answer: Answer
    """The whole period under the default plan, as JSON."""
    worker: PricingWorker
    has_texts: bool
    """False where another process has priced the messages."""
    ends_on: str | None = None
    """The date of the last message, in UTC; None while the period is open."""
    span: Span | None = None
    """The billing month that it has; None where the upstream decides."""
    earlier: int = 0
    """Messages that the upstream listed of earlier months."""
    quarter_sums: QuarterSums | None = None
    """Under the default plan; None where only the worker can compute them."""
    derived: DerivedAnswers = field(default_factory=DerivedAnswers)
    log_values: dict[str, str] = field(init=False)
    """The ids by which an answer's log lines refer to those of its refresh."""

    def __post_init__(self) -> None:
        ids = log_values_of(self.revision, self.refresh_id)
        object.__setattr__(self, "log_values", ids)
        # At the end of the process the worker closes, and drops everything.
        weakref.finalize(self, self.worker.drop, self.number).atexit = False

    def renew_etag(self, etag: str | None) -> None:
        """Take another tag of the upstream for the same messages."""
        object.__setattr__(self, "etag", etag)

    def under_other_plan(self, priced: Summary) -> Summary:
        """Return the totals that its worker has priced, with the date of its begin."""
        # The worker knows the first message, but not the begin of a month.
        return priced._replace(begins_on=self.summary.begins_on)

    @property
    def is_here(self) -> bool:
        """True while the worker has the columns."""
        return self.worker.has(self.number)


def log_values_of(revision: str, refresh_id: str) -> dict[str, str]:
    """Return the ids by which log lines refer to a snapshot, and to its refresh."""
    return {"revision": revision, "refresh_id": refresh_id}


def answer_headers(
    summary: Summary, revision: str, ends_on: str | None = None
) -> dict[str, str]:
    """Return the headers of every answer from a snapshot."""
    headers = {"Usage-Plan": summary.plan, REVISION_HEADER: revision}
    if summary.begins_on is not None:
        headers[PERIOD_HEADER] = f"{summary.begins_on}/{ends_on or '..'}"
    if summary.degraded:
        headers["Usage-Degraded"] = str(summary.degraded)
    return headers
