"""Where the books are kept: in this process, or in one of their own.

Reading and pricing a large period takes seconds of computing. In this process, even in
a thread, that would hold the interpreter's lock and keep requests waiting; so large
periods are kept by a child process, and whole answers come back through memory that
both share. `docs/decisions/large-periods.md` has the measurements.
"""

import asyncio
import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.managers import BaseManager, BaseProxy
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from service.usage.books import Books, Contents
from service.usage.errors import BooksLost
from service.usage.ledger import Buffer
from service.usage.rating import Plan

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate[Books, P], T]

CALLERS: Final = 4
"""Threads that wait for the child; queries go on while a refresh computes."""


class Bookkeeper(Protocol):
    """Runs methods of `Books`, wherever those are."""

    @property
    def is_lost(self) -> bool:
        """Whether the period that was committed is gone, so that asking is in vain."""

    async def load(self, body: bytearray) -> Contents:
        """`Books.load`, for bodies of any size."""

    async def answer(
        self, plan: Plan, media_type: str, *, is_coming: bool = False
    ) -> Buffer:
        """`Books.answer`, for answers of any size."""

    async def call(self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Any other method, such as `call(Books.explain, plan, 7)`."""

    async def close(self) -> None:
        """Let the books go."""


class InlineBookkeeper:
    """Keeps the books in this process: for periods that are priced in no time."""

    is_lost = False

    def __init__(self) -> None:
        self._books = Books()

    async def load(self, body: bytearray) -> Contents:
        return self._books.load(body)

    async def answer(
        self, plan: Plan, media_type: str, *, is_coming: bool = False
    ) -> Buffer:
        return self._books.answer(plan, media_type, is_coming=is_coming)

    async def call(self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return method(self._books, *args, **kwargs)

    async def close(self) -> None:
        self._books = Books()


class ProcessBookkeeper:
    """Keeps the books in a child process, which starts at the first call.

    If the child dies, calls raise `BooksLost`; the next refresh starts another.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(CALLERS, thread_name_prefix="books")
        self._starting = threading.Lock()
        self._manager: _Manager | None = None
        self._books: BaseProxy | None = None
        self._has_period = False
        self._is_closed = False

    @property
    def is_lost(self) -> bool:
        manager = self._manager
        return not self._has_period or manager is None or not manager.is_alive

    async def load(self, body: bytearray) -> Contents:
        contents: Contents = await self._in_thread(self._load, body)
        return contents

    async def answer(
        self, plan: Plan, media_type: str, *, is_coming: bool = False
    ) -> Buffer:
        work = partial(self._answer, is_coming=is_coming)
        return await self._in_thread(work, plan, media_type)

    async def call(self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = partial(self._remote, method.__name__, **kwargs)
        result: T = await self._in_thread(work, *args)
        return result

    async def close(self) -> None:
        self._is_closed = True
        # Not in one of our own threads: those may all be waiting for the child.
        await asyncio.to_thread(self._stop)
        self._threads.shutdown(wait=False)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *args)

    def _load(self, body: bytearray) -> Any:
        if self._manager is not None and not self._manager.is_alive:
            self._stop()  # what is loaded needs nothing of the child that is gone
        with shared_file() as file:
            file.write(body)
            file.flush()
            return self._remote("load_file", file_path(file))

    def _answer(self, *wanted: Any, is_coming: bool) -> Buffer:
        with shared_file() as file:
            path = file_path(file)
            if not self._remote("answer_file", path, *wanted, is_coming=is_coming):
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _remote(self, name: str, *args: Any, **kwargs: Any) -> Any:
        books = None
        try:
            books = self._start()
            call: Callable[..., Any] = books._callmethod
            result = call(name, args, kwargs)
        except (EOFError, ConnectionError) as error:
            self._stop(books)
            raise BooksLost from error
        if name == Books.commit.__name__:
            self._has_period = books is self._books
        return result

    def _start(self) -> BaseProxy:
        with self._starting:
            if self._is_closed:
                raise BooksLost
            if self._books is None:
                manager = _Manager(ctx=multiprocessing.get_context("spawn"))
                manager.begin()
                self._manager = manager
                self._books = manager.SharedBooks()  # type: ignore[attr-defined]
            return self._books

    def _stop(self, lost: BaseProxy | None = None) -> None:
        with self._starting:
            if lost is not None and lost is not self._books:
                return  # another call has found that out, and a new child may run
            manager, self._manager, self._books = self._manager, None, None
            self._has_period = False
        if manager is not None:
            manager.shutdown()


class LazyBookkeeper:
    """Stands for books that are made when somebody first needs them.

    `books` finds or makes them; it is asked each time, as they may be replaced.
    """

    is_lost = False

    def __init__(self, books: Callable[[], Awaitable[Bookkeeper]]) -> None:
        self._books = books

    async def load(self, body: bytearray) -> Contents:
        return await (await self._books()).load(body)

    async def answer(
        self, plan: Plan, media_type: str, *, is_coming: bool = False
    ) -> Buffer:
        keeper = await self._books()
        return await keeper.answer(plan, media_type, is_coming=is_coming)

    async def call(self, method: Method[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await (await self._books()).call(method, *args, **kwargs)

    async def close(self) -> None:
        """Whoever made the books closes them."""


class SharedBooks(Books):
    """Books whose largest arguments and results travel in files."""

    def load_file(self, path: str) -> Contents:
        """`load` of a file's content."""
        with Path(path).open("rb") as file:
            return self.load(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def answer_file(
        self, path: str, plan: Plan, media_type: str, *, is_coming: bool
    ) -> int:
        """`answer` into a file; its size in bytes.

        Pages are cut from the JSON answer, so it has to stay here too: in the same
        memory as there, from now on.
        """
        answer = self.answer(plan, media_type, is_coming=is_coming)
        file = Path(path)
        size = file.write_bytes(answer)
        ledger = self.ledger(plan, is_coming=is_coming)
        if answer is ledger.answer:
            with file.open("rb") as shared:
                ledger.answer = mmap.mmap(shared.fileno(), 0, access=mmap.ACCESS_READ)
        return size


class _Manager(BaseManager):
    """The child process and its server of books."""

    _process: BaseProcess

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def begin(self) -> None:
        """Start the child; `EOFError` if it ends before it can answer."""
        try:
            self.start(_follow_parent)
        except EOFError:
            self._process.join()
            raise


_Manager.register("SharedBooks", SharedBooks)


def _follow_parent() -> None:
    """In the child: leave Ctrl-C to the parent, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def shared_file() -> Iterator[IO[bytes]]:
    """A file that another process can open by `file_path`, in memory where possible.

    Not in /dev/shm, which containers keep small.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("copilot-usage"), "r+b") as file:
            yield file
    else:
        with tempfile.NamedTemporaryFile("r+b") as named:
            yield named.file


def file_path(file: IO[bytes]) -> str:
    """The path under which another process of the same user opens a shared file."""
    is_named = isinstance(file.name, str)
    return file.name if is_named else f"/proc/{os.getpid()}/fd/{file.fileno()}"
