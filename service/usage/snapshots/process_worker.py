"""The worker that runs computation on large periods in a child process.

Whole bodies and answers travel through memory that both processes share.
"""

import asyncio
import itertools
import mmap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Concatenate, Final, ParamSpec, TypeVar, cast

import structlog

from service.usage.errors import WorkerLost
from service.usage.snapshots.child import PricingChild
from service.usage.snapshots.columns import Buffer
from service.usage.snapshots.memory_files import (
    MemoryBody,
    file_path,
    memory_file,
    shared_file,
)
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.spans import Span
from service.usage.snapshots.store import Extract, LoadedMessages, SnapshotStore

P = ParamSpec("P")
T = TypeVar("T")
StoreMethod = Callable[Concatenate[SnapshotStore, P], T]

LoadedBody = bytearray | MemoryBody

REFRESH_THREADS: Final = 3
"""Calls of refreshes: the current one, an abandoned one, and drops."""
QUERY_THREADS: Final = 4
"""Calls of queries. Their lane runs fewer; the others may still end a cancelled one."""
MAX_INLINE_ROWS: Final = 1_000
"""Pages of more rows travel through memory that both processes share."""
CHECK_AFTER_S: Final = 2.0
"""A longer call has the child checked, and again after this interval."""
PING_S: Final = 5.0
"""A child has stopped if it answers no ping for so long and uses no processor."""
MAX_CALL_S: Final = 60.0
"""Upper bound of a call's duration, for slow machines too."""
STOP_S: Final = 2.0
"""Grace period of a child that is terminated, before it is killed."""

log = structlog.get_logger()


