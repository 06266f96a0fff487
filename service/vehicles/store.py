"""Vehicles in the database, stored so that a look-up never undoes a removal.

A row has a number of removals. A look-up for which there is no row announces itself by
an empty one before it asks vPIC. A removal increments the number in the row that it
finds. It writes nothing without a row, since no look-up is asking vPIC then. A result
is stored only if the number is the same as before. So the database decides, between
processes too.
"""

import sqlite3
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    BindParameter,
    Compiled,
    Insert,
    Row,
    and_,
    bindparam,
    delete,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from service.instants import US_PER_S, now_us
from service.settings.vehicles import MAX_LOOKUP_S
from service.storage.bulk_inserts import insert_by, upsert_into_sqlite
from service.storage.database import Database
from service.storage.uses import Use
from service.vehicles.model import NO_CODES, Entry, Vehicle, VehicleSource, Vin
from service.vehicles.tables import vehicles
from service.vehicles.vin import hint_of, number_of, parse_year

# Longer than any look-up may take. Not much longer, since many look-ups may fail.
MARKER_S: Final = 2 * MAX_LOOKUP_S
"""Time for which the row of an announcement or of a removal stays."""

MAX_MARKERS_DELETED: Final = 1_000
"""Expired rows that one announcement deletes; the bound limits its duration."""

NO_LOOKUP: Final = 0
"""`fetched_at` of a removed row whose VIN no look-up has announced since."""

T = TypeVar("T")

_SOURCE: Final = vehicles.c.source == bindparam("of_source")
_EXPANDED: Final[BindParameter[Any]] = bindparam("vins", expanding=True)
_VINS: Final = vehicles.c.vin.in_(_EXPANDED)
_RESULT_COLUMNS: Final = (
    *("is_decoded", "make", "model", "model_year", "body_class"),
    *("codes", "details", "details_at", "fetched_at", "removed_at"),
)

_COLUMNS: Final = vehicles.columns.keys()
_WRITTEN: Final = (vehicles.c.vin, vehicles.c.removals, vehicles.c.removed_at)
_FIND_WRITTEN: Final = (
    "SELECT json_group_array(json_array(vin, removals, removed_at)) FROM vehicles "
    "WHERE source = ? AND vin IN (SELECT value FROM json_each(?))"
)
"""All rows as one value, in SQLite."""

_FIND: Final = select(vehicles).where(_SOURCE, _VINS)
_EMPTY: Final[dict[str, Any]] = {
    "is_decoded": False,
    **dict.fromkeys(("make", "model", "model_year", "body_class"), ""),
    **dict.fromkeys(("codes", "details", "details_at")),
}
_SEEN_BY_LOOKUPS: Final = or_(
    vehicles.c.removed_at.is_(None), vehicles.c.fetched_at != NO_LOOKUP
)
_KEYED: Final = vehicles.alias("keyed")
_OF_SOURCE: Final = _KEYED.c.source == bindparam("of_source")
_KEYS_WITH_HINTS: Final = union_all(
    select(_KEYED.c.vin).where(_OF_SOURCE, _KEYED.c.vin.in_(_EXPANDED)),
    select(_KEYED.c.vin).where(_OF_SOURCE, _KEYED.c.vin_of_hint.in_(_EXPANDED)),
)
"""Keys of VINs, with and without hints. SQLite uses no index for such an `OR`."""
REMOVABLE: Final = (
    select(vehicles.c.vin, vehicles.c.vin_of_hint, vehicles.c.removed_at)
    .where(_SOURCE, vehicles.c.vin.in_(_KEYS_WITH_HINTS), _SEEN_BY_LOOKUPS)
    .order_by(vehicles.c.vin)
)
_PAGE: Final = (
    select(
        vehicles.c.vin,
        and_(
            vehicles.c.details.is_not(None),
            vehicles.c.details_at == vehicles.c.fetched_at,
        ),
    )
    .where(
        _SOURCE,
        vehicles.c.vin > bindparam("after"),
        vehicles.c.removed_at.is_(None),
        vehicles.c.is_decoded,
    )
    .order_by(vehicles.c.vin)
    .limit(bindparam("limit"))
)
# Rows are locked in the order in which `save` writes them, so no deadlock is possible.
_LOCK_REMOVABLE: Final = REMOVABLE.with_for_update()
_REMOVE: Final = (
    update(vehicles)
    .where(_SOURCE, _VINS)
    .values(
        removed_at=bindparam("now"),
        fetched_at=NO_LOOKUP,
        removals=vehicles.c.removals + 1,
        **_EMPTY,
    )
)
KEY: Final = tuple_(vehicles.c.source, vehicles.c.vin)
_EXPIRED_MARKERS: Final = (
    select(vehicles.c.source, vehicles.c.vin)
    .where(vehicles.c.removed_at < bindparam("before"))
    .limit(bindparam("limit"))
    # Rows that another transaction has locked are left for the next announcement.
    .with_for_update(skip_locked=True)
)
DELETE_MARKERS: Final = delete(vehicles).where(KEY.in_(_EXPIRED_MARKERS))
"""Deletes up to `limit` announced or removed rows that are older than `before`."""


