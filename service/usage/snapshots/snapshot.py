"""A snapshot: everything that one refresh produced, as the serving process has it.

It is immutable. Its columns are in a worker, which drops them when no request holds
the snapshot any more; derived answers are kept with it.
"""

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from service.usage.encodings import Answer
from service.usage.pricing.plans import Plan
from service.usage.reports import Resolved
from service.usage.snapshots.columns import Summary
from service.usage.snapshots.worker import Worker

T = TypeVar("T")

MAX_DERIVED_BYTES: Final = 8 * 1024 * 1024
"""Encoded sums kept with a snapshot; those that were used last are kept."""


class DerivedAnswers:
    """Answers derived from a snapshot: computed on demand, once, and kept in bounds.

    Bodies are bounded in bytes; of values there may only be few.
    """

    def __init__(self, max_bytes: int = MAX_DERIVED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._bodies: OrderedDict[Hashable, bytes] = OrderedDict()
        self._values: dict[Hashable, Any] = {}
        self._computing: dict[Hashable, asyncio.Future[Any]] = {}

    async def body(
        self, key: Hashable, compute: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """Return the encoded body of a key, computed where it is not kept."""
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
            return body
        body = await self.once(key, compute)
        self._keep(key, body)
        return body

    async def value(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        """Return the value of a key, computed once; there may only be few keys."""
        if key not in self._values:
            self._values[key] = await self.once(key, compute)
        value: T = self._values[key]
        return value

    async def once(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        """Compute a value for all who wait for it, and keep nothing.

        The work belongs to no caller, and goes on when one leaves.
        """
        computing = self._computing.get(key)
        if computing is None:
            computing = asyncio.ensure_future(compute())
            self._computing[key] = computing
            computing.add_done_callback(lambda done: self._forget(key, done))
        value: T = await asyncio.shield(computing)
        return value

    def _forget(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        del self._computing[key]
        if not done.cancelled():
            done.exception()  # perhaps nobody waits for it any more

    def _keep(self, key: Hashable, body: bytes) -> None:
        if key in self._bodies:
            return
        self._bodies[key] = body
        self._bytes += len(body)
        while self._bytes > self._max_bytes:
            _, dropped = self._bodies.popitem(last=False)
            self._bytes -= len(dropped)


@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """One period as one refresh found it, priced under the default plan."""

    number: int
    """Its revision in this process: later snapshots have higher numbers."""
    revision: str
    """Its id, the same in all processes that share it."""
    refresh_id: str
    """The refresh that built it."""
    etag: str | None
    """Upstream's tag of the messages."""
    digest: str
    """The digest of upstream's body."""
    reports: Resolved
    plan: Plan
    summary: Summary
    answer: Answer
    """The whole period under the default plan, as JSON."""
    worker: Worker
    has_texts: bool
    """False where another process has priced it."""
    derived: DerivedAnswers = field(default_factory=DerivedAnswers)
    log_values: dict[str, str] = field(init=False)
    """The ids by which the log leads from an answer to its calculation."""

    def __post_init__(self) -> None:
        ids = {"revision": self.revision, "refresh_id": self.refresh_id}
        object.__setattr__(self, "log_values", ids)
        weakref.finalize(self, self.worker.drop, self.number).atexit = False

    @property
    def is_here(self) -> bool:
        """True while its worker has its columns."""
        return self.worker.has(self.number)
