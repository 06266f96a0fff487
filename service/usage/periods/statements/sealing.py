"""Sealing: each closed period gets a digest, in the background and in their order.

A digest depends on what is kept alone. So all processes compute the same one, and after
a kill any of them begins again.
"""

import asyncio
import random
import sys
import time
from typing import Final

import structlog

from service.instants import now_us
from service.storage.database import Database
from service.storage.maintenance import repeat_logged
from service.usage.periods import metrics
from service.usage.periods.reading.chunk_cache import ChunkCache
from service.usage.periods.reading.kept_items import read_contents
from service.usage.periods.reading.whole_periods import BYTES_PER_MESSAGE
from service.usage.periods.statements.digests import Statement, StatementHash
from service.usage.periods.statements.store import StatementStore, Unsealed
from service.usage.periods.store import PeriodStore
from service.usage.snapshots.item_rows import csv_of_chunk
from service.usage.snapshots.worker import PricingWorkers

EVERY_S: Final = 2.0
MAX_DELAY_PER_MESSAGE_S: Final = 20e-6
"""Processes begin at random times, so that one has usually finished before the others
begin: a message takes some 3 microseconds."""

log = structlog.get_logger()


class Sealing:
    """Computes the digests of closed periods."""

    def __init__(self, database: Database, process_bytes: int = sys.maxsize) -> None:
        """Periods of `process_bytes` are encoded by a process of their own."""
        self._process_bytes = process_bytes
        self._store = PeriodStore(database)
        self._chunks = ChunkCache(self._store)
        self._statements = StatementStore(database)

    async def run(self) -> None:
        """Seal what has closed at every interval, until it is cancelled."""
        await repeat_logged("usage.sealing_failed", self._seal_counted, EVERY_S)

    async def seal(self) -> None:
        """Seal all closed periods that have no digest yet.

        Raises `StorageError`, `ChunkDamaged` and `PeriodReplaced`.
        """
        while found := await self._statements.find_unsealed():
            delay_s = random.uniform(0, MAX_DELAY_PER_MESSAGE_S)  # noqa: S311
            await asyncio.sleep(delay_s * found.period.messages)
            if await self._statements.find_unsealed() == found:
                await self._seal(found)

    async def _seal_counted(self) -> None:
        try:
            await self.seal()
        except Exception:
            metrics.sealing_failed()
            raise

    async def _seal(self, found: Unsealed) -> None:
        started, period = time.perf_counter(), found.period
        # A process that was killed may have stored a part of a last revision.
        await self._store.remove_unlisted(period.number)
        digest = await self._compute(found)
        statement = Statement(
            period_number=period.number,
            period=period.period,
            previous_digest=found.previous_digest,
            digest=digest,
            sealed_at=now_us(),
        )
        if await self._statements.add(statement):
            metrics.sealed()
            log.info(
                "usage.period_sealed",
                period=period.period,
                digest=statement.digest,
                messages=period.messages,
                duration_s=round(time.perf_counter() - started, 6),
            )

    async def _compute(self, found: Unsealed) -> str:
        """Return the digest; a process of its own encodes a large period."""
        period = found.period
        computed = StatementHash(found.previous_digest, period)
        workers = PricingWorkers(self._process_bytes)
        worker = workers.choose(BYTES_PER_MESSAGE * period.messages)
        try:
            async for digest, content in read_contents(self._chunks, period):
                encoding = worker.run(csv_of_chunk, content, digest)
                lines = await self._chunks.checked(period, encoding)
                await asyncio.to_thread(computed.add, lines)
        finally:
            await workers.close()
        return computed.hexdigest()