@cache
def _upsert(dialect: str) -> Any:
    """Insert or update, unless the number of removals has changed."""
    insert = insert_by(dialect, vehicles)
    return insert.on_conflict_do_update(
        index_elements=[vehicles.c.source, vehicles.c.vin],
        set_={name: insert.excluded[name] for name in _RESULT_COLUMNS},
        where=vehicles.c.removals == insert.excluded.removals,
    )


@cache
def _announce(dialect: str) -> Any:
    """Insert an empty row, or renew one; a row with an entry is not changed."""
    insert = insert_by(dialect, vehicles)
    return insert.on_conflict_do_update(
        index_elements=[vehicles.c.source, vehicles.c.vin],
        set_={name: insert.excluded[name] for name in ("fetched_at", "removed_at")},
        where=vehicles.c.removed_at.is_not(None),
    )


class StoredEntry(NamedTuple):
    """Row of a VIN; `entry` is None if it was removed, or is only announced."""

    entry: Entry | None
    removals: int


class PageRow(NamedTuple):
    """A row of a decoded VIN; it lacks values if an older version has stored it."""

    vin: Vin
    is_whole: bool


class WrittenRow(NamedTuple):
    """A row after an insert or an update."""

    vin: Vin
    removals: int
    removed_at: int | None


_decode_written: Final = msgspec.json.Decoder(list[WrittenRow]).decode

NOT_STORED: Final = StoredEntry(None, 0)


