"""The tables of events; `storage/migrations` makes them."""

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

events: Final = Table(
    "events",
    metadata,
    Column("key", LargeBinary, nullable=False),
    Column("application", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("name", Text, nullable=False),
    # The timestamp as microseconds since 1970, and verbatim.
    Column("at", BigInteger, nullable=False),
    Column("timestamp", Text, nullable=False),
    Column("data", Text, nullable=False),
    # Microseconds since 1970; no two of one process are the same, so it is the order
    # of arrival as well.
    Column("received_at", BigInteger, nullable=False),
    Index("ux_events_key", "key", unique=True),
    Index("ix_events_session", "application", "session_id", "at", "received_at"),
    Index("ix_events_category", "application", "category", "at", "received_at"),
    Index("ix_events_time", "application", "at", "received_at"),
    Index("ix_events_arrival", "received_at"),
)

failed_events: Final = Table(
    "failed_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("application", Text, nullable=False),
    Column("session_id", Text),
    Column("category", Text),
    Column("name", Text),
    Column("at", BigInteger),
    Column("event", Text, nullable=False),
    # The errors' codes, sorted and joined by commas: what is counted.
    Column("codes", Text, nullable=False),
    Column("errors", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Index("ix_failed_events_application", "application", "received_at"),
    Index("ix_failed_events_arrival", "received_at"),
)

keys: Final = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("application", Text, nullable=False),
    Column("can_read_all", Boolean, nullable=False),
    Column("rate_per_s", Float),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Index("ux_keys_digest", "digest", unique=True),
)
