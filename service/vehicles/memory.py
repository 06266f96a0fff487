"""What this process has just seen in the database: answered again without asking it.

An entry is believed for `held_s` only, so that others' removals and news show after
that. What is removed here is gone at once.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from service.settings import Vehicles
from service.vehicles.model import Entry, Vin

Clock = Callable[[], float]


class Held(NamedTuple):
    """An entry, and until when it is answered from here."""

    entry: Entry
    until: float


class Memory:
    """At most `max_held` entries, the longest unused given up first."""

    def __init__(self, settings: Vehicles, clock: Clock = time.monotonic) -> None:
        self._held_s = settings.held_s
        self._max = settings.max_held
        self._clock = clock
        self._entries: OrderedDict[Vin, Held] = OrderedDict()
        self.removals = 0
        """Removals so far: what was read before one may be older than it."""

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, vin: Vin) -> Entry | None:
        """What is held of a VIN, if it still may be answered from here."""
        held = self._entries.get(vin)
        if held is None or self._clock() >= held.until:
            return None
        self._entries.move_to_end(vin)
        return held.entry

    def put(self, vin: Vin, entry: Entry, removals: int) -> None:
        """Hold an entry that was read when there had been so many removals."""
        if removals != self.removals or not self._held_s:
            return
        self._entries[vin] = Held(entry, self._clock() + self._held_s)
        self._entries.move_to_end(vin)
        if len(self._entries) > self._max:
            self._entries.popitem(last=False)

    def remove(self, vin: Vin) -> None:
        """Hold this VIN no more, nor what is being read of it."""
        self._entries.pop(vin, None)
        self.removals += 1
