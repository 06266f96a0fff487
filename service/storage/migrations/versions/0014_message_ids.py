"""Positions of events become ids of messages: unique, and no time of arrival.

An existing message keeps its time of arrival as its id. New positions begin after all
of them. Messages that share a time of arrival get new positions, but for the first one.
"""

import time
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

FIRST_ID: Final = 10**15
"""Positions from here on are ids; those from before this revision are lower."""

LAST: Final = sa.text("SELECT coalesce(max(received_at), 0) FROM events")
# The index of the times of arrival has them in order.
SHARED: Final = """
SELECT place FROM (
    SELECT {place} AS place, row_number() OVER (
        PARTITION BY received_at ORDER BY application, id
    ) AS number FROM events WHERE category = 'copilot' AND name = 'message'
    AND coalesce(position, 0) < :first AND received_at IN (
        SELECT received_at FROM events GROUP BY received_at HAVING count(*) > 1
    )
) AS numbered WHERE number > 1
"""
SQLITE: Final = (
    (
        "UPDATE events SET position = position + :base "
        f"WHERE position IN ({SHARED.format(place='position')})"
    ),
    (
        "UPDATE sqlite_sequence SET seq = max(seq, :base, "
        "(SELECT coalesce(max(position), 0) FROM events)) WHERE name = 'events'"
    ),
)
POSTGRESQL: Final = (
    (
        "SELECT setval('events_position_seq', greatest(:base, "
        "coalesce(pg_sequence_last_value('events_position_seq'), 0)))"
    ),
    (
        "UPDATE events SET position = nextval('events_position_seq') "
        f"WHERE ctid IN ({SHARED.format(place='ctid')})"
    ),
)


def upgrade() -> None:
    """Let positions begin after all times of arrival, and make ids unique."""
    connection = op.get_bind()
    is_sqlite = connection.dialect.name == "sqlite"
    # All ids stay below 2**53: scripts of pages read them as floats.
    base = max(time.time_ns() // 1_000, connection.scalar(LAST) or 0)
    for statement in SQLITE if is_sqlite else POSTGRESQL:
        values = {"base": base, "first": FIRST_ID}
        used = {name: each for name, each in values.items() if f":{name}" in statement}
        connection.execute(sa.text(statement), used)


def downgrade() -> None:
    """Change nothing: higher positions are as good as lower ones."""
