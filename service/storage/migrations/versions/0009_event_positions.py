"""Positions of events in the feed: in the order of their insertion.

No row is rewritten. In SQLite the position is the row's id, which becomes a column. In
PostgreSQL a sequence gives one to each new row, whichever version inserts it. There,
existing rows have none, and are the first ones of the feed.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

PLAIN: Final = "position INTEGER"
ROW_ID: Final = "position INTEGER PRIMARY KEY AUTOINCREMENT"
"""AUTOINCREMENT never uses a position again, also if the last events were removed."""
SEQUENCE: Final = "events_position_seq"

INDEX: Final = "ix_events_position"
POSTGRESQL: Final = (
    "ALTER TABLE events ADD COLUMN IF NOT EXISTS position BIGINT",
    f"CREATE SEQUENCE IF NOT EXISTS {SEQUENCE} OWNED BY events.position",
    # A default that is set later is for new rows only.
    f"ALTER TABLE events ALTER COLUMN position SET DEFAULT nextval('{SEQUENCE}')",
    # A role that may only insert events has no other right to the sequence.
    f"GRANT USAGE ON SEQUENCE {SEQUENCE} TO PUBLIC",
)
ON_POSITION: Final = (
    "ON events ((coalesce(position, received_at - 4611686018427387904)))"
)

# All writers must have ended before the column can be added. Further ones wait behind
# the statement, without this limit until the end of the longest transaction.
MAX_WAIT: Final = "SET lock_timeout = '5s'"
IS_FILLED: Final = sa.text("SELECT EXISTS (SELECT 1 FROM events)")
IS_VALID: Final = sa.text(
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
)


def build(connection: sa.Connection) -> None:
    """Add the column, and create the index while others write; without a transaction.

    Each step may be repeated. An index whose creation failed is invalid, and replaced.
    """
    # It waits for all transactions. The upgrade takes no time for an empty table.
    if not connection.scalar(IS_FILLED):
        return
    connection.execute(sa.text(MAX_WAIT))
    for statement in POSTGRESQL:
        connection.execute(sa.text(statement))
    connection.execute(sa.text("RESET lock_timeout"))
    is_valid = connection.scalar(IS_VALID, {"name": INDEX})
    if is_valid is False:
        connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {INDEX}"))
    if not is_valid:
        connection.execute(sa.text(f"CREATE INDEX CONCURRENTLY {INDEX} {ON_POSITION}"))


def upgrade() -> None:
    """Add the column, unless `build` has."""
    if op.get_bind().dialect.name != "postgresql":
        _upgrade_sqlite()
        return
    for statement in POSTGRESQL:
        op.execute(statement)
    op.execute(f"CREATE INDEX IF NOT EXISTS {INDEX} {ON_POSITION}")


def downgrade() -> None:
    """Drop the column; in PostgreSQL the positions are lost."""
    if op.get_bind().dialect.name != "postgresql":
        _declare(ROW_ID, PLAIN)
        op.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    op.execute("ALTER TABLE events DROP COLUMN position")


def _upgrade_sqlite() -> None:
    op.execute(f"ALTER TABLE events ADD COLUMN {PLAIN}")
    # The table `sqlite_sequence` exists from the first AUTOINCREMENT on.
    op.execute("CREATE TABLE events_first (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    op.execute("DROP TABLE events_first")
    op.execute(
        "INSERT INTO sqlite_sequence (name, seq) "
        "SELECT 'events', coalesce(max(rowid), 0) FROM events"
    )
    _declare(PLAIN, ROW_ID)


def _declare(before: str, after: str) -> None:
    """Declare the column in another way, which changes no byte of a row.

    A row stores nothing for a column that is its id, nor for a new column without a
    default. So the stored rows are valid with either declaration.
    """
    connection = op.get_bind()
    op.execute("PRAGMA writable_schema = ON")
    changed = connection.execute(
        sa.text(
            "UPDATE sqlite_master SET sql = replace(sql, :before, :after) "
            "WHERE type = 'table' AND name = 'events' AND instr(sql, :before) > 0"
        ),
        {"before": before, "after": after},
    )
    # It also reads the schema again.
    op.execute("PRAGMA writable_schema = RESET")
    if changed.rowcount != 1:
        raise RuntimeError("SQLite does not permit to change the schema of events")
