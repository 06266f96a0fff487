"""Workers: they run the computation on snapshots, in this process or in a child.

Reading and pricing a large period takes seconds of computing. In the serving process,
even in a thread, that would hold the interpreter's lock and keep requests waiting. So
a child process keeps large periods, and whole answers come back through memory that
both share. `docs/decisions/pricing-process.md` has the measurements.
"""

import asyncio
import mmap
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import ProcessError
from multiprocessing.managers import BaseProxy
from pathlib import Path
from typing import IO, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

import structlog

from service.usage.errors import WorkerLost
from service.usage.snapshots.columns import Buffer
from service.usage.snapshots.process import KEY_BYTES, READY, StoreManager
from service.usage.snapshots.store import Loaded, SnapshotStore

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate[SnapshotStore, P], T]

MAX_CALLS: Final = 4
"""Calls to the child at once; queries go on while a refresh computes."""
CHECK_AFTER_S: Final = 2.0
"""A call that takes longer has the child checked, again and again."""
PING_S: Final = 5.0
"""A child that answers no ping for so long, and uses no processor, has stopped."""
MAX_CALL_S: Final = 60.0
"""No call takes longer, on however slow a machine."""
STOP_S: Final = 2.0
"""How long a child may take to end by itself."""
INLINE_MESSAGES: Final = 500
"""Queries on more messages than this leave the event loop: they take milliseconds."""

MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024),
}
"""For glibc (mallopt(3)): columns of a large period are mapped, and unmapped when it
is dropped. By default they would soon come from the heap, which keeps them."""
DOES_NOT_START: Final = "the process for a large period does not start"

_PACKAGE_ROOT: Final = str(Path(__file__).parents[3])

log = structlog.get_logger()


