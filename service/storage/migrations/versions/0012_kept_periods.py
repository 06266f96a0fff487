"""Tables of kept periods: their chunks, their revisions, and what changed."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

IS_OPEN = sa.text("status = 'open'")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "usage_periods",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("messages", sa.BigInteger, nullable=False),
        sa.Column("hundredths", sa.BigInteger, nullable=False),
        sa.Column("degraded", sa.BigInteger, nullable=False),
        sa.Column("fetched_at", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.LargeBinary, nullable=False),
        sa.Column("closed_at", sa.BigInteger),
        sa.UniqueConstraint("period", name="uq_usage_periods_period"),
    )
    op.create_index(
        "ux_usage_periods_open",
        "usage_periods",
        ["status"],
        unique=True,
        sqlite_where=IS_OPEN,
        postgresql_where=IS_OPEN,
    )
    op.create_table(
        "usage_chunks",
        sa.Column("period_number", sa.Integer, primary_key=True),
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "usage_revisions",
        sa.Column("period_number", sa.Integer, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("hundredths_before", sa.BigInteger, nullable=False),
        sa.Column("hundredths_after", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Text, nullable=False),
    )
    op.create_table(
        "usage_changes",
        sa.Column("period_number", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Text, primary_key=True),
        sa.Column("page", sa.Integer, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("changes", "revisions", "chunks", "periods"):
        op.drop_table(f"usage_{table}")
