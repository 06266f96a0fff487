"""Scopes of API keys. Keys that exist keep the powers that they had without scopes."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

FORMER_SCOPES: Final = (
    "events:write,events:read,events:manage,"
    "usage:read,vehicles:read,vehicles:manage,metrics:read"
)
READ_ALL: Final = "events:read-all"


def upgrade() -> None:
    """Add the column; its default is also for keys that an older version adds."""
    op.add_column(
        "keys",
        sa.Column("scopes", sa.Text, nullable=False, server_default=FORMER_SCOPES),
    )
    keys = sa.table("keys", sa.column("scopes"), sa.column("can_read_all", sa.Boolean))
    op.execute(
        keys.update()
        .where(keys.c.can_read_all.is_(sa.true()))
        .values(scopes=f"{FORMER_SCOPES},{READ_ALL}")
    )


def downgrade() -> None:
    """Drop the column. `can_read_all` has the only power that differed before."""
    op.drop_column("keys", "scopes")