class ProcessWorker:
    """Runs computation in a child process, which has the snapshots.

    `load` and `adopt` start the child. All calls raise `WorkerLost` if the child dies,
    or is killed because it does not answer; the next refresh starts another one.
    """

    def __init__(self) -> None:
        # Separate threads, so that queries never delay a refresh.
        self._threads = ThreadPoolExecutor(
            REFRESH_THREADS, thread_name_prefix="pricing"
        )
        self._query_threads = ThreadPoolExecutor(
            QUERY_THREADS, thread_name_prefix="queries"
        )
        self._query_ids = itertools.count()
        self._starting = threading.Lock()
        self._child: PricingChild | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checking: asyncio.Task[None] | None = None
        self._closed = threading.Event()

    def has(self, number: int) -> bool:
        child = self._child
        return child is not None and child.is_alive and number in child.numbers

    async def load(
        self,
        number: int,
        body: LoadedBody | None,
        previous: int | None,
        span: Span | None = None,
    ) -> LoadedMessages:
        call = number, previous, span
        loaded: LoadedMessages = await self._run(self._load, body, call)
        return loaded

    async def answer(self, number: int, plan: str, media_type: str) -> Buffer:
        return await self._run(self._answer, number, plan, media_type)

    async def pack(self, number: int, plan: str) -> bytes:
        packed = await self._run(self._result_file, "pack_file", number, plan)
        return bytes(packed)

    async def adopt(self, number: int, packed: bytes, *, is_kept: bool = False) -> None:
        await self._run(self._adopt, number, packed, is_kept)

    async def compute(
        self, method: StoreMethod[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result: T = await self._run(self._compute, method.__name__, args, kwargs)
        return result

    async def query(
        self, method: StoreMethod[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result: T = await self._query(self._call, method.__name__, args, kwargs)
        return result

    async def extract(
        self, number: int, plan: str, media_type: str, selection: Selection
    ) -> Extract:
        call = number, plan, media_type, selection
        if selection.limit is not None and selection.limit <= MAX_INLINE_ROWS:
            return await self.query(SnapshotStore.extract, *call)
        return await self._query(self._extract_file, "extract_file", call, {})

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(work, *args, **kwargs)
        result: T = await self._query(
            self._call_any, SnapshotStore.run.__name__, (call,), {}
        )
        return result

    def drop(self, number: int) -> None:
        child, loop = self._child, self._loop
        if child is None or loop is None or not child.is_alive:
            return
        child.numbers.discard(number)
        # The garbage collector calls this at any time, also while this very thread is
        # in `submit` and holds its lock. So only the event loop submits the call.
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._submit, "drop", number)

    async def close(self) -> None:
        self._closed.set()
        if self._checking is not None:
            self._checking.cancel()
        # The threads of this worker may all be waiting for the child.
        if self._child is not None:
            await asyncio.to_thread(self._child.end, STOP_S)
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._query_threads.shutdown)

    async def _query(
        self, work: Callable[..., T], name: str, args: Any, kwargs: Any
    ) -> T:
        """Run a call that is cancelled in the child too when nobody waits for it."""
        query_id = next(self._query_ids)
        call = partial(work, "run_query", query_id, name)
        try:
            return await self._run(call, args, kwargs, threads=self._query_threads)
        except asyncio.CancelledError:
            self._submit("cancel_query", query_id)
            raise

    async def _run(
        self,
        work: Callable[..., T],
        *args: Any,
        threads: ThreadPoolExecutor | None = None,
    ) -> T:
        """Run a call in a thread, and check the child while it takes long.

        Raises `WorkerLost` if the child is gone, or after `MAX_CALL_S`.
        """
        if self._closed.is_set():
            raise WorkerLost
        loop = self._loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_CALL_S
        call = loop.run_in_executor(threads or self._threads, partial(work, *args))
        call.add_done_callback(_retrieve)
        while not call.done():
            try:
                await asyncio.wait([call], timeout=CHECK_AFTER_S)
            except asyncio.CancelledError:
                call.cancel()  # a call that has not started does not start
                raise
            if not call.done():
                self._check_soon()
                if loop.time() > deadline:
                    await self._kill(self._child)
                    raise WorkerLost(f"no answer in {MAX_CALL_S} s")
        return call.result()

    def _check_soon(self) -> None:
        if self._child is not None and (
            self._checking is None or self._checking.done()
        ):
            self._checking = asyncio.create_task(self._check(self._child))

    async def _check(self, child: PricingChild) -> None:
        """Kill a child that answers no ping and uses no processor."""
        # A busy child may answer late, but it uses the processor.
        used = child.processor_ticks
        with suppress(WorkerLost):
            try:
                async with asyncio.timeout(PING_S):
                    await asyncio.to_thread(child.ping)
            except TimeoutError:
                if child.processor_ticks == used:
                    await self._kill(child)

    async def _kill(self, child: PricingChild | None) -> None:
        """Kill a child that does not answer; calls that wait for it fail."""
        if child is not None and child.is_alive:
            log.error("usage.worker.stopped", **{"process.pid": child.pid})
            await asyncio.to_thread(child.end, 0.0)

    def _load(
        self, body: LoadedBody | None, call: tuple[int, int | None, Span | None]
    ) -> LoadedMessages:
        number, *others = call
        if body is None:
            return cast(LoadedMessages, self._call("load", number, None, *others))
        shared = body if isinstance(body, MemoryBody) else MemoryBody(body)
        with ExitStack() as closing:
            path = closing.enter_context(shared)
            child, hashes = self._start_child(), shared.finish_hashes()
            loaded = child.call("load_file", number, path, *others, hashes)
            self._free_soon(closing.pop_all())
        return cast(LoadedMessages, loaded)

    def _free_soon(self, closing: ExitStack) -> None:
        """Free a large body in a thread, because that takes long."""
        try:
            self._threads.submit(closing.close)
        except RuntimeError:  # the threads have been shut down
            closing.close()

    def _compute(self, name: str, args: Any, kwargs: Any) -> Any:
        child = self._find_child()
        result = child.call(name, *args, **kwargs)
        if name == SnapshotStore.build.__name__:
            child.numbers.add(args[0])
        return result

    def _adopt(self, number: int, packed: bytes, is_kept: bool) -> None:  # noqa: FBT001
        with shared_file(packed) as path:
            child = self._start_child()
            child.call("adopt_file", number, path, is_kept=is_kept)
            child.numbers.add(number)

    def _answer(self, *call: Any) -> Buffer:
        path = self._call("answer_path", *call)
        if path is None:
            return self._result_file("answer_file", *call)
        try:
            with Path(path).open("rb") as file:
                return _mapped(file)
        except OSError as error:
            raise WorkerLost("the child has ended, or dropped the snapshot") from error

    def _result_file(self, name: str, *args: Any) -> Buffer:
        with memory_file() as file:
            if not self._call(name, file_path(file), *args):
                return b""
            return _mapped(file)

    def _submit(self, name: str, *args: Any) -> None:
        """Call a method of the running child, without waiting for it."""
        if self._child is not None:
            with suppress(RuntimeError):  # the threads have been shut down
                self._threads.submit(_call_if_alive, self._child, name, *args)

    def _extract_file(
        self, name: str, query_id: int, method: str, args: Any, kwargs: Any
    ) -> Extract:
        with memory_file() as file:
            args = (file_path(file), *args)
            size, following = self._call(name, query_id, method, args, kwargs)
            return Extract(_mapped(file) if size else b"", following)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the store that changes no snapshot."""
        return self._find_child().call(name, *args, **kwargs)

    def _find_child(self) -> PricingChild:
        """Return the running child; raises `WorkerLost` without one."""
        child = self._child
        if child is None or not child.is_alive:
            raise WorkerLost
        return child

    def _call_any(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call what needs no snapshot, so that a new child can run it too."""
        return self._start_child().call(name, *args, **kwargs)

    def _start_child(self) -> PricingChild:
        """Return the running child, or start one."""
        # Two threads may find no child at the same time; only one may start it.
        with self._starting:
            if self._closed.is_set():
                raise WorkerLost
            if self._child is not None:
                if self._child.is_alive:
                    return self._child
                self._child.end(0.0)  # closes its pipes
            child = self._child = PricingChild()
            # `close` may have run since the first check, and not seen this child.
            if self._closed.is_set():
                child.end(0.0)
            child.connect()
            return child


def _mapped(file: IO[bytes]) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _call_if_alive(child: PricingChild, name: str, *args: Any) -> None:
    with suppress(WorkerLost):
        child.call(name, *args)


def _retrieve(call: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a call, or asyncio logs that nobody did."""
    if not call.cancelled():
        call.exception()
