"""Index of the VINs that vPIC could not decode, by which expired ones are found."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

NOT_DECODED = sa.text("NOT is_decoded")


def upgrade() -> None:
    """Create the index, in which decoded VINs are left out."""
    op.create_index(
        "ix_vehicles_undecoded",
        "vehicles",
        ["removed_at", "fetched_at"],
        sqlite_where=NOT_DECODED,
        postgresql_where=NOT_DECODED,
    )


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("ix_vehicles_undecoded", "vehicles")
