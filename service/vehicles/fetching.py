"""Fetching of VINs that are not in memory: from the database, or else from vPIC.

The outcome of each VIN is reported as soon as it is known. If the database is
unavailable or does not answer in time, vPIC is asked, and nothing is stored.
"""

import asyncio
from collections.abc import Collection, Hashable, Mapping, Sequence

import structlog

from service.instants import US_PER_S, now_us
from service.settings import VehiclesSettings
from service.storage.errors import CircuitOpen, StorageError
from service.vehicles.asking import VpicBatches
from service.vehicles.errors import Cause, VehicleUnavailable
from service.vehicles.model import Entry, Query
from service.vehicles.pending import Fetch, Outcome, PendingVin
from service.vehicles.shared_lookups import LookupLocks
from service.vehicles.store import VehicleStore

log = structlog.get_logger()


class Fetcher:
    """Fetches VINs; there is one in each process."""

    def __init__(
        self,
        settings: VehiclesSettings,
        store: VehicleStore,
        locks: LookupLocks,
        batches: VpicBatches,
    ) -> None:
        self._settings = settings
        self._store = store
        self._locks = locks
        self._batches = batches
        self.memory = batches.memory

    @property
    def is_idle(self) -> bool:
        """True if no fetch needs vPIC, and none has needed it for a while."""
        return self._batches.is_idle

    def find_cached(self, vin: Query) -> Entry | None:
        """Return the entry of a VIN if it is in memory and fresh."""
        entry = self.memory.find(vin)
        return entry if entry and self._is_fresh(entry) else None

    async def fetch(
        self,
        vins: Mapping[Query, PendingVin],
        client: Hashable,
        *,
        needs_whole: bool = False,
    ) -> None:
        """Fetch VINs within the deadline, and finish each of them.

        vPIC is asked in the turns of `client`.
        """
        fetch = Fetch(vins, client, needs_whole=needs_whole)
        # For a cancellation, which passes the handlers below but not `finally`.
        error: Exception = VehicleUnavailable(
            "the look-up was cancelled", cause="internal"
        )
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                await self._read(fetch, list(fetch.pending))
                fetch.set_read()
                await self._fetch_pending(fetch)
        except TimeoutError:
            cause: Cause = "vpic" if fetch.is_read else "storage"
            error = VehicleUnavailable("no answer in time", cause=cause)
            fields = {"error.type": "TimeoutError"}
            log.warning("vehicle.failed", vins=len(fetch.pending), **fields)
        except Exception as unexpected:  # noqa: BLE001 - the callers raise it
            error = unexpected
        finally:
            fetch.fail(list(fetch.pending), error)

    async def _read(self, fetch: Fetch, vins: Collection[Query]) -> None:
        """Read VINs from the database, and finish those that are fresh.

        If it is unavailable, finish those that memory still has.
        """
        # Before the query: a VIN that is removed during it must not enter the memory.
        removals = self.memory.removals
        try:
            found = self._store.find(vins)
            stored = await self._store.within(self._settings.storage_wait_s, found)
        except StorageError as error:
            # The open circuit was logged when it opened.
            if not isinstance(error, CircuitOpen):
                log.warning("vehicle.not_read", vins=len(vins), reason=str(error))
            fetch.is_read = False
            self._finish_by_memory(fetch, vins)
            return
        fetch.add_stored(stored)
        for vin, (entry, _) in stored.items():
            if entry is None or not self._is_fresh(entry):
                continue
            self.memory.put(vin, entry, removals)
            if entry.packed or not fetch.needs_whole:
                fetch.finish(vin, Outcome(entry))

    def _finish_by_memory(self, fetch: Fetch, vins: Collection[Query]) -> None:
        error = VehicleUnavailable("the database is unavailable", cause="storage")
        for vin in vins:
            entry = self.memory.find_outdated(vin)
            if entry is not None and self._is_fresh(entry):
                fetch.finish(vin, Outcome(entry, error=error))

    async def _fetch_pending(self, fetch: Fetch) -> None:
        """Ask vPIC, or wait for other processes that are asking it."""
        # The lock of a process that died expires without a result, so VINs may remain.
        while fetch.pending:
            acquired = await self._locks.acquire(list(fetch.pending))
            if self._locks.are_shared and fetch.is_read:
                await self._read_again(fetch, acquired)
            await self._batches.ask(fetch, fetch.pending_of(acquired))
            await self._wait_for_others(fetch, list(fetch.pending))

    async def _read_again(self, fetch: Fetch, acquired: Collection[Query]) -> None:
        """Finish VINs that another process stored before this one had the lock."""
        await self._read(fetch, acquired)
        await self._locks.release([vin for vin in acquired if vin not in fetch.pending])

    async def _wait_for_others(self, fetch: Fetch, vins: Sequence[Query]) -> None:
        """Wait for the processes that are asking for VINs; read what they stored."""
        if not vins:
            return
        async with fetch.while_wanted(vins):
            failed = await self._locks.wait(vins)
        reason = "the look-up of another process failed"
        fetch.fail(failed, VehicleUnavailable(reason))
        await self._read(fetch, list(fetch.pending))

    def _is_fresh(self, entry: Entry) -> bool:
        settings = self._settings
        ttl_s = settings.ttl_s if entry.vehicle else settings.missing_ttl_s
        return now_us() - entry.fetched_at < ttl_s * US_PER_S
