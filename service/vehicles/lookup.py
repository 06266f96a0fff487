"""Looking VINs up: what each caller is told, and one flight for all who ask alike."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import structlog
from msgspec.structs import replace
from yarl import URL

from service import metrics
from service.instants import US_PER_S, now_us
from service.settings import Settings
from service.storage.database import Database
from service.storage.shared_store import SharedStore
from service.upstream.client import open_client
from service.vehicles.errors import VehicleUnavailable, VinNotDecoded
from service.vehicles.fetching import Fetcher, Outcome
from service.vehicles.model import Entry, Found, Source, Vin
from service.vehicles.offline import OfflineDecoder, load_decoder
from service.vehicles.store import VehicleStore
from service.vehicles.turns import share_turns
from service.vehicles.vpic import Vpic, vpic_peer


class Flight:
    """A VIN on its way."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.landing: asyncio.Future[Outcome] = asyncio.Future()
        self.stale: asyncio.Future[Entry | None] = asyncio.Future()
        """What is kept of it, but too old: known long before it lands."""

    def land(self, outcome: Outcome) -> None:
        """Let those who wait have it."""
        self.landing.set_result(outcome)
        if not self.stale.done():
            self.stale.set_result(None)

    @property
    def outcome(self) -> Outcome:
        """How it has landed, or is seen while it has not."""
        if self.landing.done():
            return self.landing.result()
        slow = VehicleUnavailable("vPIC has not answered yet")
        return Outcome(self.stale.result(), error=slow)


Refused = VinNotDecoded | VehicleUnavailable

log = structlog.get_logger()


def source_of(settings: Settings) -> Source:
    """Who tells of vehicles under these settings."""
    if settings.sandbox.enabled:
        return Source("sandbox")
    # Who we are to them is no part of who they are, and is not for the database.
    return Source(str(URL(settings.vehicles.base_url).with_user(None)).rstrip("/"))


def age_s(entry: Entry) -> float:
    """How long ago an entry was told."""
    return max(0.0, (now_us() - entry.fetched_at) / US_PER_S)


