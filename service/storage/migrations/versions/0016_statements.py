"""Table of statements: the digests of closed periods."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "usage_statements",
        sa.Column("period_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("previous_digest", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("sealed_at", sa.BigInteger, nullable=False),
        sa.Column("removed_at", sa.BigInteger),
    )


def downgrade() -> None:
    """Drop the table; the digests can be computed again from what is kept."""
    op.drop_table("usage_statements")
