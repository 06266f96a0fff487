"""VINs that are being fetched, and the requests that wait for them.

Requests for the same VIN share one fetch. A VIN for which no client waits any more is
unwanted, and vPIC is not asked for it.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Hashable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import NamedTuple

from service.vehicles.errors import LookupAbandoned, VehicleUnavailable
from service.vehicles.model import Entry, Query
from service.vehicles.store import NOT_STORED, StoredEntry
from service.web.lanes import Slot, no_slot


class Outcome(NamedTuple):
    """Outcome of fetching a VIN."""

    entry: Entry | None
    """With an error, the expired entry, if there is one."""
    is_new: bool = False
    """True if vPIC has just decoded the VIN."""
    is_stored: bool = True
    """False if the database did not store the new entry."""
    is_refreshed: bool = False
    """True if the new entry replaces an expired one."""
    error: Exception | None = None


class PendingVin:
    """A VIN that is being fetched, in the name of the client that asked first."""

    def __init__(self, client: Hashable, started: float) -> None:
        self.client = client
        self.started = started
        self.read: asyncio.Future[Entry | None] = asyncio.Future()
        """The expired entry of the database, if any; known long before the outcome."""
        self.finished: asyncio.Future[Outcome] = asyncio.Future()
        self.on_finish: Callable[[], None] = _ignore
        self.on_unwanted: Callable[[], None] = _ignore
        self._waiting = 0

    @property
    def is_wanted(self) -> bool:
        """Return whether a client waits for it, or has got the expired entry."""
        return self._waiting > 0

    def add_request(self) -> None:
        """Count a request that waits for it."""
        self._waiting += 1

    def remove_request(self) -> None:
        """Stop counting a request whose client has left."""
        self._waiting -= 1
        if not self._waiting:
            self.on_unwanted()

    def set_read(self, expired: Entry | None) -> None:
        """Give the expired entry to the requests that wait for it."""
        if not self.read.done():
            self.read.set_result(expired)

    def finish(self, outcome: Outcome) -> None:
        """Give the outcome to the requests that wait for it."""
        self.on_finish()
        self.finished.set_result(outcome)
        self.set_read(None)

    @property
    def outcome(self) -> Outcome:
        """The outcome, or the expired entry if vPIC has not answered yet."""
        if self.finished.done():
            return self.finished.result()
        slow = VehicleUnavailable("vPIC has not answered yet")
        return Outcome(self.read.result(), error=slow)


class Fetch:
    """The VINs that one client fetches together, and what the database has of them."""

    def __init__(
        self,
        vins: Mapping[Query, PendingVin],
        client: Hashable,
        *,
        needs_whole: bool = False,
    ) -> None:
        self.client = client
        self.needs_whole = needs_whole
        self.pending = dict(vins)
        self.is_read = True
        """False if the database could not be read, so that nothing can be stored."""
        self._vins = vins
        self._stored: dict[Query, StoredEntry] = {}
        self._waits: dict[asyncio.Timeout, Sequence[Query]] = {}
        for each in vins.values():
            each.on_unwanted = self._end_unwanted_waits

    def stored(self, vin: Query) -> StoredEntry:
        """Return what the database has of a VIN, as far as it was read."""
        return self._stored.get(vin, NOT_STORED)

    def add_stored(self, stored: Mapping[Query, StoredEntry]) -> None:
        """Add what was read from the database."""
        self._stored |= stored

    def set_read(self) -> None:
        """Give the expired entries to the requests that wait for the pending VINs."""
        for vin, each in self.pending.items():
            each.set_read(self.stored(vin).entry)

    def finish(self, vin: Query, outcome: Outcome) -> None:
        """Finish a VIN, unless its fetch has ended without it."""
        if pending := self.pending.pop(vin, None):
            pending.finish(outcome)

    def fail(self, vins: Collection[Query], error: Exception) -> None:
        """Finish pending VINs with an error, and their expired entries."""
        for vin in vins:
            self.finish(vin, Outcome(self.stored(vin).entry, error=error))

    def pending_of(self, vins: Collection[Query]) -> list[Query]:
        """Return the VINs that are pending, in their order."""
        chosen = set(vins)
        return [vin for vin in self.pending if vin in chosen]

    @asynccontextmanager
    async def while_wanted(self, vins: Sequence[Query]) -> AsyncIterator[None]:
        """Run the body while a VIN is wanted; otherwise raise `LookupAbandoned`."""
        abandoned = LookupAbandoned("no client waits for it any more")
        if not self._are_wanted(vins):
            raise abandoned
        try:
            async with asyncio.timeout(None) as wait:
                self._waits[wait] = vins
                yield
        except TimeoutError:
            if not wait.expired():
                raise
            raise abandoned from None
        finally:
            del self._waits[wait]

    def _end_unwanted_waits(self) -> None:
        now = asyncio.get_running_loop().time()
        for wait, vins in self._waits.items():
            if not self._are_wanted(vins) and not wait.expired():
                wait.reschedule(now)

    def _are_wanted(self, vins: Sequence[Query]) -> bool:
        return any(self._vins[vin].is_wanted for vin in vins)


class LookupClient:
    """The client of one request: who takes turns, and what it waits for.

    The request has a `slot` while the database is read for it.
    """

    def __init__(
        self,
        name: Hashable = None,
        slot: Slot = no_slot,
        *,
        needs_whole: bool = False,
    ) -> None:
        # A program has the turns of many clients: it shares vPIC with nobody.
        self.name = object() if name is None else name
        self.slot = slot
        self.needs_whole = needs_whole
        """True if a row that an older version has stored must be completed."""
        self._joined: list[PendingVin] = []

    def join(self, pending: Collection[PendingVin]) -> None:
        """Wait for VINs, until `stop_waiting`."""
        for each in pending:
            each.add_request()
        self._joined += pending

    def stop_waiting(self) -> None:
        """Stop waiting, without an answer."""
        joined, self._joined = self._joined, []
        for each in joined:
            each.remove_request()


def _ignore() -> None:
    """Do nothing."""
