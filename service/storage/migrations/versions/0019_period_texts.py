"""Texts of kept periods, where the settings have them kept."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the list of the chunks of texts."""
    op.add_column("usage_periods", sa.Column("texts", sa.LargeBinary))


def downgrade() -> None:
    """Drop the list; a later revision of a period removes the texts."""
    op.drop_column("usage_periods", "texts")
