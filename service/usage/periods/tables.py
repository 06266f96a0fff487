"""The tables of kept periods; `storage/migrations` creates them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
)

from service.storage.tables import metadata

OPEN: Final = "open"
CLOSED: Final = "closed"

# Times are microseconds since 1970, credits are hundredths.
periods: Final = Table(
    "usage_periods",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("period", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("plan", Text, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("hundredths", BigInteger, nullable=False),
    Column("degraded", BigInteger, nullable=False),
    # When the upstream was asked for what the revision has.
    Column("fetched_at", BigInteger, nullable=False),
    # The digests of the chunks, one after the other, in the order of the messages.
    Column("chunks", LargeBinary, nullable=False),
    # The same for their texts; none where these are not kept.
    Column("texts", LargeBinary),
    Column("closed_at", BigInteger),
    # The bounds of a calendar month; none where the upstream decides.
    Column("starts_at", BigInteger),
    Column("ends_at", BigInteger),
    # Only the migration has its condition, which would load the dialect of PostgreSQL
    # at each start: one row at most is open without bounds.
    Index("ux_usage_periods_open", "status", unique=True),
    Index("ux_usage_periods_starts_at", "starts_at", unique=True),
)
chunks: Final = Table(
    "usage_chunks",
    metadata,
    Column("period_number", Integer, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
outlines: Final = Table(
    "usage_outlines",
    metadata,
    Column("period_number", Integer, primary_key=True),
    # That of the period, since one transaction writes both.
    Column("revision", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
revisions: Final = Table(
    "usage_revisions",
    metadata,
    Column("period_number", Integer, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("hundredths_before", BigInteger, nullable=False),
    Column("hundredths_after", BigInteger, nullable=False),
    # The pages of its changes were written before it, under this id.
    Column("attempt", Text, nullable=False),
    # Snapshots before it that were never compared; the former version writes none.
    Column("skipped", Integer, nullable=False, server_default="0"),
)
# Messages that came after a period was closed: rows of their own beside the statement.
adjustments: Final = Table(
    "usage_adjustments",
    metadata,
    Column("period_number", Integer, primary_key=True),
    # Revisions go on after that of the statement.
    Column("revision", Integer, nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("hundredths", BigInteger, nullable=False),
    Column("chunks", LargeBinary, nullable=False),
)
changes: Final = Table(
    "usage_changes",
    metadata,
    Column("period_number", Integer, primary_key=True),
    Column("attempt", Text, primary_key=True),
    Column("page", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
# A closed period is a statement, with a digest that depends on the one before. The row
# stays when retention removes the period, so that the chain of digests has no gap.
statements: Final = Table(
    "usage_statements",
    metadata,
    Column("period_number", Integer, primary_key=True),
    Column("period", Text, nullable=False),
    Column("previous_digest", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("sealed_at", BigInteger, nullable=False),
    Column("removed_at", BigInteger),
)
