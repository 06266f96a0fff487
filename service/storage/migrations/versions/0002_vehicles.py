"""Cached vehicles."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table; in SQLite its rows are clustered by the key."""
    op.create_table(
        "vehicles",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("vin", sa.Text, primary_key=True),
        sa.Column("is_decoded", sa.Boolean, nullable=False),
        sa.Column("make", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_year", sa.Text, nullable=False),
        sa.Column("body_class", sa.Text, nullable=False),
        sa.Column("fetched_at", sa.BigInteger, nullable=False),
        sa.Column("removed_at", sa.BigInteger),
        sa.Column("removals", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_vehicles_removed", "vehicles", ["removed_at"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("vehicles")
