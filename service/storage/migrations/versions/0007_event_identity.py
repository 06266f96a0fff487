"""Unique indexes of events in the order of time, beside the one by random keys.

They need no column of their own, so events of every version are in them: processes of
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


def upgrade() -> None:
    """Create the indexes: by time and content, or by the application's own id."""
    for name, columns, comparison in INDEXES:
        conditions: dict[str, Any] = {
            f"{dialect}_where": sa.text(f"id {comparison} {digest}")
            for dialect, digest in CONTENT_ID.items()
        }
        op.create_index(name, "events", columns, unique=True, **conditions)


def downgrade() -> None:
    """Drop the indexes."""
    for name, *_ in INDEXES:
        op.drop_index(name, "events")
