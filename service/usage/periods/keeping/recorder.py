"""Keeping of periods: each new snapshot is written to the database in the background.

Requests never wait for it. If the database is unavailable, snapshots wait until it is
back. Several processes may keep the same period: the database decides which of them
publishes a revision, and the others compare with it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import structlog

from service.storage.errors import StorageError
from service.usage.errors import WorkerLost
from service.usage.periods import metrics
from service.usage.periods.keeping.contents import Fetched
from service.usage.periods.keeping.waiting import WaitingSnapshots
from service.usage.snapshot import Snapshot
from service.usage.snapshots.errors import SnapshotError

RETRY_S: Final = 5.0

log = structlog.get_logger()


class SnapshotKeeper(Protocol):
    """Decides what a snapshot is, and writes it."""

    async def keep(self, fetched: Fetched, skipped: int) -> None:
        """Keep a snapshot before which others were skipped.

        Raises `StorageError`, `SnapshotError` and `WorkerLost`.
        """


class Recorder:
    """Keeps the snapshots of one process; `running_recorder` opens one."""

    def __init__(self, keeper: SnapshotKeeper) -> None:
        self._keeper = keeper
        self._waiting = WaitingSnapshots()
        self._has_work = asyncio.Event()
        self._failure: str | None = None

    def keep(self, snapshot: Snapshot, fetched_at: int) -> None:
        """Have a snapshot kept soon; a later one replaces one that still waits."""
        if snapshot.has_texts and snapshot.summary.messages:
            metrics.skipped(self._waiting.put(Fetched(snapshot, fetched_at)))
            self._has_work.set()
            metrics.behind_since(fetched_at)

    async def run(self) -> None:
        """Keep one snapshot after the other, until it is cancelled."""
        while True:
            fetched = self._waiting.take()
            if fetched is None:
                await self._wait()
                continue
            skipped = self._waiting.skipped
            try:
                await self._keeper.keep(fetched, skipped)
            except (WorkerLost, SnapshotError):
                # The worker that had it is gone, and a later snapshot will be kept.
                self._waiting.skipped += 1
                metrics.skipped(1)
            except Exception as error:  # noqa: BLE001 - a defect must not end the task
                self._report(error)
                await asyncio.sleep(RETRY_S)
                metrics.skipped(self._waiting.put_back(fetched))
            else:
                self._kept(skipped)

    async def _wait(self) -> None:
        """Wait until a snapshot may be due."""
        self._has_work.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._waiting.due_s()):
                await self._has_work.wait()

    def _kept(self, skipped: int) -> None:
        self._waiting.skipped -= skipped
        if self._failure is not None:
            log.warning("usage.keeping_caught_up", skipped=skipped)
            self._failure = None
        if not len(self._waiting):
            metrics.kept()

    def _report(self, error: Exception) -> None:
        """Log a failure once, until keeping succeeds."""
        text = f"{type(error).__name__}: {error}"
        metrics.failed()
        if text != self._failure:
            unexpected = {} if isinstance(error, StorageError) else {"exc_info": error}
            log.error(
                "usage.keeping_failed",
                reason=str(error),
                **{"error.type": type(error).__name__},
                **unexpected,
            )
        self._failure = text


@asynccontextmanager
async def running_recorder(keeper: SnapshotKeeper) -> AsyncIterator[Recorder]:
    """Run a recorder; what it has not written is not lost.

    The next process compares its first snapshot with what is kept.
    """
    recorder = Recorder(keeper)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.wait([task])
