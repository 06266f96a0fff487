"""An event loop in a thread of its own, for commands with blocking input and output.

A slow pipe then does not block the event loop, and Ctrl-C still interrupts the command.
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
    """A resource that is open on its own event loop; see `in_background`."""

    def __init__(self, opening: AbstractAsyncContextManager[T]) -> None:
        self._loop = uvloop.new_event_loop()
        self._opening = opening
        self._opened: Future[T] = Future()
        self._main_task: Future[asyncio.Task[None] | None] = Future()

    def start(self, work: Callable[[T], Coroutine[Any, Any, U]]) -> "Future[U]":
        """Start a coroutine with the resource, and return its future."""
        opened = self._opened.result()
        return asyncio.run_coroutine_threadsafe(work(opened), self._loop)

    def run(self) -> None:
        """Run the event loop with the open resource, until `close`."""
        with (
            suppress(asyncio.CancelledError),
            asyncio.Runner(loop_factory=lambda: self._loop) as runner,
        ):
            runner.run(self._keep_open())

    def wait_until_open(self, running: "Future[None]") -> None:
        """Wait until the resource is open; raises the error of opening it."""
        opened_or_failed: list[Future[Any]] = [self._opened, running]
        wait(opened_or_failed, return_when=FIRST_COMPLETED)
        if running.done():
            running.result()

    def close(self) -> None:
        """Close the resource; also cancels opening it."""
        task = self._main_task.result()
        if task is not None:
            with suppress(RuntimeError):  # the loop has ended already
                # `cancel` is not thread-safe, and does not wake the loop.
                self._loop.call_soon_threadsafe(task.cancel)

    async def _keep_open(self) -> None:
        self._main_task.set_result(asyncio.current_task())
        async with self._opening as opened:
            self._opened.set_result(opened)
            await asyncio.Event().wait()


@contextmanager
def in_background(opening: AbstractAsyncContextManager[T]) -> Iterator[Background[T]]:
    """Keep a resource open on its own event loop.

    Work in progress is cancelled at the end. Raises the errors of opening and closing.
    """
    background = Background(opening)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(background.run)
        try:
            background.wait_until_open(running)
            yield background
        finally:
            background.close()
            with suppress(CancelledError):
                running.result()
