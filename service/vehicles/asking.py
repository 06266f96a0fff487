"""Calls to vPIC: each for the queries that wait when the rate limit permits it.

Queries of all clients are gathered into calls of up to 50. A call is announced in the
database, decoded, and stored. A query is dropped while it waits if no client waits for
its fetch. Once vPIC is asked, its answer is stored even if all clients have left.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final, NamedTuple

import structlog

from service.settings import Settings
from service.storage.errors import CircuitOpen, StorageError
from service.upstream.errors import ContractBroken, TryTimedOut, UpstreamError
from service.vehicles.errors import LookupsFull, VehicleUnavailable
from service.vehicles.memory_cache import MemoryCache
from service.vehicles.model import Entry, Query
from service.vehicles.pending import Fetch, Outcome
from service.vehicles.shared_lookups import LookupLocks
from service.vehicles.shared_writes import SharedWrites
from service.vehicles.store import VehicleStore
from service.vehicles.turns import Group, QueryQueue, Refusal, Waiting
from service.vehicles.vpic import DecodedVins, VpicClient

IDLE_S: Final = 2.0
"""Time without a call after which vPIC has nothing to do: some permits are unused."""

Batch = Sequence[Waiting]
"""The queries of one call."""

log = structlog.get_logger()


class Asked(NamedTuple):
    """State of a batch after its call."""

    removals: Mapping[Query, int]
    """The number of removals of each query that can be stored."""
    decoded: DecodedVins
    error: Exception
    """The reason for queries that were not decoded."""


class VpicBatches:
    """Asks vPIC for queries, and stores the results; there is one in each process."""

    def __init__(
        self,
        settings: Settings,
        store: VehicleStore,
        locks: LookupLocks,
        vpic: VpicClient,
    ) -> None:
        self._writes = SharedWrites(store, settings.vehicles.storage_wait_s)
        self._locks = locks
        self._vpic = vpic
        self._queue = QueryQueue(settings)
        self._deadline_s = settings.vehicles.deadline_s
        self._queue_wait_s = settings.limits.queue_wait_s
        self._calling: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.memory = MemoryCache(settings.vehicles)

    @property
    def is_idle(self) -> bool:
        """True if no query waits or is in a call, and no call began just before."""
        quiet_s = asyncio.get_running_loop().time() - self._queue.called_at
        return not self._queue.waiting and not self._calls and quiet_s > IDLE_S

    async def ask(self, fetch: Fetch, queries: Sequence[Query]) -> None:
        """Ask for queries whose locks this process has; finish them, and release these.

        The first one is refused after `limits.queue_wait_s`, and all others with it.
        The others wait until the deadline of their fetch.
        """
        if not queries:
            return
        group = Group(fetch, queries)
        try:
            refusals = self._queue.add(group, queries)
        except LookupsFull as full:
            await self._locks.release(queries)
            fetch.fail(queries, full)
            return
        try:
            await self._drop(refusals)
            self._keep_calling()
            await self._wait(group, queries)
            await group.has_ended.wait()
        finally:
            # Of a fetch that was cancelled; otherwise none waits any more.
            waiting = self._queue.remove(group)
            await self._locks.release([each.query for each in waiting])

    async def close(self) -> None:
        """Cancel the calls in progress."""
        tasks = [*self._calls, *([self._calling] if self._calling else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._writes.close()

    async def _wait(self, group: Group, queries: Sequence[Query]) -> None:
        """Wait until all queries of a group are in calls, or have been dropped."""
        try:
            async with group.fetch.while_wanted(queries):
                try:
                    async with asyncio.timeout(self._queue_wait_s):
                        await group.has_begun.wait()
                except TimeoutError:
                    raise self._queue.full("waited") from None
                await group.has_stopped_waiting.wait()
        except LookupsFull as full:
            await self._drop([(each, full) for each in self._queue.remove(group)])

    async def _drop(self, refusals: Collection[Refusal]) -> None:
        """Finish queries that do not wait any more with the reason."""
        try:
            await self._locks.release([each.query for each, _ in refusals])
        finally:
            for each, reason in refusals:
                each.group.fetch.fail([each.query], reason)
                each.group.end()

    # --- calls ----------------------------------------------------------------------

    def _keep_calling(self) -> None:
        """Begin calls, until no query waits."""
        if self._calling is None or self._calling.done():
            self._calling = asyncio.create_task(self._call_all())

    async def _call_all(self) -> None:
        queue = self._queue
        while queue.waiting:
            await self._gather()
            while not queue.may_call and queue.waiting:
                queue.has_changed.clear()
                await queue.has_changed.wait()
            if queue.waiting:
                await self._call_next()

    async def _gather(self) -> None:
        """Wait for more queries, as long as the queue says."""
        while (left_s := self._queue.gathers_for_s) > 0:
            self._queue.has_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._queue.has_changed.wait()

    async def _call_next(self) -> None:
        """Wait for the rate limit, and begin a call for those that wait by then."""
        try:
            slot = await self._vpic.reserve()
        except UpstreamError as error:
            await self._fail_waiting(error)
            return
        # No other task runs until the call has its queries.
        if batch := self._queue.take():
            task = asyncio.create_task(self._call(batch, slot))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        else:
            await slot.aclose()

    async def _fail_waiting(self, error: UpstreamError) -> None:
        """Fail all queries that wait: no call may be made now."""
        while batch := self._queue.take():
            failed = VehicleUnavailable(str(error), error.retry_after_s)
            _log_failed(len(batch), error)
            self._queue.end_call(batch)
            await self._end(batch, {}, failed)

    async def _call(self, batch: Batch, slot: AsyncExitStack) -> None:
        """Ask for a batch in a reserved slot, store the result, and finish all."""
        decoded: DecodedVins = {}
        # For a cancellation, which passes the handler below but not `finally`.
        error: Exception = VehicleUnavailable(
            "the look-up was cancelled", cause="internal"
        )
        try:
            removals, decoded, error = await self._ask(batch, slot)
            _log_decoded(decoded)
            stored = await self._save(decoded, removals)
            for each in batch:
                if each.query in decoded:
                    _finish(each, decoded[each.query], is_stored=each.query in stored)
        except Exception as unexpected:  # noqa: BLE001 - the callers raise it
            decoded, error = {}, unexpected
        finally:
            await self._end(batch, decoded, error)

    async def _ask(self, batch: Batch, slot: AsyncExitStack) -> Asked:
        """Announce a batch, and ask for it in a reserved slot."""
        try:
            async with slot:
                removals = await self._announce(batch)
                return Asked(removals, *await self._decode(batch, slot))
        finally:
            # Before the result is stored: the next call need not wait for that. If the
            # database is slow, batches are not announced in time, so nothing is stored.
            self._queue.end_call(batch)

    async def _end(self, batch: Batch, decoded: DecodedVins, error: Exception) -> None:
        """Finish the queries that were not decoded, and release all locks."""
        failed = [each for each in batch if each.query not in decoded]
        for each in failed:
            each.group.fetch.fail([each.query], error)
        for each in batch:
            each.group.end()
        # A cancelled look-up has not failed: another process may ask at once.
        has_failed = getattr(error, "cause", None) != "internal"
        await self._locks.release([each.query for each in batch if each not in failed])
        await self._locks.release([each.query for each in failed], failed=has_failed)

    async def _announce(self, batch: Batch) -> Mapping[Query, int]:
        """Return the number of removals of each query that can be stored."""
        fetches = {each.query: each.group.fetch for each in batch}
        known = {
            query: fetch.stored(query).removals
            for query, fetch in fetches.items()
            if fetch.is_read
        }
        new = [query for query in known if fetches[query].stored(query).entry is None]
        try:
            announced = await self._writes.announce(new)
        except StorageError as error:
            _log_not_kept(known, error)
            return {}
        return {query: announced.get(query, known[query]) for query in known}

    async def _decode(
        self, batch: Batch, slot: AsyncExitStack
    ) -> tuple[DecodedVins, VehicleUnavailable]:
        """Return the queries that vPIC decoded, and the error of the others."""
        queries = list(dict.fromkeys(each.query for each in batch))
        decoded: DecodedVins = {}
        error: UpstreamError = ContractBroken("vPIC returned no row for this VIN")
        try:
            async with asyncio.timeout(self._deadline_s):
                decoded = await self._vpic.decode(queries, slot)
        except TimeoutError:
            error = TryTimedOut("no answer in time")
        except UpstreamError as raised:
            error = raised
        if missing := len(queries) - len(decoded):
            _log_failed(missing, error)
        return decoded, VehicleUnavailable(str(error), error.retry_after_s)

    async def _save(
        self, entries: Mapping[Query, Entry], removals: Mapping[Query, int]
    ) -> Collection[Query]:
        """Store entries except of VINs removed meanwhile; return the stored queries."""
        known = {query: entries[query] for query in entries if query in removals}
        if not known:
            return set()
        removals_seen = self.memory.removals
        try:
            stored = await self._writes.save(known, removals)
        except StorageError as error:
            _log_not_kept(known, error)
            return set()
        for query in stored:
            self.memory.put(query, entries[query], removals_seen)
        return stored


def _finish(each: Waiting, entry: Entry, *, is_stored: bool) -> None:
    """Finish a query that vPIC has answered."""
    fetch = each.group.fetch
    is_refreshed = fetch.stored(each.query).entry is not None
    outcome = Outcome(
        entry, is_new=True, is_stored=is_stored, is_refreshed=is_refreshed
    )
    fetch.finish(each.query, outcome)


def _log_decoded(decoded: DecodedVins) -> None:
    for vin, entry in decoded.items():
        if entry.vehicle is None:
            log.info("vehicle.not_decoded", vin=vin)
        else:
            log.info("vehicle.decoded", vin=vin)


def _log_failed(vins: int, error: UpstreamError) -> None:
    log.warning("vehicle.failed", vins=vins, **{"error.type": error.error_type})


def _log_not_kept(vins: Collection[Query], error: StorageError) -> None:
    # The open circuit was logged when it opened.
    if not isinstance(error, CircuitOpen):
        log.warning("vehicle.not_kept", vins=len(vins), reason=str(error))
