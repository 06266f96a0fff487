"""The table of API keys; `storage/migrations` creates it."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    LargeBinary,
    Table,
    Text,
)

from service.storage.tables import metadata

FORMER_SCOPES: Final = (
    "events:write,events:read,events:manage,"
    "usage:read,vehicles:read,vehicles:manage,metrics:read"
)
"""Scopes of the keys of versions that have no scopes."""

keys: Final = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("application", Text, nullable=False),
    # For versions that have no scopes; the same as the scope events:read-all.
    Column("can_read_all", Boolean, nullable=False),
    Column("rate_per_s", Float),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    # Joined by commas. The default is for keys that an older version adds.
    Column("scopes", Text, nullable=False, server_default=FORMER_SCOPES),
    Index("ux_keys_digest", "digest", unique=True),
)