class VehicleStore:
    """Stored vehicles of one source."""

    def __init__(self, database: Database, source: VehicleSource) -> None:
        self._database = database
        self._source = source

    @property
    def has_one_writer(self) -> bool:
        """True if writes wait for each other, as in SQLite."""
        return self._database.is_sqlite

    async def within(self, limit_s: float, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a method of this store; raise `StorageTimeout`.

        It is cancelled after `limit_s`, but not waited for.
        """
        return await self._database.within(Use.VEHICLES, limit_s, work)

    async def find(self, vins: Collection[Vin]) -> dict[Vin, StoredEntry]:
        """Return the entry of each VIN, or `NOT_STORED`. Raises `StorageError`."""
        if not vins:
            return {}
        async with self._database.reading(Use.VEHICLES) as connection:
            rows = (await connection.execute(_FIND, self._of(vins))).all()
        found = {Vin(row.vin): _stored_entry(row) for row in rows}
        return {vin: found.get(vin, NOT_STORED) for vin in vins}

    async def page(self, after: Vin, limit: int) -> list[PageRow]:
        """Return the next rows of decoded VINs, in their order. Raises `StorageError`.

        The last of fewer rows than the limit is the last of all.
        """
        bound = {"of_source": self._source, "after": after, "limit": limit}
        async with self._database.reading(Use.RETENTION) as connection:
            rows = (await connection.execute(_PAGE, bound)).all()
        return [PageRow(Vin(vin), bool(is_whole)) for vin, is_whole in rows]

    async def announce(self, vins: Collection[Vin]) -> dict[Vin, int]:
        """Announce look-ups of VINs before vPIC is asked.

        Returns the number of removals of each VIN that has no entry. Raises
        `StorageError`.
        """
        if not vins:
            return {}
        now = now_us()
        # Sorted, so that two transactions with the same rows cannot deadlock.
        rows = [
            self._row(vin, Entry(None, now), 0) | {"removed_at": now}
            for vin in sorted(vins)
        ]
        before = now - MARKER_S * US_PER_S
        expired = {"before": before, "limit": MAX_MARKERS_DELETED}
        written = await self._write(_announce, rows, expired)
        return {
            each.vin: each.removals for each in written if each.removed_at is not None
        }

    async def save(
        self, entries: Mapping[Vin, Entry], removals: Mapping[Vin, int]
    ) -> set[Vin]:
        """Store entries of VINs whose number of removals is still as in `removals`.

        Returns the stored VINs. Raises `StorageError`.
        """
        if not entries:
            return set()
        rows = [
            self._row(vin, entries[vin], removals.get(vin, 0))
            for vin in sorted(entries)
        ]
        written = await self._write(_upsert, rows)
        return {
            each.vin for each in written if each.removals == removals.get(each.vin, 0)
        }

    async def remove(self, vins: Collection[Vin]) -> set[Vin]:
        """Remove VINs with all their hints; return those that were stored.

        This is one transaction. Nothing is written for VINs that are neither stored nor
        announced. Raises `StorageError`.
        """
        # Read first: a removal with nothing to remove must not wait for other writers.
        async with self._database.reading(Use.VEHICLES) as connection:
            rows = (await connection.execute(REMOVABLE, self._of(vins))).all()
        if not rows:
            return set()
        found = {Vin(row.vin_of_hint or row.vin) for row in rows}
        async with self._database.writing(Use.VEHICLES) as connection:
            locked = await connection.execute(_LOCK_REMOVABLE, self._of(found))
            rows = locked.all()
            if rows:
                removed = self._of([Vin(row.vin) for row in rows])
                await connection.execute(_REMOVE, removed | {"now": now_us()})
        return {
            Vin(row.vin_of_hint or row.vin) for row in rows if row.removed_at is None
        }

    async def _write(
        self,
        statement_of: Callable[[str], Any],
        rows: Sequence[Mapping[str, Any]],
        expired: Mapping[str, Any] | None = None,
    ) -> list[WrittenRow]:
        """Insert or update rows, and return what is stored.

        Rows that the statement has left as they were may be missing. With `expired`,
        old markers are deleted before.
        """
        statement = statement_of(self._database.dialect)
        if self._database.is_sqlite:
            work = partial(_write_in_thread, statement, rows, expired)
            return await self._database.write_in_thread(Use.VEHICLES, work)
        async with self._database.writing(Use.VEHICLES) as connection:
            if expired:
                await connection.execute(DELETE_MARKERS, expired)
            written = await connection.execute(statement.returning(*_WRITTEN), rows)
            return [WrittenRow(*each) for each in written]

    def _of(self, vins: Collection[Vin]) -> dict[str, Any]:
        return {"of_source": self._source, "vins": list(vins)}

    def _row(self, vin: Vin, entry: Entry, removals: int) -> dict[str, Any]:
        vehicle = entry.vehicle
        return {
            "source": self._source,
            "vin": vin,
            "vin_of_hint": number_of(vin) if hint_of(vin) else None,
            "is_decoded": vehicle is not None,
            "make": vehicle.make if vehicle else "",
            "model": vehicle.model if vehicle else "",
            "model_year": vehicle.model_year if vehicle else "",
            "body_class": vehicle.body_class if vehicle else "",
            "codes": entry.codes or None,
            "details": entry.packed or None,
            "details_at": entry.fetched_at,
            "fetched_at": entry.fetched_at,
            "removed_at": None,
            "removals": removals,
        }


def _write_in_thread(
    statement: Insert,
    rows: Sequence[Mapping[str, Any]],
    expired: Mapping[str, Any] | None,
    connection: sqlite3.Connection,
) -> list[WrittenRow]:
    # The thread waits for the interpreter after each statement, and after each row that
    # it reads. So there are few statements, and one row.
    if expired:
        delete_markers = _delete_markers()
        parameters = {**delete_markers.params, **expired}
        connection.execute(str(delete_markers), parameters)
    values = [tuple(map(row.__getitem__, _COLUMNS)) for row in rows]
    upsert_into_sqlite(connection, statement, values)
    keys = rows[0]["source"], msgspec.json.encode([row["vin"] for row in rows]).decode()
    ((written,),) = connection.execute(_FIND_WRITTEN, keys)
    return _decode_written(written)


@cache
def _delete_markers() -> Compiled:
    from sqlalchemy.dialects import sqlite

    return DELETE_MARKERS.compile(dialect=sqlite.dialect(paramstyle="named"))


def _stored_entry(row: Row[Any]) -> StoredEntry:
    """Return the entry of a row.

    That of an older version may not be one by the rules of this version. It took more
    codes for a failure, and any text for a model year.
    """
    if row.removed_at is not None:
        return StoredEntry(None, row.removals)
    vehicle = Vehicle(row.make, row.model, row.model_year, row.body_class)
    if row.details_at != row.fetched_at:
        is_verdict = row.is_decoded and parse_year(row.model_year)
        old = Entry(vehicle, row.fetched_at) if is_verdict else None
        return StoredEntry(old, row.removals)
    decoded = vehicle if row.is_decoded else None
    entry = Entry(decoded, row.fetched_at, row.codes or NO_CODES, row.details or b"")
    return StoredEntry(entry, row.removals)
