"""Unique indexes of events in the order of time, beside the one by random keys.

They need no column of their own, so events of every version are in them. Processes of
the previous and of this version store an event once, whichever of them has it first.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

INDEXES: Final = (
    ("ux_events_content", ["at", "digest", "application"], "="),
    ("ux_events_id", ["id", "application"], "<>"),
)
CONTENT_ID: Final = {
    "sqlite": "lower(hex(digest))",
    "postgresql": "encode(digest, 'hex')",
}


IS_FILLED: Final = sa.text("SELECT EXISTS (SELECT 1 FROM events)")
IS_VALID: Final = sa.text(
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
)


def build(connection: sa.Connection) -> None:
    """Create the indexes in PostgreSQL while others write; this takes no transaction.

    An attempt that failed leaves an invalid index, which is replaced.
    """
    is_filled = connection.scalar(IS_FILLED)
    for name, columns, comparison in INDEXES:
        is_valid = connection.scalar(IS_VALID, {"name": name})
        if is_valid:
            continue
        if is_valid is False:
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
        # It waits for all transactions. The upgrade takes no time for an empty table.
        if is_filled:
            connection.execute(
                sa.text(
                    f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON events "
                    f"({', '.join(columns)}) "
                    f"WHERE id {comparison} {CONTENT_ID['postgresql']}"
                )
            )


def upgrade() -> None:
    """Create the indexes: by time and content, or by the application's own id."""
    for name, columns, comparison in INDEXES:
        conditions: dict[str, Any] = {
            f"{dialect}_where": sa.text(f"id {comparison} {digest}")
            for dialect, digest in CONTENT_ID.items()
        }
        # In PostgreSQL they mostly exist: see `build`.
        op.create_index(
            name, "events", columns, unique=True, if_not_exists=True, **conditions
        )


def downgrade() -> None:
    """Drop the indexes."""
    for name, *_ in INDEXES:
        op.drop_index(name, "events")
