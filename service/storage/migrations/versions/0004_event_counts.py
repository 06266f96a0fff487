"""Counts of events by category and by name, in total, by day and by hour."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

MAX_NAMES: Final = 10_000
"""Names of a category that are counted apart: the most frequent ones."""
COUNT_EVENTS: Final = f"""
INSERT INTO name_counts (application, span, start, category, name, events)
WITH counted AS (
    SELECT application, category, name,
        (at + 72000000000000000) / 3600000000 - 20000000 AS hour, count(*) AS events
    FROM events GROUP BY 1, 2, 3, 4
), ranked AS (
    SELECT application, category, name, row_number() OVER (
        PARTITION BY application, category ORDER BY sum(events) DESC, name
    ) AS place
    FROM counted GROUP BY 1, 2, 3
), named AS (
    SELECT counted.application, counted.category, hour, events,
        CASE WHEN place <= {MAX_NAMES} THEN counted.name ELSE '' END AS name
    FROM counted JOIN ranked ON counted.application = ranked.application
        AND counted.category = ranked.category AND counted.name = ranked.name
)
SELECT application, 'hour', hour, category, name, sum(events)
FROM named GROUP BY 1, 3, 4, 5
"""
# Hours since 1970 are shifted like the times above.
ADD_DAYS: Final = """
INSERT INTO name_counts (application, span, start, category, name, events)
SELECT
    application, 'day', (start + 24000000) / 24 - 1000000, category, name, sum(events)
FROM name_counts WHERE span = 'hour' GROUP BY 1, 3, 4, 5
"""
ADD_TOTALS: Final = """
INSERT INTO name_counts (application, span, start, category, name, events)
SELECT application, 'total', 0, category, name, sum(events)
FROM name_counts WHERE span = 'day' GROUP BY 1, 4, 5
"""
COUNT_CATEGORIES: Final = """
INSERT INTO category_counts (application, span, start, category, events)
SELECT application, span, start, category, sum(events)
FROM name_counts GROUP BY 1, 2, 3, 4
"""


def upgrade() -> None:
    """Create the tables, and count the events that are stored already.

    They include those whose changes are written, so these are removed. Writers of
    PostgreSQL do not wait meanwhile.
    """
    for table, names in (("category_counts", ()), ("name_counts", ("name",))):
        op.create_table(
            table,
            sa.Column("application", sa.Text, primary_key=True),
            sa.Column("span", sa.Text, primary_key=True),
            sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("category", sa.Text, primary_key=True),
            *(sa.Column(name, sa.Text, primary_key=True) for name in names),
            sa.Column("events", sa.BigInteger, nullable=False),
            sqlite_with_rowid=False,
        )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if is_sqlite:
        op.execute("DELETE FROM event_changes")
        op.execute(COUNT_EVENTS)
    else:
        # One statement sees one state of both tables: it leaves just the changes of the
        # events that it does not see.
        op.execute(f"WITH counted_now AS (DELETE FROM event_changes) {COUNT_EVENTS}")
        _on_truncate("event_changes", "category_counts", "name_counts")
    for statement in (ADD_DAYS, ADD_TOTALS, COUNT_CATEGORIES):
        op.execute(statement)
    if not is_sqlite:
        # Until the server does it by itself, it would sort all rows of a query.
        op.execute("ANALYZE category_counts, name_counts")


def downgrade() -> None:
    """Drop the tables."""
    if op.get_bind().dialect.name == "postgresql":
        _on_truncate("event_changes")
    op.drop_table("name_counts")
    op.drop_table("category_counts")


def _on_truncate(*tables: str) -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    emptied = "; ".join(f"DELETE FROM {schema}.{table}" for table in tables)
    op.execute(
        "CREATE OR REPLACE FUNCTION count_events_truncate() RETURNS trigger "
        "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp "
        # Changes that are being added up are in the other tables once this is locked.
        f"AS $$ BEGIN LOCK TABLE {schema}.event_changes IN SHARE ROW EXCLUSIVE MODE; "
        f"{emptied}; RETURN NULL; END $$"
    )
