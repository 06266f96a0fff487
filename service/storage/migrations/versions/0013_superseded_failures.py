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
# text with an escaped surrogate may have no UTF-8.
SQLITE: Final = (
    """
UPDATE failed_events SET event_id = found.event_id FROM (
    SELECT id, CASE WHEN json_valid(event) THEN
        CASE WHEN json_type(event, '$.id') = 'text'
        AND (event -> '$.id') NOT LIKE '%\\ud%'
        THEN json_extract(event, '$.id') END
    END AS event_id
    FROM failed_events WHERE instr(event, '\\u0000') = 0
) AS found WHERE failed_events.id = found.id AND found.event_id IS NOT NULL
""",
)
# PostgreSQL refuses some texts that other readers accept, such as deep nesting. A
# single one must not prevent the upgrade.
POSTGRESQL: Final = (
    """
CREATE OR REPLACE FUNCTION id_of_failed_event(event TEXT) RETURNS TEXT
LANGUAGE plpgsql AS $$
BEGIN
    IF json_typeof(event::json -> 'id') = 'string' THEN
        RETURN event::json ->> 'id';
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$
""",
    """
UPDATE failed_events SET event_id = found.event_id FROM (
    SELECT id, id_of_failed_event(event) AS event_id
    FROM failed_events WHERE failed_events.event_id IS NULL
) AS found WHERE failed_events.id = found.id AND found.event_id IS NOT NULL
""",
    "DROP FUNCTION id_of_failed_event(TEXT)",
)
FILL: Final = {"sqlite": SQLITE, "postgresql": POSTGRESQL}

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
    _fill(connection)


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
    _fill(connection)


def _fill(connection: sa.Connection) -> None:
    for statement in FILL[connection.dialect.name]:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Drop the columns."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(MAX_WAIT)
    for name in COLUMNS:
        op.drop_column("failed_events", name)
