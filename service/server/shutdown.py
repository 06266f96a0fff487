"""The end of a process: what requests it, the parts of its time limit, a watchdog."""

import asyncio
import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from service.observability import log_output
from service.server import lifecycle
from service.server.listener import HANDSHAKE_S
from service.server.open_work import describe_open_work, kill_children
from service.settings import ServerSettings

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
EXIT_S: Final = 1.0
"""Time for the exit of a process that the watchdog ends."""
REPORT_S: Final = 0.2
"""Time for the log line of the watchdog, since logging may be what hangs."""
RESOURCES_S: Final = 2.0
"""Time that is reserved for closing the application's resources."""


class Budget(NamedTuple):
    """Parts of `server.shutdown_grace_s`, in seconds.

    After `limit_s` the watchdog ends the process, and after `grace_s` its exit.
    """

    drain_s: float
    requests_s: float
    limit_s: float
    grace_s: float

    @classmethod
    def of(cls, server: ServerSettings) -> "Budget":
        """Divide the grace of the settings."""
        left_s = server.shutdown_grace_s - server.drain_s
        exit_s = min(EXIT_S, left_s / 5)
        resources_s = min(RESOURCES_S, left_s / 5)
        return cls(
            drain_s=server.drain_s,
            requests_s=max(left_s / 2, left_s - exit_s - resources_s - HANDSHAKE_S),
            limit_s=server.shutdown_grace_s - exit_s,
            grace_s=server.shutdown_grace_s,
        )


class Watchdog:
    """Ends the process when a shutdown takes too long, whatever hangs."""

    # It is a thread, because the event loop may be what hangs. A signal handler may
    # use `SimpleQueue` only, which needs no lock of its own.

    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[float, Callable[[], None]]] = SimpleQueue()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def start(self, limit_s: float, end: Callable[[], None]) -> None:
        """Call `end` after `limit_s`; a later call replaces an earlier one."""
        self._orders.put((time.monotonic() + limit_s, end))

    def _watch(self) -> None:
        # A signal has to interrupt the main thread, which handles it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        deadline, end = self._orders.get()
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            try:
                deadline, end = self._orders.get(timeout=left_s)
            except Empty:
                break
        end()


class Ending:
    """The end of this process, which signals request.

    `sockets` are the listening sockets. `keeps_listening` is true if they stay open in
    other processes, or in the program that replaces this one. The watchdog ends the
    process `limit_s` after the request, or `exit_limit_s` after it once the work is
    done. Without limits, nothing ends a shutdown that hangs.
    """

    def __init__(
        self, limit_s: float | None = None, exit_limit_s: float | None = None
    ) -> None:
        self.keeps_listening = False
        self.is_stopping = False
        self.sockets: list[socket.socket] = []
        self.signalled = asyncio.Event()
        self._is_committed = False
        self._limit_s = limit_s
        self._exit_limit_s = exit_limit_s or limit_s or 0.0
        self._limited_at: float | None = None
        self._watchdog = Watchdog() if limit_s is not None else None
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake this loop on signals from now on."""
        self._loop = loop

    def stop(self) -> bool:
        """Request the end of the process and of its sockets; for signal handlers.

        Returns False if it is too late, because the program is about to be replaced.
        """
        if self._is_committed:
            return False
        self.keeps_listening = False
        self.retire()
        return True

    def retire(self) -> None:
        """Request the end of the process only; for signal handlers."""
        if not self.is_stopping:
            self.is_stopping = True
            self.limit(exit_now)
        self.wake()

    def wake(self) -> None:
        """Set `signalled`; for signal handlers."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.signalled.set)

    def limit(self, end: Callable[[], None]) -> None:
        """Have the watchdog call `end` if the shutdown takes too long."""
        if self._watchdog is not None and self._limit_s is not None:
            self._limited_at = time.monotonic()
            self._watchdog.start(self._limit_s, partial(force, end, self._loop))

    def begin_exit(self, status: int) -> None:
        """Have the watchdog only bound the exit from now on; the work is done.

        It then ends the process with `status`, and reports nothing: no work is lost.
        """
        if self._watchdog is not None and self._limited_at is not None:
            left_s = self._limited_at + self._exit_limit_s - time.monotonic()
            self._watchdog.start(left_s, partial(os._exit, status))

    def commit(self) -> bool:
        """Decide the fate of the sockets; return whether they stay open."""
        self._is_committed = self.keeps_listening
        return self._is_committed

    async def sleep_unless_stopping(self, seconds: float) -> None:
        """Sleep, but only while the sockets are to stay open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.keeps_listening:
                    await self.signalled.wait()
                    self.signalled.clear()

    async def wait_unless_stopping(
        self, task: asyncio.Task[None], limit_s: float
    ) -> None:
        """Wait for a task, for some time, but not after a signal."""
        signalled = asyncio.create_task(self.signalled.wait())
        either = asyncio.FIRST_COMPLETED
        await asyncio.wait([task, signalled], timeout=limit_s, return_when=either)
        signalled.cancel()


def force(end: Callable[[], None], loop: asyncio.AbstractEventLoop | None) -> None:
    """Log the open work, end the child processes, and call `end`."""
    report = threading.Thread(target=_report, args=(loop,), daemon=True)
    report.start()
    report.join(REPORT_S)
    kill_children()
    end()


def _report(loop: asyncio.AbstractEventLoop | None) -> None:
    lifecycle.log_shutdown_forced(describe_open_work(loop))
    log_output.flush()


def exit_now() -> None:
    """End this process, without waiting for anything."""
    os._exit(0)


def exit_in_order(ending: Ending, status: int = 0) -> NoReturn:
    """End this process, whose work is done, without taking the interpreter apart.

    That would take half a second, in which the watchdog does not run.
    """
    # Exit handlers belong to libraries, and may be slow: that is no forced shutdown.
    ending.begin_exit(status)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(status)


def on_signal(number: signal.Signals, handle: Callable[[], None]) -> None:
    """Call `handle` on a signal, also while the event loop is blocked."""

    def call(_number: int, _frame: FrameType | None) -> None:
        handle()

    signal.signal(number, call)
