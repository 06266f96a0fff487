"""Calls to vPIC: each for a batch of VINs, in the turns of clients.

A batch waits for its turn, is announced in the database, decoded, and stored. It is
dropped while it waits if no client waits for any of its VINs. Once vPIC is asked, its
answer is stored even if all clients have left.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog

from service.instants import now_us
from service.settings import VehiclesSettings
from service.storage.errors import CircuitOpen, StorageError
from service.upstream.errors import ContractBroken, UpstreamError
from service.vehicles.errors import LookupsFull, VehicleUnavailable
from service.vehicles.memory_cache import MemoryCache
from service.vehicles.model import Entry, Query
from service.vehicles.pending import Fetch, Outcome
from service.vehicles.shared_lookups import LookupLocks
from service.vehicles.store import VehicleStore
from service.vehicles.turns import VpicTurns
from service.vehicles.vpic import MAX_BATCH, DecodedVins, VpicClient

log = structlog.get_logger()


class VpicBatches:
    """Asks vPIC for VINs, and stores the results; there is one in each process."""

    def __init__(
        self,
        settings: VehiclesSettings,
        store: VehicleStore,
        locks: LookupLocks,
        vpic: VpicClient,
        turns: VpicTurns,
    ) -> None:
        self._store = store
        self._locks = locks
        self._vpic = vpic
        self._turns = turns
        self._storage_wait_s = settings.storage_wait_s
        self.memory = MemoryCache(settings)

    async def ask(self, fetch: Fetch, vins: Sequence[Query]) -> None:
        """Ask for VINs whose locks this process has; finish them, and release these.

        Raises `LookupsFull` if not even the first batch may wait for its turn.
        """
        if not vins:
            return
        first, *others = _batches(vins)
        async with AsyncExitStack() as slot:
            await self._enter(slot, fetch, vins, is_first=True)
            async with asyncio.TaskGroup() as group:
                for batch in others:
                    group.create_task(self._ask_in_turn(fetch, batch))
                await self._ask(slot, fetch, first)

    async def _ask_in_turn(self, fetch: Fetch, vins: Sequence[Query]) -> None:
        async with AsyncExitStack() as slot:
            try:
                await self._enter(slot, fetch, vins, is_first=False)
            except LookupsFull as full:
                fetch.fail(vins, full)
                return
            await self._ask(slot, fetch, vins)

    async def _enter(
        self,
        slot: AsyncExitStack,
        fetch: Fetch,
        vins: Sequence[Query],
        *,
        is_first: bool,
    ) -> None:
        """Wait for the turn of a batch; raise `LookupsFull`."""
        try:
            async with fetch.while_wanted(vins):
                call = self._turns.call(fetch.client, is_first=is_first)
                await slot.enter_async_context(call)
        except BaseException:
            await self._locks.release(vins)
            raise

    async def _ask(
        self, slot: AsyncExitStack, fetch: Fetch, vins: Sequence[Query]
    ) -> None:
        """Ask for a batch in its slot, store the result, and finish all its VINs."""
        failed: list[Query] = []
        has_failed = True
        try:
            async with slot:
                removals = await self._announce(fetch, vins)
                decoded, error = await self._decode(fetch, vins)
            entries = _new_entries(decoded)
            stored = await self._save(entries, removals)
            for vin, entry in entries.items():
                is_refreshed = fetch.stored(vin).entry is not None
                outcome = Outcome(
                    entry,
                    is_new=True,
                    is_stored=vin in stored,
                    is_refreshed=is_refreshed,
                )
                fetch.finish(vin, outcome)
            failed = [vin for vin in vins if vin not in decoded]
            has_failed = not isinstance(error, LookupsFull)
            fetch.fail(failed, error)
        finally:
            # A cancelled look-up has not failed: another process may ask at once.
            await self._locks.release([vin for vin in vins if vin not in failed])
            await self._locks.release(failed, failed=has_failed)

    async def _announce(
        self, fetch: Fetch, vins: Sequence[Query]
    ) -> Mapping[Query, int] | None:
        """Return the number of removals of each VIN; None if they cannot be stored."""
        if not fetch.is_read:
            return None
        removals = {vin: fetch.stored(vin).removals for vin in vins}
        new = [vin for vin in vins if fetch.stored(vin).entry is None]
        try:
            announced = self._store.announce(new)
            return removals | await self._store.within(self._storage_wait_s, announced)
        except StorageError as error:
            _log_not_kept(vins, error)
            return None

    async def _decode(
        self, fetch: Fetch, vins: Sequence[Query]
    ) -> tuple[DecodedVins, VehicleUnavailable]:
        """Return the VINs that vPIC decoded, and the error of the others."""
        decoded: DecodedVins = {}
        error: UpstreamError = ContractBroken("vPIC returned no row for this VIN")
        try:
            decoded = await self._vpic.decode(vins, partial(self._turn, fetch, vins))
        except LookupsFull as abandoned:
            return {}, abandoned
        except UpstreamError as raised:
            error = raised
        if missing := len(vins) - len(decoded):
            fields = {"error.type": error.error_type}
            log.warning("vehicle.failed", vins=missing, **fields)
        return decoded, VehicleUnavailable(str(error), error.retry_after_s)

    @asynccontextmanager
    async def _turn(self, fetch: Fetch, vins: Sequence[Query]) -> AsyncIterator[None]:
        async with fetch.while_wanted(vins), self._turns.try_(fetch.client):
            yield

    async def _save(
        self, entries: Mapping[Query, Entry], removals: Mapping[Query, int] | None
    ) -> set[Query]:
        """Store entries except of VINs removed meanwhile; return the stored VINs."""
        if removals is None:
            return set()
        removals_seen = self.memory.removals
        try:
            saved = self._store.save(entries, removals)
            stored = await self._store.within(self._storage_wait_s, saved)
        except StorageError as error:
            _log_not_kept(entries, error)
            return set()
        for vin in stored:
            self.memory.put(vin, entries[vin], removals_seen)
        return stored


def _new_entries(decoded: DecodedVins) -> dict[Query, Entry]:
    now = now_us()
    for vin, vehicle in decoded.items():
        if vehicle is None:
            log.info("vehicle.not_decoded", vin=vin)
        else:
            log.info("vehicle.decoded", vin=vin)
    return {vin: Entry(vehicle, now) for vin, vehicle in decoded.items()}


def _log_not_kept(vins: Collection[Query], error: StorageError) -> None:
    # The open circuit was logged when it opened.
    if not isinstance(error, CircuitOpen):
        log.warning("vehicle.not_kept", vins=len(vins), reason=str(error))


def _batches(vins: Sequence[Query]) -> Iterator[Sequence[Query]]:
    for start in range(0, len(vins), MAX_BATCH):
        yield vins[start : start + MAX_BATCH]
