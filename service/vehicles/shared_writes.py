"""Writes of look-ups, those of several calls to vPIC in one transaction of SQLite.

Calls that begin together also end together, and would wait for the one writer one after
the other. PostgreSQL has several connections, so there each call has a transaction.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextvars import Context
from typing import Any, Final, Generic, NamedTuple, TypeVar

from service.storage.errors import StorageTimeout, StorageUnavailable, ValueRefused
from service.vehicles.model import Entry, Vin
from service.vehicles.store import VehicleStore

MAX_GROUP: Final = 8
"""Calls in one transaction, each of up to 50 VINs; the bound limits its duration."""

A = TypeVar("A")
R = TypeVar("R")


class Results(NamedTuple):
    """Entries to store, and the number of removals that each VIN must still have."""

    entries: Mapping[Vin, Entry]
    removals: Mapping[Vin, int]


class SharedWrites:
    """Writes of one process; each takes `limit_s`, or raises `StorageError`."""

    def __init__(self, store: VehicleStore, limit_s: float) -> None:
        self._store, self._limit_s = store, limit_s
        self._announcements = Groups(self._announce_all)
        self._results = Groups(self._save_all)

    async def announce(self, vins: Collection[Vin]) -> Mapping[Vin, int]:
        """Return the number of removals of each VIN, and maybe of others."""
        if not vins:
            return {}
        return await self._within_limit(self._announcements, vins)

    async def save(
        self, entries: Mapping[Vin, Entry], removals: Mapping[Vin, int]
    ) -> Collection[Vin]:
        """Store entries, and return the VINs that are stored."""
        stored = await self._within_limit(self._results, Results(entries, removals))
        return {vin for vin in entries if stored.get(vin) == removals.get(vin, 0)}

    async def close(self) -> None:
        """Cancel the transactions in progress."""
        await self._announcements.close()
        await self._results.close()

    async def _within_limit(self, groups: "Groups[A, R]", argument: A) -> R:
        if not self._store.has_one_writer:
            return await groups.run([argument])
        try:
            async with asyncio.timeout(self._limit_s):
                return await groups.call(argument)
        except TimeoutError as error:
            raise StorageTimeout("the database did not answer in time") from error

    async def _announce_all(
        self, calls: Sequence[Collection[Vin]]
    ) -> Mapping[Vin, int]:
        announced = self._store.announce({vin for vins in calls for vin in vins})
        return await self._store.within(self._limit_s, announced)

    async def _save_all(self, calls: Sequence[Results]) -> Mapping[Vin, int]:
        """Return the number of removals with which each stored VIN was stored."""
        entries: dict[Vin, Entry] = {}
        removals: dict[Vin, int] = {}
        for each in calls:
            for vin, entry in each.entries.items():
                number = each.removals.get(vin, 0)
                # After a removal, a VIN is looked up again although a call has it.
                if number >= removals.get(vin, 0):
                    entries[vin], removals[vin] = entry, number
        saved = self._store.save(entries, removals)
        stored = await self._store.within(self._limit_s, saved)
        return {vin: removals[vin] for vin in stored}


class _Call(NamedTuple, Generic[A, R]):
    argument: A
    result: asyncio.Future[R]


class Groups(Generic[A, R]):
    """Runs a function for all calls that wait, one group after the other."""

    def __init__(self, run: Callable[[Sequence[A]], Coroutine[Any, Any, R]]) -> None:
        self.run = run
        self._waiting: list[_Call[A, R]] = []
        self._task: asyncio.Task[None] | None = None

    async def call(self, argument: A) -> R:
        """Return the result of the group that has this argument; raises its error.

        A call that is cancelled before its group begins is left out.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(argument, future))
        if self._task is None:
            # Without the context of this request, which is not that of the others.
            self._task = asyncio.create_task(self._run_all(), context=Context())
        return await future

    async def close(self) -> None:
        """Cancel the group that runs, and fail those that wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run_all(self) -> None:
        group: Sequence[_Call[A, R]] = ()
        try:
            while self._waiting:
                group, self._waiting = (
                    self._waiting[:MAX_GROUP],
                    self._waiting[MAX_GROUP:],
                )
                await self._run([each for each in group if not each.result.done()])
        finally:
            self._task = None
            _fail([*group, *self._waiting], StorageUnavailable("the service stops"))

    async def _run(self, group: Sequence[_Call[A, R]]) -> None:
        try:
            result = await self.run([each.argument for each in group])
        except ValueRefused as error:
            # One call has the value, and the others must not fail with it.
            for each in group if len(group) > 1 else ():
                await self._run([each])
            _fail(group, error)
        except Exception as error:  # noqa: BLE001 - the calls raise it
            _fail(group, error)
        else:
            for each in group:
                if not each.result.done():
                    each.result.set_result(result)


def _fail(calls: Iterable[_Call[A, R]], error: Exception) -> None:
    for each in calls:
        if not each.result.done():
            each.result.set_exception(error)
