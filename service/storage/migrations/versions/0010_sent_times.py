"""The time of an event as it was sent, beside a corrected one; and its stock client.

An event without an id is found by the time as it was sent. The sender's clock is
measured in each attempt, so the corrected time is another one in each.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

FORMER: Final = "ux_events_content"
INDEX: Final = "ux_events_sent"
CONTENT_ID: Final = {
    "sqlite": "id = lower(hex(digest))",
    "postgresql": "id = encode(digest, 'hex')",
}
COLUMNS: Final = {
    "events": {"sent_at": sa.BigInteger, "sent_timestamp": sa.Text, "context": sa.Text},
    "failed_events": {"format": sa.Text, "skew": sa.BigInteger},
}

IS_FILLED: Final = sa.text("SELECT EXISTS (SELECT 1 FROM events)")
IS_VALID: Final = sa.text(
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
)
# Every reader of the tables must have ended before they can be changed, and readers and
# writers of events wait behind that. Without the limit, until the end of a backup.
MAX_WAIT: Final = "SET LOCAL lock_timeout = '5s'"


def build(connection: sa.Connection) -> None:
    """Create the index in PostgreSQL while others write; this takes no transaction.

    An attempt that failed leaves an invalid index, which is replaced.
    """
    if not connection.scalar(IS_FILLED):
        return
    connection.execute(sa.text("SET lock_timeout = '5s'"))
    connection.execute(
        sa.text("ALTER TABLE events ADD COLUMN IF NOT EXISTS sent_at BIGINT")
    )
    connection.execute(sa.text("RESET lock_timeout"))
    is_valid = connection.scalar(IS_VALID, {"name": INDEX})
    if is_valid:
        return
    if is_valid is False:
        connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {INDEX}"))
    connection.execute(
        sa.text(
            f"CREATE UNIQUE INDEX CONCURRENTLY {INDEX} ON events "
            "(coalesce(sent_at, at), digest, application) "
            f"WHERE {CONTENT_ID['postgresql']}"
        )
    )


def upgrade() -> None:
    """Add the columns, and the index by the time as it was sent."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(MAX_WAIT)
    known = {
        column["name"] for column in sa.inspect(op.get_bind()).get_columns("events")
    }
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            if (table, name) != ("events", "sent_at") or name not in known:
                op.add_column(table, sa.Column(name, kind))
    conditions: dict[str, Any] = {
        f"{dialect}_where": sa.text(condition)
        for dialect, condition in CONTENT_ID.items()
    }
    # In PostgreSQL it mostly exists: see `build`.
    op.create_index(
        INDEX,
        "events",
        [sa.text("coalesce(sent_at, at)"), "digest", "application"],
        unique=True,
        if_not_exists=True,
        **conditions,
    )
    op.drop_index(FORMER, "events")


def downgrade() -> None:
    """Drop the columns; events keep their corrected times."""
    conditions: dict[str, Any] = {
        f"{dialect}_where": sa.text(condition)
        for dialect, condition in CONTENT_ID.items()
    }
    op.create_index(
        FORMER, "events", ["at", "digest", "application"], unique=True, **conditions
    )
    op.drop_index(INDEX, "events")
    for table, columns in COLUMNS.items():
        for name in columns:
            op.drop_column(table, name)
