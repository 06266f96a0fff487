"""An event loop beside a program that reads and writes as it likes.

Whoever blocks on a slow pipe keeps nobody else waiting so, and Ctrl-C still reaches it:
the loop has a thread of its own.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, Generic, TypeVar

import uvloop

T = TypeVar("T")
U = TypeVar("U")


class Background(Generic[T]):
    """Something open on a loop of its own; `in_background` makes one."""

    def __init__(self, opening: AbstractAsyncContextManager[T]) -> None:
        self._loop = uvloop.new_event_loop()
        self._opening = opening
        self._opened: Future[T] = Future()
        self._holding: Future[asyncio.Task[None] | None] = Future()

    def start(self, work: Callable[[T], Coroutine[Any, Any, U]]) -> "Future[U]":
        """Begin some work with it; what comes of it is waited for with `result()`."""
        opened = self._opened.result()
        return asyncio.run_coroutine_threadsafe(work(opened), self._loop)

    def run(self) -> None:
        """Run the loop, and what is open on it, until it is left."""
        with (
            suppress(asyncio.CancelledError),
            asyncio.Runner(loop_factory=lambda: self._loop) as runner,
        ):
            runner.run(self._hold())

    def wait_until_open(self, running: "Future[None]") -> None:
        """Wait until it is open; raises what kept it from that."""
        either: list[Future[Any]] = [self._opened, running]
        wait(either, return_when=FIRST_COMPLETED)
        if running.done():
            running.result()

    def leave(self) -> None:
        """Close it, wherever it stands."""
        task = self._holding.result()
        if task is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(task.cancel)

    async def _hold(self) -> None:
        self._holding.set_result(asyncio.current_task())
        async with self._opening as opened:
            self._opened.set_result(opened)
            await asyncio.Event().wait()


@contextmanager
def in_background(opening: AbstractAsyncContextManager[T]) -> Iterator[Background[T]]:
    """Keep something open on a loop of its own for as long as this lasts.

    What is under way at the end is given up. Raises what opening and closing raise.
    """
    background = Background(opening)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(background.run)
        try:
            background.wait_until_open(running)
            yield background
        finally:
            background.leave()
            with suppress(CancelledError):
                running.result()