class Lookups:
    """Looks VINs up and removes them; one for each process."""

    def __init__(
        self,
        fetcher: Fetcher,
        stale_wait_s: float,
        offline: OfflineDecoder | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._stale_wait_s = stale_wait_s
        self._offline = offline
        self._flights: dict[Vin, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def recall(self, vin: Vin) -> Entry | None:
        """What is in memory of a VIN, fresh and decoded; never waits."""
        entry = self._fetcher.recall(vin)
        return entry if entry and entry.vehicle else None

    async def look_up(self, vin: Vin) -> Found:
        """The vehicle of a VIN.

        Raises `VinNotDecoded`, `VehicleUnavailable` and `StorageError`.
        """
        entry = self._fetcher.recall(vin)
        if entry is not None:
            return self._judge(vin, Outcome(entry))
        (outcome,) = await self._fetch([vin])
        return self._judge(vin, outcome)

    async def look_up_all(self, vins: Collection[Vin]) -> dict[Vin, Found | Refused]:
        """The vehicle of each VIN, or why there is none. Raises `StorageError`."""
        recalled = {vin: self._fetcher.recall(vin) for vin in vins}
        missing = [vin for vin, entry in recalled.items() if entry is None]
        fetched = dict(zip(missing, await self._fetch(missing), strict=True))
        told: dict[Vin, Found | Refused] = {}
        for vin, entry in recalled.items():
            outcome = Outcome(entry) if entry else fetched[vin]
            try:
                told[vin] = self._judge(vin, outcome)
            except (VinNotDecoded, VehicleUnavailable) as error:
                told[vin] = error
        return told

    async def remove(self, vin: Vin) -> bool:
        """Forget a VIN; whether it was kept. Raises `StorageError`.

        A look-up that is under way still answers those who wait for it, but what it
        learns is not kept.
        """
        self._flights.pop(vin, None)
        was_kept = await self._fetcher.remove(vin)
        # Once more: it may have begun with what was kept until now.
        self._flights.pop(vin, None)
        metrics.vehicle_removed(was_kept=was_kept)
        log.info("vehicle.removed", vin=vin, was_kept=was_kept)
        return was_kept

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fetch(self, vins: Sequence[Vin]) -> list[Outcome]:
        """The outcomes of flights, begun or joined, in the order of the VINs."""
        if not vins:
            return []
        self._begin([vin for vin in vins if vin not in self._flights])
        flights = [self._flights[vin] for vin in vins]
        # Who leaves while waiting does not end what others wait for.
        landings = [flight.landing for flight in flights]
        last = max(flight.began for flight in flights)
        left_s = last + self._stale_wait_s - time.monotonic()
        await asyncio.wait(landings, timeout=max(0.0, left_s))
        # Nobody waits longer for what is kept: its flight may have begun long ago.
        await asyncio.wait([flight.stale for flight in flights])
        return [flight.outcome for flight in flights]

    def _begin(self, vins: Sequence[Vin]) -> None:
        if not vins:
            return
        begun = {vin: Flight() for vin in vins}
        self._flights |= begun

        def land(vin: Vin, outcome: Outcome) -> None:
            begun[vin].land(outcome)
            if self._flights.get(vin) is begun[vin]:
                del self._flights[vin]

        def recognise(vin: Vin, entry: Entry) -> None:
            begun[vin].stale.set_result(entry)

        fetching = self._fetcher.fetch(vins, land, recognise)
        task = asyncio.get_running_loop().create_task(fetching)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _judge(self, vin: Vin, outcome: Outcome) -> Found:
        """What an outcome means to who asked; raises what it does not give."""
        entry, is_told, is_kept, is_renewed, error = outcome
        if error is not None and not isinstance(error, VehicleUnavailable):
            metrics.vehicle_looked_up("failed")
            raise error
        if entry is None:
            return self._decode_offline(vin, error)
        result: Literal["hit", "stale", "miss"]
        result = "stale" if error else "miss" if is_told else "hit"
        metrics.vehicle_looked_up(result)
        if entry.vehicle is None:
            raise VinNotDecoded("vPIC knows no vehicle of this VIN")
        return Found(entry.vehicle, result, age_s(entry), is_kept, is_renewed)

    def _decode_offline(self, vin: Vin, error: Exception | None) -> Found:
        vehicle = self._offline(vin) if self._offline else None
        metrics.vehicle_looked_up("offline" if vehicle else "failed")
        if vehicle is not None:
            return Found(vehicle, "offline", 0.0, is_kept=False)
        raise error or VehicleUnavailable("nothing is known of this VIN")


@asynccontextmanager
async def open_lookups(
    settings: Settings, database: Database, shared: SharedStore | None
) -> AsyncIterator[Lookups]:
    """Look vehicles up as long as this lasts, with connections of its own."""
    vehicles, source = settings.vehicles, source_of(settings)
    calls = replace(
        settings.upstream,
        base_url=vehicles.base_url,
        concurrency=vehicles.concurrency,
        attempts=vehicles.attempts,
        timeout_s=vehicles.timeout_s,
        max_body_bytes=vehicles.max_body_bytes,
    )
    # A batch takes vPIC seconds when it is well: slow is what it is given up for.
    breaker = replace(settings.breaker, slow_call_s=vehicles.timeout_s)
    async with open_client(calls, breaker, peer=vpic_peer(settings)) as client:
        fetcher = Fetcher(
            vehicles,
            VehicleStore(database, source),
            Vpic(client),
            share_turns(shared, settings, source),
        )
        offline = load_decoder() if vehicles.offline else None
        lookups = Lookups(fetcher, vehicles.stale_wait_s, offline)
        try:
            yield lookups
        finally:
            await lookups.close()
