"""The table of vehicles; `storage/migrations` creates it."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)

from service.storage.tables import metadata

NOT_DECODED: Final = text("NOT is_decoded")
"""Condition as the index of these rows has it, without parameters."""

vehicles: Final = Table(
    "vehicles",
    metadata,
    Column("source", Text, primary_key=True),
    Column("vin", Text, primary_key=True),
    # For a VIN with a hint, `VIN,YEAR`, this is the VIN; by it removals find all rows.
    Column("vin_of_hint", Text),
    # If false, the next four columns are empty.
    Column("is_decoded", Boolean, nullable=False),
    Column("make", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_year", Text, nullable=False),
    Column("body_class", Text, nullable=False),
    # Error codes of vPIC, and all values of its row. An older version leaves them as
    # they are when it stores a result: they are valid if `details_at` is `fetched_at`.
    Column("codes", Text),
    Column("details", LargeBinary),
    Column("details_at", BigInteger),
    # Microseconds since 1970.
    Column("fetched_at", BigInteger, nullable=False),
    Column("removed_at", BigInteger),
    # Number of removals, by which a look-up notices one (see `store`).
    Column("removals", Integer, nullable=False),
    Index("ix_vehicles_removed", "removed_at"),
    # VINs that vPIC could not decode, by which expired ones are found. With the first
    # column SQLite prefers it to the index above. Only the migration has its condition,
    # which would load the dialect of PostgreSQL at each start.
    Index("ix_vehicles_undecoded", "removed_at", "fetched_at"),
    # Rows with hints only, as the migration has it.
    Index("ix_vehicles_hints", "vin_of_hint"),
    # For the list of cached vehicles, of decoded ones only.
    Index("ix_vehicles_newest", "source", "fetched_at", "vin"),
    # Rows are clustered by the key, which is the order of an export.
    sqlite_with_rowid=False,
)
