"""Events, failed events, and the API keys of applications."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables, and the indexes of the queries."""
    op.create_table(
        "events",
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("application", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("timestamp", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ux_events_key", "events", ["key"], unique=True)
    for name, columns in (
        ("session", ["application", "session_id", "at", "received_at"]),
        ("category", ["application", "category", "at", "received_at"]),
        ("time", ["application", "at", "received_at"]),
        ("arrival", ["received_at"]),
    ):
        op.create_index(f"ix_events_{name}", "events", columns)
    op.create_table(
        "failed_events",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("application", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("category", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("at", sa.BigInteger),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("codes", sa.Text, nullable=False),
        sa.Column("errors", sa.Text, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "ix_failed_events_application", "failed_events", ["application", "received_at"]
    )
    op.create_index("ix_failed_events_arrival", "failed_events", ["received_at"])
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("application", sa.Text, nullable=False),
        sa.Column("can_read_all", sa.Boolean, nullable=False),
        sa.Column("rate_per_s", sa.Float),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_index("ux_keys_digest", "keys", ["digest"], unique=True)


def downgrade() -> None:
    """Drop the tables."""
    for table in ("keys", "failed_events", "events"):
        op.drop_table(table)
