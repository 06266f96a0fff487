"""No unique index by keys: a random key writes a page of the index for each event."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

# An application may have sent the digest of one event's content as the id of another
# event. The indexes of 0007 permit both, that of the keys does not. So the second one
# gets a key that no other event has, as all these ids have 32 characters.
SEPARATE_KEYS: Final = """
UPDATE events SET key = {own_key} WHERE key IN (
    SELECT key FROM events GROUP BY key HAVING count(*) > 1
) AND id <> {content_id}
"""
OWN_KEY: Final = {
    "sqlite": "CAST(id || application AS BLOB)",
    "postgresql": "convert_to(id || application, 'UTF8')",
}
CONTENT_ID: Final = {
    "sqlite": "lower(hex(digest))",
    "postgresql": "encode(digest, 'hex')",
}


# Every reader of the table must have ended before the index can be dropped.
MAX_WAIT: Final = "SET LOCAL lock_timeout = '5s'"


def upgrade() -> None:
    """Drop the index. The column stays: the previous version reads and writes it."""
    if op.get_bind().dialect.name == "postgresql":
        # Readers and writers of events wait behind this statement. Without the limit,
        # they would wait until the end of a backup.
        op.execute(MAX_WAIT)
    op.drop_index("ux_events_key", "events")


def downgrade() -> None:
    """Create the index again."""
    dialect = op.get_bind().dialect.name
    separate = SEPARATE_KEYS.format(
        own_key=OWN_KEY[dialect], content_id=CONTENT_ID[dialect]
    )
    op.execute(sa.text(separate))
    op.create_index("ux_events_key", "events", ["key"], unique=True)