class Worker(Protocol):
    """Runs methods of `SnapshotStore`, in whichever process the store is."""

    def has(self, number: int) -> bool:
        """Return whether the snapshot of this number can be queried."""

    async def load(
        self, number: int, body: bytearray | None, previous: int | None
    ) -> Loaded:
        """Run `SnapshotStore.load`, for bodies of any size."""

    async def answer(self, number: int, plan: str, media_type: str) -> Buffer:
        """Run `SnapshotStore.answer`, for answers of any size."""

    async def pack(self, number: int, plan: str) -> bytes:
        """Run `SnapshotStore.pack`, for periods of any size."""

    async def adopt(self, number: int, packed: bytes) -> None:
        """Run `SnapshotStore.adopt`, for periods of any size."""

    async def compute(
        self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a step of a refresh, such as `compute(SnapshotStore.build, 7, …)`."""

    async def query(self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query that a request waits for."""

    def drop(self, number: int) -> None:
        """Forget a snapshot soon; never waits."""

    async def close(self) -> None:
        """Forget all snapshots."""


class InlineWorker:
    """Keeps snapshots in this process: for periods that are priced in no time."""

    def __init__(self) -> None:
        self._store = SnapshotStore()
        self._numbers: set[int] = set()

    def has(self, number: int) -> bool:
        return number in self._numbers

    async def load(
        self, number: int, body: bytearray | None, previous: int | None
    ) -> Loaded:
        return self._store.load(number, body, previous)

    async def answer(self, number: int, plan: str, media_type: str) -> Buffer:
        return self._store.answer(number, plan, media_type)

    async def pack(self, number: int, plan: str) -> bytes:
        return await asyncio.to_thread(self._store.pack, number, plan)

    async def adopt(self, number: int, packed: bytes) -> None:
        await asyncio.to_thread(self._store.adopt, number, packed)
        self._numbers.add(number)

    async def compute(
        self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result = method(self._store, *args, **kwargs)
        if method is SnapshotStore.build:
            self._numbers.add(cast("int", args[0]))
        return result

    async def query(self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = partial(method, self._store, *args, **kwargs)
        if self._store.messages(cast("int", args[0])) <= INLINE_MESSAGES:
            return work()
        return await asyncio.to_thread(work)

    def drop(self, number: int) -> None:
        self._numbers.discard(number)
        self._store.drop(number)

    async def close(self) -> None:
        self._store, self._numbers = SnapshotStore(), set()


class ProcessWorker:
    """Keeps snapshots in a child process, which starts at the first call.

    Where the child dies, or stops answering and is ended, calls raise `WorkerLost`.
    The next refresh starts another one, as only `load` and `adopt` do.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="pricing")
        self._starting = threading.Lock()
        self._child: _Child | None = None
        self._checking: asyncio.Task[None] | None = None
        self._closed = threading.Event()

    def has(self, number: int) -> bool:
        child = self._child
        return child is not None and child.is_alive and number in child.numbers

    async def load(
        self, number: int, body: bytearray | None, previous: int | None
    ) -> Loaded:
        loaded: Loaded = await self._run(self._load, number, body, previous)
        return loaded

    async def answer(self, number: int, plan: str, media_type: str) -> Buffer:
        wanted = ("answer_file", number, plan, media_type)
        return await self._run(self._result_file, *wanted)

    async def pack(self, number: int, plan: str) -> bytes:
        packed = await self._run(self._result_file, "pack_file", number, plan)
        return bytes(packed)

    async def adopt(self, number: int, packed: bytes) -> None:
        await self._run(self._adopt, number, packed)

    async def compute(
        self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result: T = await self._run(self._compute, method.__name__, args, kwargs)
        return result

    async def query(self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = partial(self._call, method.__name__, **kwargs)
        result: T = await self._run(work, *args)
        return result

    def drop(self, number: int) -> None:
        child = self._child
        if child is not None and child.is_alive:
            child.numbers.discard(number)
            with suppress(RuntimeError):  # the threads have been shut down
                self._threads.submit(self._drop, child, number)

    async def close(self) -> None:
        self._closed.set()
        if self._checking is not None:
            self._checking.cancel()
        # Not in one of our own threads: those may all be waiting for the child.
        if self._child is not None:
            await asyncio.to_thread(self._child.end, STOP_S)
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        """Wait for a call in a thread; while it takes long, the child is checked."""
        if self._closed.is_set():
            raise WorkerLost
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + MAX_CALL_S
        call = loop.run_in_executor(self._threads, partial(work, *args))
        call.add_done_callback(_retrieve)
        while not call.done():
            await asyncio.wait([call], timeout=CHECK_AFTER_S)
            if not call.done():
                self._check_soon()
                if loop.time() > give_up_at:
                    await self._end_stopped(self._child)
                    raise WorkerLost(f"no answer in {MAX_CALL_S} s")
        return call.result()

    def _check_soon(self) -> None:
        if self._child is not None and (
            self._checking is None or self._checking.done()
        ):
            self._checking = asyncio.create_task(self._check(self._child))

    async def _check(self, child: "_Child") -> None:
        """End a child that has stopped: it answers no ping and uses no processor."""
        used = child.processor_ticks
        with suppress(WorkerLost):
            try:
                async with asyncio.timeout(PING_S):
                    await asyncio.to_thread(child.ping)
            except TimeoutError:
                if child.processor_ticks == used:
                    await self._end_stopped(child)

    async def _end_stopped(self, child: "_Child | None") -> None:
        """End a child that does not answer; calls that wait for it fail."""
        if child is not None and child.is_alive:
            log.error("usage.worker.stopped", **{"process.pid": child.pid})
            await asyncio.to_thread(child.end, 0.0)

    def _load(
        self, number: int, body: bytearray | None, previous: int | None
    ) -> Loaded:
        if body is None:
            return cast(Loaded, self._call("load", number, None, previous))
        with shared_file(body) as path:
            child = self._start_child()
            return cast(Loaded, child.call("load_file", number, path, previous))

    def _compute(self, name: str, args: Any, kwargs: Any) -> Any:
        child = self._find_child()
        result = child.call(name, *args, **kwargs)
        if name == SnapshotStore.build.__name__:
            child.numbers.add(args[0])
        return result

    def _adopt(self, number: int, packed: bytes) -> None:
        with shared_file(packed) as path:
            child = self._start_child()
            child.call("adopt_file", number, path)
            child.numbers.add(number)

    def _result_file(self, name: str, *args: Any) -> Buffer:
        with memory_file() as file:
            if not self._call(name, file_path(file), *args):
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _drop(self, child: "_Child", number: int) -> None:
        with suppress(WorkerLost):
            child.call("drop", number)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the store that changes no snapshot."""
        return self._find_child().call(name, *args, **kwargs)

    def _find_child(self) -> "_Child":
        """Return the child that has the snapshots; `WorkerLost` without one."""
        child = self._child
        if child is None or not child.is_alive:
            raise WorkerLost
        return child

    def _start_child(self) -> "_Child":
        """Return the child, started where there is none."""
        with self._starting:
            if self._closed.is_set():
                raise WorkerLost
            if self._child is not None:
                if self._child.is_alive:
                    return self._child
                self._child.end(0.0)  # its pipes are still open
            child = self._child = _Child()
            if (
                self._closed.is_set()
            ):  # by now, so that `close` may not have seen the child
                child.end(0.0)
            child.connect()
            return child


class Workers:
    """The two workers of a process, and the size from which the child is used."""

    def __init__(self, process_bytes: int) -> None:
        self._process_bytes = process_bytes
        self._inline, self._process = InlineWorker(), ProcessWorker()

    def choose(self, size_bytes: int) -> Worker:
        """Return the worker for a period of this size."""
        return self._process if size_bytes >= self._process_bytes else self._inline

    async def close(self) -> None:
        """Forget all snapshots, and end the child."""
        await self._inline.close()
        await self._process.close()


class _Child:
    """A child process and the store in it. `WorkerLost` where it does not start."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._address = _new_address()
        self._store: Any = None
        self._is_known = threading.Event()
        """Set when the child serves, or has ended."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - it runs this interpreter
                [sys.executable, "-m", StoreManager.__module__, self._address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**MALLOC, **os.environ, "PYTHONPATH": _python_path()},
            )
        except OSError as error:
            raise WorkerLost(DOES_NOT_START) from error

    def connect(self) -> None:
        """Wait until the child serves; another thread may end it meanwhile."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - both are pipes
        assert stdout is not None  # noqa: S101
        key = secrets.token_bytes(KEY_BYTES)
        try:
            stdin.write(key)
            stdin.flush()
            if stdout.readline() != READY:
                raise EOFError
            address = self._address.replace("@", "\0", 1)
            manager = StoreManager(address=address, authkey=key)
            manager.connect()
            self._store = manager.store()  # type: ignore[attr-defined]
        except (OSError, EOFError, ValueError, ProcessError) as error:
            self.end(0.0)
            raise WorkerLost(DOES_NOT_START) from error
        self._is_known.set()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """False once the child has ended, in whatever way."""
        return self._process.poll() is None

    @property
    def processor_ticks(self) -> int:
        """Processor time that the child has used; 0 where the system does not say."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0
        user, system = stat.rpartition(")")[2].split()[11:13]
        return int(user) + int(system)

    def ping(self) -> None:
        """Wait for an answer, of a child that has just been started too."""
        self._is_known.wait()
        self.call("ping")

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the store; a child that is gone raises `WorkerLost`."""
        store = self._store
        if store is None:
            raise WorkerLost
        try:
            return store._callmethod(name, args, kwargs)
        except (EOFError, ConnectionError) as error:
            self.end(0.0)
            raise WorkerLost from error

    def end(self, patience_s: float) -> None:
        """End the child within this time, else kill it."""
        process = self._process
        with suppress(subprocess.TimeoutExpired):
            if patience_s:
                process.terminate()
                process.wait(patience_s)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._store = None
        self._is_known.set()
        # Proxies keep each thread's connection to an address for good.
        BaseProxy._address_to_local.pop(self._address.replace("@", "\0", 1), None)


def _retrieve(call: asyncio.Future[Any]) -> None:
    """Take note of a failure, which may have no caller who waits for it any more."""
    if not call.cancelled():
        call.exception()


def _new_address() -> str:
    """Return a local socket's address, where `@` stands for the abstract namespace."""
    name = f"copilot-usage-{secrets.token_hex(8)}"
    has_abstract = hasattr(os, "memfd_create")  # both are Linux's own
    return f"@{name}" if has_abstract else str(Path(tempfile.gettempdir(), name))


def _python_path() -> str:
    """Return a path by which a child finds this very package."""
    return os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))


@contextmanager
def shared_file(content: bytes | bytearray) -> Iterator[str]:
    """Write bytes into a file in memory; its path, for a process of the same user."""
    with memory_file() as file:
        file.write(content)
        file.flush()
        yield file_path(file)


@contextmanager
def memory_file() -> Iterator[IO[bytes]]:
    """Open a file that another process can open by `file_path`, in memory if possible.

    Not in /dev/shm, which containers keep small.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("copilot-usage"), "r+b") as file:
            yield file
    else:
        with tempfile.NamedTemporaryFile("r+b") as named:
            yield named.file


def file_path(file: IO[bytes]) -> str:
    """Return the path by which another process of the same user opens the file."""
    is_named = isinstance(file.name, str)
    return file.name if is_named else f"/proc/{os.getpid()}/fd/{file.fileno()}"
