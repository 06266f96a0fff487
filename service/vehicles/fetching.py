"""Fetching what is not in memory: from the database, else by asking vPIC.

Each VIN's outcome is handed over as soon as it is known. What vPIC tells is kept before
that; if it cannot be, it is told all the same.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog

from service.instants import US_PER_S, now_us
from service.settings import Vehicles
from service.storage.errors import StorageError
from service.upstream.errors import ContractBroken, UpstreamError
from service.vehicles.errors import VehicleUnavailable
from service.vehicles.memory import Memory
from service.vehicles.model import Entry, Vin
from service.vehicles.store import Kept, VehicleStore
from service.vehicles.turns import Turns
from service.vehicles.vpic import MAX_BATCH, Told, Vpic

log = structlog.get_logger()


class Outcome(NamedTuple):
    """What came of fetching a VIN."""

    entry: Entry | None
    """What is known of it; with an error, what was known before."""
    is_told: bool = False
    """Whether vPIC has told it just now."""
    is_kept: bool = True
    """Whether what was told could be kept."""
    is_renewed: bool = False
    """Whether something older was kept."""
    error: Exception | None = None
    """Why it could not be had."""


Land = Callable[[Vin, Outcome], None]
"""Takes the outcome of a VIN."""

Recognise = Callable[[Vin, Entry], None]
"""Takes what is kept of a VIN that is asked for again, as it is too old."""


class Fetcher:
    """Fetches VINs; one for each process."""

    def __init__(
        self, settings: Vehicles, store: VehicleStore, vpic: Vpic, turns: Turns
    ) -> None:
        self._settings = settings
        self._store = store
        self._vpic = vpic
        self._turns = turns
        self.memory = Memory(settings)

    def recall(self, vin: Vin) -> Entry | None:
        """What is in memory of a VIN and fresh."""
        entry = self.memory.find(vin)
        return entry if entry and self._is_fresh(entry) else None

    async def fetch(
        self, vins: Collection[Vin], land: Land, recognise: Recognise
    ) -> None:
        """Fetch each VIN within the deadline; every one of them lands.

        Of those that are kept, but too old, that is told before vPIC is asked.
        """
        flown: set[Vin] = set()
        kept: dict[Vin, Kept] = {}

        def landed(vin: Vin, outcome: Outcome) -> None:
            flown.add(vin)
            land(vin, outcome)

        error: Exception = VehicleUnavailable("it was given up")
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                kept |= await self._find(vins, landed)
                missing = [vin for vin in vins if vin not in flown]
                for vin in missing:
                    if (before := kept[vin].entry) is not None:
                        recognise(vin, before)
                await self._ask_in_turn(missing, kept, landed, flown)
        except TimeoutError:
            error = VehicleUnavailable("no answer in time")
            _note_failure(len(set(vins) - flown), "TimeoutError")
        except Exception as unexpected:  # noqa: BLE001 - raised where it was asked
            error = unexpected
        finally:
            for vin in set(vins) - flown:
                before = kept[vin].entry if vin in kept else None
                land(vin, Outcome(before, error=error))

    async def remove(self, vin: Vin) -> bool:
        """Forget a VIN; whether it was kept. Raises `StorageError`."""
        self.memory.remove(vin)
        was_kept = await self._store.remove(vin)
        # Once more: it may have been read from the database in between.
        self.memory.remove(vin)
        return was_kept

    async def _find(self, vins: Collection[Vin], land: Land) -> dict[Vin, Kept]:
        """Land what the database has fresh; gives all that it has."""
        removals = self.memory.removals
        kept = await self._store.find(vins)
        for vin, (entry, _) in kept.items():
            if entry is not None and self._is_fresh(entry):
                self.memory.put(vin, entry, removals)
                land(vin, Outcome(entry))
        return kept

    async def _ask_in_turn(
        self, vins: Collection[Vin], kept: dict[Vin, Kept], land: Land, flown: set[Vin]
    ) -> None:
        """Ask for each, or wait for another process that does; `flown` have landed."""
        waiting = list(vins)
        while waiting:
            ours = await self._turns.take(waiting)
            if self._turns.are_shared:
                await self._land_told(ours, kept, land, flown)
            asked = [vin for vin in waiting if vin in ours and vin not in flown]
            await self._ask_all(asked, kept, land)
            waiting = [vin for vin in waiting if vin not in flown]
            if waiting:
                failed = await self._turns.wait(waiting)
                for vin in failed:
                    error = VehicleUnavailable("another process could not have it")
                    land(vin, Outcome(kept[vin].entry, error=error))
                left = [vin for vin in waiting if vin not in failed]
                kept |= await self._find(left, land)
                waiting = [vin for vin in left if vin not in flown]

    async def _land_told(
        self, ours: Collection[Vin], kept: dict[Vin, Kept], land: Land, flown: set[Vin]
    ) -> None:
        """Land what another process has kept between our look and our turn."""
        kept |= await self._find(ours, land)
        await self._turns.end([vin for vin in ours if vin in flown])

    async def _ask_all(
        self, vins: Sequence[Vin], kept: Mapping[Vin, Kept], land: Land
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for batch in _batches(vins):
                group.create_task(self._ask(batch, kept, land))

    async def _ask(
        self, vins: Sequence[Vin], kept: Mapping[Vin, Kept], land: Land
    ) -> None:
        """Ask vPIC for a batch, keep what it tells, and land all of it."""
        failed: list[Vin] = []
        try:
            told, error = await self._decode(vins)
            entries = self._entries(told)
            stored = await self._keep(entries, kept)
            for vin, entry in entries.items():
                land(
                    vin,
                    Outcome(
                        entry,
                        is_told=True,
                        is_kept=vin in stored,
                        is_renewed=kept[vin].entry is not None,
                    ),
                )
            failed = [vin for vin in vins if vin not in told]
            for vin in failed:
                land(vin, Outcome(kept[vin].entry, error=error))
        finally:
            # Who is broken off has not failed: others may go on.
            await self._turns.end([vin for vin in vins if vin not in failed])
            await self._turns.end(failed, failed=True)

    async def _decode(self, vins: Sequence[Vin]) -> tuple[Told, VehicleUnavailable]:
        """What vPIC tells, and why it tells nothing of the others."""
        told: Told = {}
        error: UpstreamError = ContractBroken("vPIC gave no row for this VIN")
        try:
            told = await self._vpic.decode(vins)
        except UpstreamError as met:
            error = met
        if missing := len(vins) - len(told):
            _note_failure(missing, error.error_type)
        return told, VehicleUnavailable(str(error), error.retry_after_s)

    async def _keep(
        self, entries: Mapping[Vin, Entry], kept: Mapping[Vin, Kept]
    ) -> set[Vin]:
        """Keep what was told and not removed meanwhile; gives what is kept."""
        removals = self.memory.removals
        before = {vin: kept[vin].removals for vin in entries}
        try:
            stored = await self._store.keep(entries, before)
        except StorageError as error:
            log.warning("vehicle.not_kept", vins=len(entries), reason=str(error))
            return set()
        for vin in stored:
            self.memory.put(vin, entries[vin], removals)
        return stored

    def _entries(self, told: Told) -> dict[Vin, Entry]:
        now = now_us()
        for vin, vehicle in told.items():
            if vehicle is None:
                log.info("vehicle.not_decoded", vin=vin)
            else:
                log.info("vehicle.decoded", vin=vin)
        return {vin: Entry(vehicle, now) for vin, vehicle in told.items()}

    def _is_fresh(self, entry: Entry) -> bool:
        settings = self._settings
        ttl_s = settings.ttl_s if entry.vehicle else settings.missing_ttl_s
        return now_us() - entry.fetched_at < ttl_s * US_PER_S


def _note_failure(vins: int, reason: str) -> None:
    log.warning("vehicle.failed", vins=vins, **{"error.type": reason})


def _batches(vins: Sequence[Vin]) -> Iterator[Sequence[Vin]]:
    for at in range(0, len(vins), MAX_BATCH):
        yield vins[at : at + MAX_BATCH]
