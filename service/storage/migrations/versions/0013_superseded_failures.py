"""Columns of failed events by which the events that supersede them are found.

They are the application's own id, or the digest of the content. Existing failed events
get their ids; those without one are superseded only after a replay.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

COLUMNS: Final = {"event_id": sa.Text, "digest": sa.LargeBinary}

# CASE is evaluated in order, so that only JSON is read as such. No id has a NUL, and
# PostgreSQL reads no text with one.
FILL: Final = {
    "sqlite": """
UPDATE failed_events SET event_id = found.event_id FROM (
    SELECT id, CASE WHEN json_valid(event) THEN
        CASE WHEN json_type(event, '$.id') = 'text' THEN json_extract(event, '$.id') END
    END AS event_id
    FROM failed_events WHERE instr(event, '\\u0000') = 0
) AS found WHERE failed_events.id = found.id AND found.event_id IS NOT NULL
""",
    "postgresql": """
UPDATE failed_events SET event_id = found.event_id FROM (
    SELECT id, CASE
        WHEN codes ~ '(not_json|unreadable)' OR strpos(event, '\\u0000') > 0 THEN NULL
        WHEN json_typeof(event::json) <> 'object' THEN NULL
        WHEN json_typeof(event::json -> 'id') = 'string' THEN event::json ->> 'id'
    END AS event_id
    FROM failed_events WHERE failed_events.event_id IS NULL
) AS found WHERE failed_events.id = found.id AND found.event_id IS NOT NULL
""",
}

ADD: Final = (
    "ALTER TABLE failed_events ADD COLUMN IF NOT EXISTS event_id TEXT, "
    "ADD COLUMN IF NOT EXISTS digest BYTEA"
)
# Readers and writers of failed events wait behind these statements.
MAX_WAIT: Final = "SET LOCAL lock_timeout = '5s'"


def build(connection: sa.Connection) -> None:
    """Add the columns in PostgreSQL, and fill them while others write.

    Each statement is a transaction of its own, and may be repeated.
    """
    connection.exec_driver_sql("SET lock_timeout = '5s'")
    connection.exec_driver_sql(ADD)
    connection.exec_driver_sql("RESET lock_timeout")
    connection.exec_driver_sql(FILL["postgresql"])


def upgrade() -> None:
    """Add the columns and fill them, unless `build` has."""
    connection = op.get_bind()
    columns = sa.inspect(connection).get_columns("failed_events")
    if "digest" in {each["name"] for each in columns}:
        return
    if connection.dialect.name == "postgresql":
        op.execute(MAX_WAIT)
    for name, kind in COLUMNS.items():
        op.add_column("failed_events", sa.Column(name, kind))
    connection.exec_driver_sql(FILL[connection.dialect.name])


def downgrade() -> None:
    """Drop the columns."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(MAX_WAIT)
    for name in COLUMNS:
        op.drop_column("failed_events", name)
