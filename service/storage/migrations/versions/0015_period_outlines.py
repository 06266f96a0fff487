"""Outlines of kept periods, which find chunks and have sums."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Create the table; periods that were kept before have no outline."""
    op.create_table(
        "usage_outlines",
        sa.Column("period_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("usage_outlines")
