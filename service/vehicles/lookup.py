"""Look-ups of VINs; concurrent ones of the same VIN share one fetch."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

import structlog
from msgspec.structs import asdict, replace
from yarl import URL

from service.instants import US_PER_S, now_us
from service.observability.stages import stage
from service.settings import Settings
from service.storage.database import Database
from service.storage.redis_holds import share_holds
from service.storage.redis_store import RedisStore
from service.upstream.circuit_breaker import CircuitBreaker
from service.upstream.client import open_client
from service.upstream.guard import UpstreamGuard
from service.vehicles import metrics
from service.vehicles.asking import VpicBatches
from service.vehicles.doubts import verdict_of
from service.vehicles.errors import (
    LookupAbandoned,
    LookupsFull,
    VehicleUnavailable,
    VinNotDecoded,
)
from service.vehicles.fetching import Fetcher
from service.vehicles.manufacturers import Manufacturers
from service.vehicles.model import Entry, Found, VehicleSource, Vin
from service.vehicles.offline import OfflineDecoder, load_decoder
from service.vehicles.pending import LookupClient, Outcome, PendingVin
from service.vehicles.removals import Removals
from service.vehicles.shared_lookups import LookupLocks
from service.vehicles.store import VehicleStore
from service.vehicles.vin import with_every_hint
from service.vehicles.vpic import VpicClient, vpic_profile

LookupFailure = VinNotDecoded | VehicleUnavailable

log = structlog.get_logger()


def source_of(settings: Settings) -> VehicleSource:
    """Return the source of vehicles under these settings."""
    if settings.sandbox.enabled:
        return VehicleSource("sandbox")
    # Credentials do not identify vPIC, and must not be stored in the database.
    url = str(URL(settings.vehicles.base_url).with_user(None))
    return VehicleSource(url.rstrip("/"))


def age_s(entry: Entry) -> float:
    """Return the seconds since vPIC returned an entry."""
    return max(0.0, (now_us() - entry.fetched_at) / US_PER_S)


class Lookups:
    """Looks up and removes VINs; there is one in each process."""

    def __init__(
        self,
        fetcher: Fetcher,
        removals: Removals,
        manufacturers: Manufacturers,
        stale_wait_s: float,
        offline: OfflineDecoder | None = None,
    ) -> None:
        self.manufacturers = manufacturers
        self.guard: UpstreamGuard | None = None
        """The limits of calls to vPIC."""
        self._fetcher = fetcher
        self._removals = removals
        self._stale_wait_s = stale_wait_s
        self._offline = offline
        self._pending: dict[Vin, PendingVin] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def circuit(self) -> CircuitBreaker | None:
        """The circuit of calls to vPIC."""
        return self.guard.breaker if self.guard else None

    def find_cached(self, vin: Vin) -> Entry | None:
        """Return the entry of a decoded VIN if it is in memory and fresh."""
        entry = self._fetcher.find_cached(vin)
        return entry if entry and entry.vehicle else None

    async def look_up(self, vin: Vin, client: LookupClient | None = None) -> Found:
        """Return the vehicle of a VIN, requested by a client or by this program.

        Raises `VinNotDecoded`, `VehicleUnavailable` and the errors of the lane.
        """
        outcomes = await self._outcomes([vin], client or LookupClient())
        return self._to_found(vin, outcomes[vin])

    async def look_up_all(
        self, vins: Collection[Vin], client: LookupClient | None = None
    ) -> dict[Vin, Found | LookupFailure]:
        """Return the vehicle of each VIN, or its error.

        Raises the errors of the lane.
        """
        outcomes = await self._outcomes(vins, client or LookupClient())
        results: dict[Vin, Found | LookupFailure] = {}
        for vin in vins:
            try:
                results[vin] = self._to_found(vin, outcomes[vin])
            except (VinNotDecoded, VehicleUnavailable) as error:
                results[vin] = error
        return results

    @property
    def is_idle(self) -> bool:
        """True if no look-up needs vPIC, and none has needed it for a while."""
        return self._fetcher.is_idle

    async def complete(self, vins: Collection[Vin]) -> bool:
        """Ask vPIC for rows that lack values; return False if it is unavailable."""
        outcomes = await self._outcomes(vins, LookupClient(needs_whole=True))
        return not any(each.error for each in outcomes.values())

    async def remove(self, vin: Vin, client: Hashable = None) -> bool:
        """Remove a VIN; return False if it was not stored. Raises `StorageError`.

        A look-up in progress still answers its requests, but its result is not stored.
        """
        self._forget(vin)
        was_stored = await self._removals.remove(vin, client)
        # Again: a look-up may have read the row before it was removed.
        self._forget(vin)
        metrics.vehicle_removed(was_kept=was_stored)
        log.info("vehicle.removed", vin=vin, was_kept=was_stored)
        return was_stored

    async def close(self) -> None:
        """Cancel the look-ups and removals in progress."""
        await self._removals.close()
        await self.manufacturers.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self, vin: Vin) -> None:
        # Later requests must not join a look-up that began before the removal.
        for each in with_every_hint(vin):
            self._pending.pop(each, None)
            self._fetcher.memory.remove(each)

    def _cached(
        self, vins: Collection[Vin], client: LookupClient
    ) -> dict[Vin, Outcome]:
        cached = {vin: self._fetcher.find_cached(vin) for vin in vins}
        return {
            vin: Outcome(entry)
            for vin, entry in cached.items()
            if entry and (entry.packed or not client.needs_whole)
        }

    async def _outcomes(
        self, vins: Collection[Vin], client: LookupClient
    ) -> dict[Vin, Outcome]:
        """Return the outcome of each VIN: from memory, or from fetches."""
        outcomes = self._cached(vins, client)
        missing = [vin for vin in vins if vin not in outcomes]
        while missing:
            fetched = await self._fetch(missing, client)
            outcomes |= {vin: outcome for vin, (outcome, _) in fetched.items()}
            missing = [
                vin
                for vin, (outcome, asked_by) in fetched.items()
                if _is_refused_to_other(outcome, asked_by, client)
                or _lacks_values(outcome, client)
            ]
        return outcomes

    async def _fetch(
        self, vins: Sequence[Vin], client: LookupClient
    ) -> dict[Vin, tuple[Outcome, Hashable]]:
        """Return outcomes of new or pending fetches, and the clients of these."""
        pending = {vin: self._pending[vin] for vin in vins if vin in self._pending}
        client.join(pending.values())
        try:
            if len(pending) < len(vins):
                new = [vin for vin in vins if vin not in pending]
                pending |= await self._begin_in_lane(new, client)
            with stage("upstream"):
                await self._wait(pending)
        except BaseException:
            client.stop_waiting()
            raise
        return {vin: (each.outcome, each.client) for vin, each in pending.items()}

    async def _begin_in_lane(
        self, vins: Sequence[Vin], client: LookupClient
    ) -> dict[Vin, PendingVin]:
        """Begin to fetch VINs; return when the database has been read."""
        async with client.slot() as keep:
            # Another request may have begun to fetch them during the wait.
            new = [vin for vin in vins if vin not in self._pending]
            self._begin(new, client)
            pending = {vin: self._pending[vin] for vin in vins}
            client.join(pending.values())
            if new:
                reads = [pending[vin].read for vin in new]
                for each in reads:
                    keep(each)
                with stage("storage"):
                    await asyncio.wait(reads)
        return pending

    async def _wait(self, pending: Mapping[Vin, PendingVin]) -> None:
        """Wait for all outcomes, or for a while if there is another answer."""
        # Futures, not tasks: a client that disconnects cancels only its own wait.
        last_start = max(each.started for each in pending.values())
        left_s = last_start + self._stale_wait_s - time.monotonic()
        finished = [each.finished for each in pending.values()]
        await asyncio.wait(finished, timeout=max(0.0, left_s))
        await asyncio.wait([each.read for each in pending.values()])
        new = [
            each.finished
            for vin, each in pending.items()
            if not self._has_other_answer(vin, each)
        ]
        if new:
            await asyncio.wait(new)

    def _has_other_answer(self, vin: Vin, pending: PendingVin) -> bool:
        """Return whether a VIN can be answered before vPIC has answered."""
        if pending.finished.done() or pending.read.result() is not None:
            return True
        return self._offline is not None and self._offline(vin) is not None

    def _begin(self, vins: Sequence[Vin], client: LookupClient) -> None:
        if not vins:
            return
        now = time.monotonic()
        started = {vin: PendingVin(client.name, now) for vin in vins}
        for vin, each in started.items():
            each.on_finish = partial(self._end, vin, each)
        # Before the database is read: otherwise a request that has read it just before
        # the result is stored would ask vPIC again.
        self._pending |= started
        fetching = self._fetcher.fetch(
            started, client.name, needs_whole=client.needs_whole
        )
        task = asyncio.get_running_loop().create_task(fetching)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, vin: Vin, pending: PendingVin) -> None:
        # After a removal, the VIN may be pending again in another fetch.
        if self._pending.get(vin) is pending:
            del self._pending[vin]

    def _to_found(self, vin: Vin, outcome: Outcome) -> Found:
        """Return the vehicle of an outcome, and count the look-up; raise its error."""
        entry, is_new, is_stored, is_refreshed, error = outcome
        if error is not None and not isinstance(error, VehicleUnavailable):
            metrics.vehicle_looked_up("failed", "internal")
            raise error
        if entry is None:
            return self._decode_offline(vin, error)
        result: Literal["hit", "stale", "miss"]
        result = "stale" if error else "miss" if is_new else "hit"
        metrics.vehicle_looked_up(result, error.cause if error else metrics.NO_REASON)
        if entry.vehicle is None:
            reason = "vPIC knows no vehicle for this VIN"
            raise VinNotDecoded(reason, asdict(verdict_of(entry)))
        return Found(
            entry.vehicle,
            result,
            age_s(entry),
            is_stored,
            is_refreshed,
            entry.codes,
            entry.packed,
        )

    def _decode_offline(self, vin: Vin, error: VehicleUnavailable | None) -> Found:
        entry = self._offline(vin) if self._offline else None
        error = error or VehicleUnavailable(
            "nothing is known about this VIN", cause="internal"
        )
        if entry is not None and entry.vehicle is not None:
            metrics.vehicle_looked_up("offline", error.cause)
            values = (entry.codes, entry.packed)
            return Found(entry.vehicle, "offline", 0.0, False, False, *values)  # noqa: FBT003
        is_refused = isinstance(error, LookupsFull)
        metrics.vehicle_looked_up("refused" if is_refused else "failed", error.cause)
        raise error


@asynccontextmanager
async def open_lookups(
    settings: Settings, database: Database, shared: RedisStore | None
) -> AsyncIterator[Lookups]:
    """Open look-ups with a client of vPIC; cancel those in progress at the end."""
    vehicles, source = settings.vehicles, source_of(settings)
    store = VehicleStore(database, source)
    locks = LookupLocks(shared, settings, source)
    calls = replace(
        settings.upstream,
        base_url=vehicles.base_url,
        concurrency=vehicles.concurrency,
        attempts=vehicles.attempts,
        timeout_s=vehicles.timeout_s,
        max_body_bytes=vehicles.max_body_bytes,
    )
    # vPIC takes seconds for a batch in normal operation: only a time-out is slow.
    breaker = replace(settings.breaker, slow_call_s=vehicles.timeout_s)
    async with open_client(calls, breaker, profile=vpic_profile(settings)) as client:
        batches = VpicBatches(settings, store, locks, VpicClient(client))
        fetcher = Fetcher(vehicles, store, locks, batches)
        offline = load_decoder() if vehicles.offline else None
        removals = Removals(store)
        manufacturers = Manufacturers(vehicles, client)
        lookups = Lookups(
            fetcher, removals, manufacturers, vehicles.stale_wait_s, offline
        )
        lookups.guard = client.guard
        share_holds(client.guard, shared, f"vpic:{source}")
        try:
            yield lookups
        finally:
            await lookups.close()
            await batches.close()


def _is_refused_to_other(
    outcome: Outcome, asked_by: Hashable, client: LookupClient
) -> bool:
    """Return whether this client should ask in its own turn: another was refused."""
    if outcome.entry is not None:
        return False
    error = outcome.error
    if isinstance(error, LookupAbandoned):
        return True
    return isinstance(error, LookupsFull) and asked_by != client.name


def _lacks_values(outcome: Outcome, client: LookupClient) -> bool:
    """Return whether a fetch for another client has found a row without all values."""
    if not client.needs_whole or outcome.error is not None or outcome.is_new:
        return False
    return outcome.entry is not None and not outcome.entry.packed
