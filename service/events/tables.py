"""The tables of events and their counts; `storage/migrations` creates them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)

from service.storage.tables import ASSIGNED, metadata

TOTAL: Final = "total"
DAY: Final = "day"
HOUR: Final = "hour"
"""Values of `span` in the tables of counts."""
HOURS_PER_DAY: Final = 24
OTHER_NAMES: Final = ""
"""`name` of the count of all names that have none; no event has an empty name."""

HAS_CONTENT_ID: Final = {
    "sqlite": text("id = lower(hex(digest))"),
    "postgresql": text("id = encode(digest, 'hex')"),
}
HAS_OWN_ID: Final = {
    "sqlite": text("id <> lower(hex(digest))"),
    "postgresql": text("id <> encode(digest, 'hex')"),
}
"""Conditions of the unique indexes: the id is the digest of the content, or not."""

events: Final = Table(
    "events",
    metadata,
    # A digest of application and id, by which the previous version finds duplicates.
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
    # Microseconds since 1970, unique within a process: the order of arrival.
    Column("received_at", BigInteger, nullable=False),
    # The place in the feed, which the database assigns; see docs/decisions/events.md.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), info=ASSIGNED),
    # The timestamp as it was sent, as microseconds and verbatim, if it was corrected.
    # An event that was sent without one has 0, and no text.
    Column("sent_at", BigInteger),
    Column("sent_timestamp", Text),
    # What a stock client has sent besides, as JSON.
    Column("context", Text),
    # Begin with a time, or with an id that mostly begins with one: so new entries are
    # neighbours, and share the pages that a transaction writes. The conditions above
    # are no options here, because these load the dialects of both databases.
    # By the time as it was sent: a corrected one is another one in each attempt.
    Index(
        "ux_events_sent",
        text("coalesce(sent_at, at)"),
        "digest",
        "application",
        unique=True,
    ),
    Index("ux_events_id", "id", "application", unique=True),
    Index("ix_events_session", "application", "session_id", "at", "received_at"),
    Index("ix_events_category", "application", "category", "at", "received_at"),
    Index("ix_events_time", "application", "at", "received_at"),
    Index("ix_events_arrival", "received_at"),
)

event_changes: Final = Table(
    "event_changes",
    metadata,
    # SQLite assigns ids only to an INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("application", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("name", Text, nullable=False),
    # Hours since 1970.
    Column("hour", BigInteger, nullable=False),
    # Negative if events were removed.
    Column("events", BigInteger, nullable=False),
)
"""Changes of the counts that are not in `category_counts` and `name_counts` yet.

Triggers of `events` write them, so events of any writer are counted.
"""

category_counts: Final = Table(
    "category_counts",
    metadata,
    Column("application", Text, primary_key=True),
    # The span, and its days or hours since 1970; 0 for the total.
    Column("span", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("category", Text, primary_key=True),
    Column("events", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

name_counts: Final = Table(
    "name_counts",
    metadata,
    Column("application", Text, primary_key=True),
    Column("span", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("category", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("events", BigInteger, nullable=False),
    sqlite_with_rowid=False,
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
    # The codes of the errors, sorted and joined by commas, for counting.
    Column("codes", Text, nullable=False),
    Column("errors", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    # The stock client's format of `event`; null for that of `POST /events`.
    Column("format", Text),
    # The correction of the sender's clock, in microseconds; null for none.
    Column("skew", BigInteger),
    # By which an event is found that supersedes this one: its own id, or without one
    # the digest of the content if all of it could be read.
    Column("event_id", Text),
    Column("digest", LargeBinary),
    Index("ix_failed_events_application", "application", "received_at"),
    Index("ix_failed_events_arrival", "received_at"),
)
