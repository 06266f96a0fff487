"""What is kept of vehicles in the database, so that a removal is never undone.

A removed row stays for a while, as a mark with the number of removals. Who looks a VIN
up notes that number first, and what was learnt is kept only where it is still the same:
the database decides, between processes too.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, bindparam, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from service.instants import US_PER_S, now_us
from service.settings import LONGEST_LOOKUP_S
from service.storage.database import Database
from service.vehicles.model import Entry, Source, Vehicle, Vin
from service.vehicles.tables import vehicles

MARK_KEPT_S: Final = 2 * LONGEST_LOOKUP_S
"""How long a removal is remembered: longer than any look-up may take, but no longer
than that, since every VIN that there could be can be removed."""

FORGOTTEN_AT_ONCE: Final = 1_000
"""Marks that one removal clears away, so that none takes long."""

_SOURCE: Final = vehicles.c.source == bindparam("of")
_VINS: Final = vehicles.c.vin.in_(bindparam("vins", expanding=True))
_VIN: Final = vehicles.c.vin == bindparam("one")
_LEARNT: Final = (
    *("is_decoded", "make", "model", "model_year", "body_class"),
    *("fetched_at", "removed_at"),
)
_INSERTS: Final[dict[str, Any]] = {
    "sqlite": sqlite.insert(vehicles),
    "postgresql": postgresql.insert(vehicles),
}

_FIND: Final = select(vehicles).where(_SOURCE, _VINS)
_EMPTY: Final[dict[str, Any]] = {
    "is_decoded": False,
    **dict.fromkeys(("make", "model", "model_year", "body_class"), ""),
}
_REMOVE: Final = (
    update(vehicles)
    .where(_SOURCE, _VIN, vehicles.c.removed_at.is_(None))
    .values(removed_at=bindparam("now"), removals=vehicles.c.removals + 1, **_EMPTY)
)
_KEY: Final = tuple_(vehicles.c.source, vehicles.c.vin)
_OLD_MARKS: Final = (
    select(vehicles.c.source, vehicles.c.vin)
    .where(vehicles.c.removed_at < bindparam("before"))
    .limit(FORGOTTEN_AT_ONCE)
    # Where another writer has some of them, they are for the next removal.
    .with_for_update(skip_locked=True)
)
_FORGET_MARKS: Final = delete(vehicles).where(_KEY.in_(_OLD_MARKS))


def _keep(dialect: str) -> Any:
    """Insert or update, where no removal has come between."""
    insert = _INSERTS[dialect]
    return insert.on_conflict_do_update(
        index_elements=[vehicles.c.source, vehicles.c.vin],
        set_={name: insert.excluded[name] for name in _LEARNT},
        where=vehicles.c.removals == insert.excluded.removals,
    ).returning(vehicles.c.vin)


def _mark(dialect: str) -> Any:
    """Note the removal of a VIN that is not kept, or was removed before.

    One that another process has kept since it was looked for is removed with it.
    """
    insert = _INSERTS[dialect]
    return insert.on_conflict_do_update(
        index_elements=[vehicles.c.source, vehicles.c.vin],
        set_={
            "removed_at": insert.excluded.removed_at,
            "removals": vehicles.c.removals + 1,
            **_EMPTY,
        },
    )


_KEEP: Final = {dialect: _keep(dialect) for dialect in _INSERTS}
_MARK: Final = {dialect: _mark(dialect) for dialect in _INSERTS}


class Kept(NamedTuple):
    """What the database says of a VIN."""

    entry: Entry | None
    """What was learnt, if it is not removed."""
    removals: int


NOTHING: Final = Kept(None, 0)


class VehicleStore:
    """The vehicles that one source has told."""

    def __init__(self, database: Database, source: Source) -> None:
        self._database = database
        self._source = source

    async def find(self, vins: Collection[Vin]) -> dict[Vin, Kept]:
        """What is kept of these; `NOTHING` for the others. Raises `StorageError`."""
        asked = {"of": self._source, "vins": list(vins)}
        async with self._database.reading() as connection:
            rows = (await connection.execute(_FIND, asked)).all()
        found = {Vin(row.vin): _kept(row) for row in rows}
        return {vin: found.get(vin, NOTHING) for vin in vins}

    async def keep(
        self, entries: Mapping[Vin, Entry], removals: Mapping[Vin, int]
    ) -> set[Vin]:
        """Keep what was learnt, unless it was removed since the removals were counted.

        Gives those that were kept. Raises `StorageError`.
        """
        if not entries:
            return set()
        # In one order everywhere: two writers of the same rows never lock crosswise.
        rows = [
            self._row(vin, entries[vin], removals.get(vin, 0))
            for vin in sorted(entries)
        ]
        async with self._database.writing() as connection:
            statement = _KEEP[connection.dialect.name]
            kept = await connection.execute(statement, rows)
            return {Vin(vin) for (vin,) in kept}

    async def remove(self, vin: Vin) -> bool:
        """Remove a VIN; whether it was kept. Raises `StorageError`.

        One that is not is marked too: some process may be looking it up.
        """
        now = now_us()
        one = {"of": self._source, "one": vin, "now": now}
        async with self._database.writing() as connection:
            before = {"before": now - MARK_KEPT_S * US_PER_S}
            await connection.execute(_FORGET_MARKS, before)
            was_kept = bool((await connection.execute(_REMOVE, one)).rowcount)
            if not was_kept:
                mark = self._row(vin, Entry(None, now), 1) | {"removed_at": now}
                await connection.execute(_MARK[connection.dialect.name], mark)
        return was_kept

    def _row(self, vin: Vin, entry: Entry, removals: int) -> dict[str, Any]:
        vehicle = entry.vehicle
        return {
            "source": self._source,
            "vin": vin,
            "is_decoded": vehicle is not None,
            "make": vehicle.make if vehicle else "",
            "model": vehicle.model if vehicle else "",
            "model_year": vehicle.model_year if vehicle else "",
            "body_class": vehicle.body_class if vehicle else "",
            "fetched_at": entry.fetched_at,
            "removed_at": None,
            "removals": removals,
        }


def _kept(row: Row[Any]) -> Kept:
    if row.removed_at is not None:
        return Kept(None, row.removals)
    vehicle = Vehicle(row.make, row.model, row.model_year, row.body_class)
    return Kept(
        Entry(vehicle if row.is_decoded else None, row.fetched_at), row.removals
    )
