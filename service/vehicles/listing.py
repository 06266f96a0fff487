"""Lists of cached vehicles, newest first, by an index in this order."""

from typing import Annotated, Any, Final, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy import Row, bindparam, func, select, text, tuple_

from service.instants import US_PER_S, format_instant, now_us
from service.storage.database import Database
from service.storage.uses import Use
from service.vehicles.doubts import candidates_of, warnings_of
from service.vehicles.model import NO_CODES, VehicleSource, Vin
from service.vehicles.tables import vehicles
from service.vehicles.vin import hint_of, number_of

TIME_LIMIT_S: Final = 10.0
"""A filter that few rows fulfil reads many others."""
MAX_INSTANT: Final = 2**62
_ORDER: Final = (vehicles.c.fetched_at, vehicles.c.vin)


class ListFilter(NamedTuple):
    """The vehicles of a list; None is any. Case does not count."""

    vin: str | None = None
    """The beginning of the VIN, in upper case."""
    make: str | None = None
    model: str | None = None
    year: str | None = None


class ListCursor(Struct, frozen=True, array_like=True):
    """The last vehicle of a page."""

    fetched_at: Annotated[int, Meta(ge=0, le=MAX_INSTANT)]
    vin: Annotated[str, Meta(pattern="^[0-9A-Z*,]{1,30}$")]


class CachedVehicle(Struct, frozen=True, kw_only=True):
    """A cached vehicle; empty texts are unknown."""

    vin: str
    make: str
    model: str
    model_year: str
    body_class: str
    fetched_at: str
    """When vPIC decoded the VIN."""
    age_s: int
    """Seconds since then."""
    source: str
    """The address of vPIC, or `sandbox`."""
    model_year_hint: str | UnsetType = UNSET
    """The model year that was the hint, if there was one."""
    warnings: list[str] | UnsetType = UNSET
    model_year_candidates: list[str] | UnsetType = UNSET


class VehicleList(Struct, frozen=True):
    """A page of cached vehicles, newest first."""

    vehicles: list[CachedVehicle]


class VehiclePage(NamedTuple):
    """A page, and the cursor of the next one, if there is one."""

    list: VehicleList
    next: ListCursor | None


class Listing:
    """Lists the cached vehicles of a source."""

    def __init__(self, database: Database, source: VehicleSource) -> None:
        self._database = database
        self._source = source

    async def page(
        self, wanted: ListFilter, cursor: ListCursor | None, limit: int
    ) -> VehiclePage:
        """Return a page of at most `limit` vehicles. Raises `StorageError`."""
        found = self._read(wanted, cursor, limit + 1)
        rows = await self._database.within(Use.VEHICLES, TIME_LIMIT_S, found)
        now, shown = now_us(), rows[:limit]
        listed = VehicleList([_listed(row, now) for row in shown])
        last = shown[-1] if len(rows) > limit else None
        return VehiclePage(
            listed, ListCursor(last.fetched_at, last.vin) if last else None
        )

    async def _read(
        self, wanted: ListFilter, cursor: ListCursor | None, limit: int
    ) -> list[Row[Any]]:
        # `is_decoded` as the condition of the index has it. The plus prevents SQLite
        # from using the index of removals, by which it would sort all rows.
        query = select(vehicles).where(
            vehicles.c.source == self._source,
            text("is_decoded"),
            text("+removed_at IS NULL"),
        )
        if wanted.vin is not None:
            query = query.where(vehicles.c.vin.startswith(wanted.vin, autoescape=True))
        columns = (vehicles.c.make, vehicles.c.model, vehicles.c.model_year)
        for column, value in zip(columns, wanted[1:], strict=True):
            if value is not None:
                same = func.upper(column) == func.upper(bindparam(None, value))
                query = query.where(same)
        if cursor is not None:
            last = tuple_(
                bindparam(None, cursor.fetched_at), bindparam(None, cursor.vin)
            )
            query = query.where(tuple_(*_ORDER) < last)
        query = query.order_by(*(column.desc() for column in _ORDER)).limit(limit)
        async with self._database.reading(Use.VEHICLES) as connection:
            return list((await connection.execute(query)).all())


def _listed(row: Row[Any], now: int) -> CachedVehicle:
    vin = Vin(row.vin)
    codes = (row.codes or NO_CODES) if row.details_at == row.fetched_at else NO_CODES
    return CachedVehicle(
        vin=number_of(vin),
        make=row.make,
        model=row.model,
        model_year=row.model_year,
        body_class=row.body_class,
        fetched_at=format_instant(row.fetched_at),
        age_s=max(0, (now - row.fetched_at) // US_PER_S),
        source=row.source,
        model_year_hint=hint_of(vin) or UNSET,
        warnings=warnings_of(vin, codes) or UNSET,
        model_year_candidates=candidates_of(vin, codes, row.model_year) or UNSET,
    )
