"""Changes of the numbers of events, written by triggers.

Triggers count the events of every writer: of an older version too, and of SQL by hand.
They only insert, so that no writer waits for another one.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

HOUR: Final = "({row}at + 72000000000000000) / 3600000000 - 20000000"
"""Hours since 1970. Divisions round to zero, so `at` is shifted to be positive."""
COLUMNS: Final = "application, category, name, hour, events"


def upgrade() -> None:
    """Create the table, and the triggers that write to it."""
    op.create_table(
        "event_changes",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
        ),
        sa.Column("application", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hour", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        _create_sqlite_triggers()
    else:
        _create_postgresql_triggers()


def downgrade() -> None:
    """Drop the triggers and the table."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for change in ("insert", "update", "delete", *(() if is_sqlite else ("truncate",))):
        on_table = "" if is_sqlite else " ON events"
        op.execute(f"DROP TRIGGER count_events_{change}{on_table}")
        if not is_sqlite:
            op.execute(f"DROP FUNCTION count_events_{change}()")
    op.drop_table("event_changes")


# --- SQLite: a trigger runs for each row ---------------------------------------------


def _create_sqlite_triggers() -> None:
    added = _values("INSERT", "NEW", 1)
    # OR IGNORE ignores nothing, as no constraint can fail. But a statement that may
    # fail saves each page before a change, which doubles the time of a removal.
    removed = _values("INSERT OR IGNORE", "OLD", -1)
    op.execute(
        f"CREATE TRIGGER count_events_insert AFTER INSERT ON events BEGIN {added}; END"
    )
    op.execute(
        "CREATE TRIGGER count_events_update "
        "AFTER UPDATE OF application, category, name, at ON events "
        f"BEGIN {removed}; {added}; END"
    )
    op.execute(
        "CREATE TRIGGER count_events_delete AFTER DELETE ON events "
        f"BEGIN {removed}; END"
    )


def _values(insert: str, row: str, sign: int) -> str:
    hour = HOUR.format(row=f"{row}.")
    return (
        f"{insert} INTO event_changes ({COLUMNS}) VALUES "
        f"({row}.application, {row}.category, {row}.name, {hour}, {sign})"
    )


# --- PostgreSQL: a trigger runs for each statement, COPY too -------------------------


def _create_postgresql_triggers() -> None:
    table = f"{_schema()}.event_changes"
    added, removed = _groups(table, "added", ""), _groups(table, "removed", "-")
    new, old = "NEW TABLE AS added", "OLD TABLE AS removed"
    for change, referencing, statements in (
        ("insert", f"REFERENCING {new}", (added,)),
        ("update", f"REFERENCING {old} {new}", (removed, added)),
        ("delete", f"REFERENCING {old}", (removed,)),
        ("truncate", "", (f"DELETE FROM {table}",)),
    ):
        op.execute(
            # With the rights of the tables' owner: a writer needs none to the changes.
            f"CREATE FUNCTION count_events_{change}() RETURNS trigger "
            "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp "
            f"AS $$ BEGIN {'; '.join(statements)}; RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER count_events_{change} AFTER {change} ON events "
            f"{referencing} FOR EACH STATEMENT "
            f"EXECUTE FUNCTION count_events_{change}()"
        )


def _schema() -> str:
    return str(op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())")))


def _groups(table: str, rows: str, sign: str) -> str:
    return (
        f"INSERT INTO {table} ({COLUMNS}) "
        f"SELECT application, category, name, {HOUR.format(row='')}, {sign}count(*) "
        f"FROM {rows} GROUP BY 1, 2, 3, 4"
    )
