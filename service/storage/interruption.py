"""Connections of SQLite whose running statement ends when its task is cancelled.

aiosqlite runs a statement in a thread. The cancellation of the task does not reach it
there: the thread and the connection would be busy until the statement ends.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import aiosqlite

CHUNK_ROWS: Final = 64
INTERRUPT_AGAIN_S: Final = 0.01

T = TypeVar("T")


class InterruptibleConnection(aiosqlite.Connection):
    """Connection that interrupts the call of a cancelled task."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a function of several statements in the thread.

        Each call costs a switch of threads, so a function is cheaper than its
        statements. Raises what it raises.
        """
        done: T = await self._execute(work, self._conn)
        return done

    # aiosqlite offers no way to follow a call, so this overrides a private method. A
    # test shows that cancelled statements end.
    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        call = _Call(partial(fn, *args, **kwargs))
        try:
            return await super()._execute(call)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            call.is_abandoned = True
            self._interrupt(call)
            raise

    def _interrupt(self, call: "_Call") -> None:
        """Interrupt until the call has ended.

        An interruption has no effect if it comes just before SQLite begins to run.
        """
        if call.has_ended or self._connection is None:
            return
        self._connection.interrupt()
        loop = asyncio.get_running_loop()
        loop.call_later(INTERRUPT_AGAIN_S, self._interrupt, call)


class _Call:
    """A call for the connection's thread."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.is_abandoned = False
        self.has_ended = False

    def __call__(self) -> Any:
        try:
            return None if self.is_abandoned else self._function()
        finally:
            self.has_ended = True


def connect(database: str, **options: Any) -> InterruptibleConnection:
    """Return a connection to await; the arguments are those of `sqlite3.connect`."""
    connector = partial(sqlite3.connect, database, **options)
    connection = InterruptibleConnection(connector, CHUNK_ROWS)
    # A thread that is blocked in SQLite must not keep the process from ending.
    connection._thread.daemon = True
    return connection
