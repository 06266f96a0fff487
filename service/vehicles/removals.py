"""Removals of VINs, many in one transaction.

Concurrent removals wait for the next group, in which clients take turns. Groups are
paced, so that removals leave the database and the event loop to other requests.
"""

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from contextvars import Context
from typing import Final, NamedTuple

import structlog

from service.storage.errors import CircuitOpen, StorageError, StorageUnavailable
from service.vehicles.model import Vin
from service.vehicles.store import VehicleStore

MAX_GROUP: Final = 50
"""Removals in one transaction; the bound limits its duration."""
MAX_PER_S: Final = 250
"""Removals per second; each takes the event loop about half a millisecond."""
PAUSE_FACTOR: Final = 4
"""Pause after a transaction, in durations of it: removals use a fifth of the time."""
MAX_PAUSE_S: Final = 1.0
"""Maximum pause, after a transaction that was slow for other reasons."""
TIME_LIMIT_S: Final = 10.0
"""Time limit of a transaction, and of a request, without its wait for the lane."""

log = structlog.get_logger()


class Removal(NamedTuple):
    """A VIN to remove, and the future of whether it was stored."""

    vin: Vin
    was_stored: asyncio.Future[bool]


class Removals:
    """Removes VINs in groups; there is one in each process."""

    def __init__(self, store: VehicleStore) -> None:
        self._store = store
        # In the order of turns; a client is removed with its last waiting removal.
        self._waiting: dict[Hashable, deque[Removal]] = {}
        self._task: asyncio.Task[None] | None = None

    async def remove(self, vin: Vin, client: Hashable) -> bool:
        """Remove a VIN; return False if it was not stored. Raises `StorageError`.

        A removal that is cancelled before its transaction begins has no effect.
        """
        removal = Removal(vin, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(client, deque()).append(removal)
        if self._task is None:
            # Without the context of this request, which is not that of the others.
            self._task = asyncio.create_task(self._run(), context=Context())
        return await removal.was_stored

    async def close(self) -> None:
        """Cancel the removals in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Remove group after group, until no removal waits."""
        try:
            while group := self._next_group():
                started = time.monotonic()
                await self._remove(group)
                duration_s = time.monotonic() - started
                pause_s = max(len(group) / MAX_PER_S, PAUSE_FACTOR * duration_s)
                await asyncio.sleep(min(pause_s, MAX_PAUSE_S))
        finally:
            self._task = None
            stopping = StorageUnavailable("the service stops")
            for removals in self._waiting.values():
                _fail(removals, stopping)

    def _next_group(self) -> list[Removal]:
        """Take up to `MAX_GROUP` removals, one of each client in turn."""
        group: list[Removal] = []
        while self._waiting and len(group) < MAX_GROUP:
            client = next(iter(self._waiting))
            removals = self._waiting.pop(client)
            removal = removals.popleft()
            if removals:
                self._waiting[client] = removals  # behind the other clients
            # The future of a removal whose client has left is cancelled.
            if not removal.was_stored.done():
                group.append(removal)
        return group

    async def _remove(self, group: Sequence[Removal]) -> None:
        vins = {each.vin for each in group}
        try:
            removed = self._store.remove(vins)
            stored = await self._store.within(TIME_LIMIT_S, removed)
        except StorageError as error:
            # The open circuit was logged when it opened.
            if not isinstance(error, CircuitOpen):
                log.warning("vehicle.not_removed", vins=len(vins), reason=str(error))
            _fail(group, error)
            return
        except asyncio.CancelledError:
            _fail(group, StorageUnavailable("the service stops"))
            raise
        except Exception as error:  # noqa: BLE001 - the requests raise it
            _fail(group, error)
            return
        for each in group:
            if not each.was_stored.done():
                each.was_stored.set_result(each.vin in stored)
            # A second removal of the same VIN has found nothing.
            stored.discard(each.vin)


def _fail(removals: Iterable[Removal], error: Exception) -> None:
    for each in removals:
        if not each.was_stored.done():
            each.was_stored.set_exception(error)
