"""Periods of calendar months, of which several may be open, and their adjustments."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

OPEN = "ux_usage_periods_open"
IS_OPEN = sa.text("status = 'open'")
IS_ONLY_OPEN = sa.text("status = 'open' AND starts_at IS NULL")


def upgrade() -> None:
    """Let one period be open without bounds, and one for each month."""
    op.add_column("usage_periods", sa.Column("starts_at", sa.BigInteger))
    op.add_column("usage_periods", sa.Column("ends_at", sa.BigInteger))
    _index_open(IS_ONLY_OPEN)
    op.create_index(
        "ux_usage_periods_starts_at", "usage_periods", ["starts_at"], unique=True
    )
    op.add_column(
        "usage_revisions",
        sa.Column("skipped", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_table(
        "usage_adjustments",
        sa.Column("period_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("fetched_at", sa.BigInteger, nullable=False),
        sa.Column("messages", sa.BigInteger, nullable=False),
        sa.Column("hundredths", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Close all open periods but the newest, and drop what the upgrade added."""
    op.execute(
        "UPDATE usage_periods SET status = 'closed', closed_at = fetched_at "
        "WHERE status = 'open' AND number < (SELECT max(number) FROM usage_periods)"
    )
    op.drop_table("usage_adjustments")
    op.drop_column("usage_revisions", "skipped")
    op.drop_index("ux_usage_periods_starts_at", "usage_periods")
    _index_open(IS_OPEN)
    op.drop_column("usage_periods", "ends_at")
    op.drop_column("usage_periods", "starts_at")


def _index_open(condition: sa.TextClause) -> None:
    op.drop_index(OPEN, "usage_periods")
    op.create_index(
        OPEN,
        "usage_periods",
        ["status"],
        unique=True,
        sqlite_where=condition,
        postgresql_where=condition,
    )
