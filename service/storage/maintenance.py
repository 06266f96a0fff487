"""Maintenance of the database in short transactions, which leave it to writers.

The size of a batch is chosen by the time that the one before took. The pause after it
is in proportion to its time, and leaves the rest of the time to other transactions.
`repeat_logged` runs such work at every interval, for as long as the service runs.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.storage.database import Database
from service.storage.errors import CircuitOpen, StorageError
from service.storage.uses import Use

BATCH_S: Final = 0.01
"""Time that a batch should take: other writers wait for about that."""
MAX_ROWS: Final = 10_000
MAX_GROWTH: Final = 2
MAX_PAUSE_S: Final = 60.0
"""Maximum pause after unexpected failures, unless the interval is longer."""

Work = Callable[[AsyncConnection, int], Awaitable[int]]
"""Processes up to this number of rows in a transaction, and returns their number."""

log = structlog.get_logger()


async def repeat_logged(
    failed: str, work: Callable[[], Awaitable[object]], every_s: float
) -> None:
    """Do the work at every interval, whatever fails.

    Each kind of failure is logged once as the event `failed`, until the work succeeds.
    A defect of the program doubles the pause up to `MAX_PAUSE_S`.
    """
    logged: set[str] = set()
    pause_s = every_s
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - a defect must not end the task
            is_defect = not isinstance(error, StorageError)
            # The reason of a defect may have values, and so be another each time.
            kind = type(error).__name__ if is_defect else str(error)
            if kind not in logged:
                logged.add(kind)
                _log_failure(failed, error)
            longer_s = max(every_s, min(2 * pause_s, MAX_PAUSE_S))
            pause_s = longer_s if is_defect else every_s
        else:
            logged.clear()
            pause_s = every_s
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run work in a task that is cancelled when the context ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _log_failure(event: str, error: Exception) -> None:
    if isinstance(error, CircuitOpen):
        return  # it was logged when it opened
    if isinstance(error, StorageError):
        log.warning(event, reason=str(error))
    else:
        log.error(event, reason=str(error), exc_info=error)


class Batches:
    """Runs batches, each in a transaction, for a share of the time.

    A transaction alone may take as long as `BATCH_S`, so batches have `min_rows`.
    """

    def __init__(
        self,
        database: Database,
        share: float,
        min_rows: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.rows = min_rows
        self._min_rows = min_rows
        self._database = database
        self._pause_per_s = 1 / share - 1
        self._clock = clock
        self._resume_at = 0.0

    async def run(self, work: Work) -> int:
        """Run a batch of up to `rows` after a pause; return its number of rows.

        Raises `StorageError`.
        """
        await asyncio.sleep(max(0.0, self._resume_at - self._clock()))
        async with self._database.writing(Use.RETENTION) as connection:
            # The wait for the lock is not counted: others work meanwhile.
            started = self._clock()
            number = await work(connection, self.rows)
        ended = self._clock()
        self._resume_at = ended + (ended - started) * self._pause_per_s
        if number >= self.rows:
            self._choose_rows(ended - started)
        return number

    def _choose_rows(self, taken_s: float) -> None:
        fitting = int(self.rows * BATCH_S / taken_s) if taken_s else MAX_ROWS
        self.rows = max(self._min_rows, min(fitting, self.rows * MAX_GROWTH, MAX_ROWS))
