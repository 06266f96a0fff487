"""Workers that run the computation on snapshots, in this process or in a child.

Decoding and pricing a large period takes seconds. In the serving process, even in a
thread, that would hold the interpreter's lock and delay requests. So a child process
has the large periods. `docs/decisions/pricing-process.md` has the measurements.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

from service.usage.snapshots.cancellation import cancellable
from service.usage.snapshots.columns import Buffer
from service.usage.snapshots.memory_files import MemoryBody
from service.usage.snapshots.process_worker import (
    QUERY_THREADS,
    LoadedBody,
    ProcessWorker,
    StoreMethod,
)
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.spans import Span
from service.usage.snapshots.store import Extract, LoadedMessages, SnapshotStore

P = ParamSpec("P")
T = TypeVar("T")

INLINE_MESSAGES: Final = 500
"""Queries on more messages run in a thread, because they take milliseconds."""


class PricingWorker(Protocol):
    """Runs methods of `SnapshotStore`, in this process or in another one."""

    def has(self, number: int) -> bool:
        """Return whether the snapshot of this number can be queried."""

    async def load(
        self,
        number: int,
        body: LoadedBody | None,
        previous: int | None,
        span: Span | None = None,
    ) -> LoadedMessages:
        """Run `SnapshotStore.load`, for bodies of any size."""

    async def answer(self, number: int, plan: str, media_type: str) -> Buffer:
        """Run `SnapshotStore.answer`, for answers of any size."""

    async def pack(self, number: int, plan: str) -> bytes:
        """Run `SnapshotStore.pack`, for periods of any size."""

    async def adopt(self, number: int, packed: bytes, *, is_kept: bool = False) -> None:
        """Run `SnapshotStore.adopt`, for periods of any size."""

    async def compute(
        self, method: StoreMethod[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a step of a refresh, such as `compute(SnapshotStore.build, 7, …)`."""

    async def query(
        self, method: StoreMethod[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query of a request, such as `query(SnapshotStore.daily, 7, …)`."""

    async def extract(
        self, number: int, plan: str, media_type: str, selection: Selection
    ) -> Extract:
        """Run `SnapshotStore.extract`, for pages of any size."""

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of a module that needs no snapshot, outside the event loop."""

    def drop(self, number: int) -> None:
        """Drop a snapshot, without waiting for the child."""

    async def close(self) -> None:
        """Drop all snapshots, and end the child."""


class InlineWorker:
    """Runs computation in this process, for small periods."""

    def __init__(self) -> None:
        self._store = SnapshotStore()
        self._numbers: set[int] = set()
        # Not asyncio's threads, which resolve the names of hosts for refreshes.
        self._threads = ThreadPoolExecutor(
            QUERY_THREADS, thread_name_prefix="small-queries"
        )

    def has(self, number: int) -> bool:
        return number in self._numbers

    async def load(
        self,
        number: int,
        body: LoadedBody | None,
        previous: int | None,
        span: Span | None = None,
    ) -> LoadedMessages:
        content = body[:] if isinstance(body, MemoryBody) else body
        return self._store.load(number, content, previous, span)

    async def answer(self, number: int, plan: str, media_type: str) -> Buffer:
        return self._store.answer(number, plan, media_type)

    async def pack(self, number: int, plan: str) -> bytes:
        return await self._in_thread(self._store.pack, number, plan)

    async def adopt(self, number: int, packed: bytes, *, is_kept: bool = False) -> None:
        adopt = partial(self._store.adopt, number, packed, is_kept=is_kept)
        await self._in_thread(adopt)
        self._numbers.add(number)

    async def compute(
        self, method: StoreMethod[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result = method(self._store, *args, **kwargs)
        if method is SnapshotStore.build:
            self._numbers.add(cast("int", args[0]))
        return result

    async def query(
        self, method: StoreMethod[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        work = partial(method, self._store, *args, **kwargs)
        if self._store.messages(cast("int", args[0])) <= INLINE_MESSAGES:
            return work()
        cancelled = threading.Event()
        try:
            return await self._in_thread(_cancellably, cancelled, work)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def extract(
        self, number: int, plan: str, media_type: str, selection: Selection
    ) -> Extract:
        call = number, plan, media_type, selection
        return await self.query(SnapshotStore.extract, *call)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._in_thread(partial(work, *args, **kwargs))

    def drop(self, number: int) -> None:
        self._numbers.discard(number)
        self._store.drop(number)

    async def close(self) -> None:
        self._store, self._numbers = SnapshotStore(), set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *args)


def _cancellably(cancelled: threading.Event, work: Callable[[], T]) -> T:
    with cancellable(cancelled):
        return work()


class PricingWorkers:
    """The two workers of a process; periods of `process_bytes` use the child."""

    def __init__(self, process_bytes: int) -> None:
        self._process_bytes = process_bytes
        self._inline, self._process = InlineWorker(), ProcessWorker()

    def choose(self, size_bytes: int) -> PricingWorker:
        """Return the worker for a period of this size."""
        return self._process if size_bytes >= self._process_bytes else self._inline

    def drop(self, number: int) -> None:
        """Drop what either worker has of a refresh that makes no snapshot."""
        self._inline.drop(number)
        self._process.drop(number)

    async def close(self) -> None:
        """Drop all snapshots, and end the child."""
        await self._inline.close()
        await self._process.close()
