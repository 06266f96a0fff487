"""Locks for look-ups: of the processes that look up a VIN, one asks vPIC.

The others wait until the lock is released, and read the database. A failure is visible
for a moment in place of the lock. Without Redis, or while it is unavailable, each
process looks up for itself; then two processes may ask for the same VIN.
"""

from collections.abc import Collection
from typing import Final

from service.settings import Settings
from service.storage.redis_lock import RedisLocks
from service.storage.redis_store import RedisStore, RedisUnavailable
from service.vehicles.model import Query, VehicleSource

TTL_SHARE: Final = 0.5
"""Expiry of a lock, as a share of a look-up's deadline, but not less than one try.

If its owner dies, waiting processes have the rest for asking vPIC themselves.
"""


class LookupLocks:
    """The locks of one process on the VINs of one source."""

    def __init__(
        self, store: RedisStore | None, settings: Settings, source: VehicleSource
    ) -> None:
        vehicles = settings.vehicles
        try_s = vehicles.timeout_s + settings.limits.queue_wait_s
        ttl_s = max(vehicles.deadline_s * TTL_SHARE, min(try_s, vehicles.deadline_s))
        self._locks = RedisLocks(store, ttl_s) if store else None
        self._source = source

    @property
    def are_shared(self) -> bool:
        """True if other processes may look up the same VINs."""
        return self._locks is not None

    async def acquire(self, vins: Collection[Query]) -> set[Query]:
        """Lock the VINs that are free, and return them; all of them without Redis."""
        if self._locks is None:
            return set(vins)
        names = self._names(vins)
        try:
            acquired = await self._locks.try_acquire(list(names))
        except RedisUnavailable:
            return set(vins)
        return {names[name] for name in acquired}

    async def release(self, vins: Collection[Query], *, failed: bool = False) -> None:
        """Release the locks of this process; with `failed`, waiting processes fail."""
        if self._locks is not None:
            await self._locks.release(list(self._names(vins)), failed=failed)

    async def wait(self, vins: Collection[Query]) -> set[Query]:
        """Wait until none of the VINs is locked; return those that failed."""
        if self._locks is None:
            return set()
        names = self._names(vins)
        return {names[name] for name in await self._locks.wait(list(names))}

    def _names(self, vins: Collection[Query]) -> dict[str, Query]:
        return {f"vehicle:{self._source}:{vin}": vin for vin in vins}
