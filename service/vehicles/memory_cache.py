"""Cache of database entries in this process.

An entry is served for `held_s` at most, which bounds how long a removal in another
process goes unseen. A removal in this process takes effect at once.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from service.settings import VehiclesSettings
from service.storage.lru_cache import LruCache
from service.vehicles.model import Entry, Vin


class _TimedEntry(NamedTuple):
    entry: Entry
    expires_at: float
    """On the clock of the cache, in seconds."""


class MemoryCache:
    """LRU cache of at most `max_held` entries, each for `held_s`."""

    def __init__(
        self, settings: VehiclesSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s = settings.held_s
        self._clock = clock
        self._entries = LruCache[Vin, _TimedEntry](settings.max_held)
        self.removals = 0
        """Number of removals so far: an entry read before one may be outdated."""

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, vin: Vin) -> Entry | None:
        """Return the cached entry of a VIN, unless it has expired."""
        cached = self._entries.get(vin)
        if cached is None or self._clock() >= cached.expires_at:
            return None
        return cached.entry

    def find_outdated(self, vin: Vin) -> Entry | None:
        """Return the cached entry of a VIN, also after it has expired."""
        cached = self._entries.get(vin)
        return cached.entry if cached else None

    def put(self, vin: Vin, entry: Entry, removals: int) -> None:
        """Cache an entry, unless a VIN was removed since `removals` was read."""
        # One count for all VINs is enough: an entry that is not cached costs one query.
        if removals == self.removals and self._ttl_s:
            self._entries.put(vin, _TimedEntry(entry, self._clock() + self._ttl_s))

    def remove(self, vin: Vin) -> None:
        """Drop the entry of a VIN, and prevent reads under way from caching it."""
        self._entries.remove(vin)
        self.removals += 1
