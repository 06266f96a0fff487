"""The table of vehicles; `storage/migrations` makes it."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Table, Text

from service.storage.tables import metadata

vehicles: Final = Table(
    "vehicles",
    metadata,
    Column("source", Text, primary_key=True),
    Column("vin", Text, primary_key=True),
    # Whether it could be decoded; else the next four are empty.
    Column("is_decoded", Boolean, nullable=False),
    Column("make", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_year", Text, nullable=False),
    Column("body_class", Text, nullable=False),
    # Microseconds since 1970, both.
    Column("fetched_at", BigInteger, nullable=False),
    Column("removed_at", BigInteger),
    # How often the VIN was removed: what was asked for before is not kept after.
    Column("removals", Integer, nullable=False),
    Index("ix_vehicles_removed", "removed_at"),
    # Rows lie in the order of their key, in which they are exported.
    sqlite_with_rowid=False,
)
