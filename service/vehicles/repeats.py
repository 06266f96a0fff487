"""The answers to look-ups that connections may repeat while a VIN is in memory."""

import time
from collections.abc import Callable

from service.observability.http_metrics import tally_of
from service.settings import Scope
from service.vehicles.lookup import Lookups, age_s
from service.vehicles.metrics import vehicles_found
from service.vehicles.model import Entry, Vin
from service.web.http_cache.encodings import BodyBytes
from service.web.repeats import PreparedAnswer

Block = tuple[int, bytes, BodyBytes]
"""Status, head and body of an answer."""


class RepeatedLookup:
    """The answer to look-ups of a VIN, which is prepared once a second."""

    scope: Scope = "vehicles:read"

    def __init__(
        self,
        lookups: Lookups,
        route: str,
        vin: Vin,
        make: Callable[[Vin, Entry], Block],
        *,
        needs_whole: bool = False,
    ) -> None:
        self._lookups = lookups
        self._route = route
        self._vin = vin
        self._make = make
        self._needs_whole = needs_whole
        self._entry: Entry | None = None
        self._prepared: PreparedAnswer | None = None
        self._prepared_until = 0.0

    def prepare(self) -> PreparedAnswer | None:
        """Return the present answer; None unless the VIN is in memory, and fresh."""
        entry = self._lookups.find_cached(self._vin)
        if entry is None or (self._needs_whole and not entry.packed):
            self._entry = self._prepared = None
        elif entry is not self._entry or time.monotonic() >= self._prepared_until:
            self._prepare_again(entry)
        return self._prepared

    def _prepare_again(self, entry: Entry) -> None:
        # `Date` and `Age` have whole seconds of the wall clock. That may be set back,
        # so the end of the second is a time of the monotonic clock.
        left_s = 1 - max(time.time() % 1, age_s(entry) % 1)
        self._prepared_until = time.monotonic() + left_s
        # Not before: what is prepared late prolongs no second.
        status, head, body = self._make(self._vin, entry)
        tally = tally_of(self._route, status, also=vehicles_found)
        self._prepared = PreparedAnswer(head, bytes(body), tally)
        self._entry = entry
