"""Error codes and all values of vPIC's rows, and rows of VINs with a hint.

The previous version ignores the columns, and stores rows without them.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

COLUMNS: Final = {
    "vin_of_hint": sa.Text,
    "codes": sa.Text,
    "details": sa.LargeBinary,
    "details_at": sa.BigInteger,
}
INDEXES: Final = (
    ("ix_vehicles_hints", ["vin_of_hint"], "vin_of_hint IS NOT NULL"),
    ("ix_vehicles_newest", ["source", "fetched_at", "vin"], "is_decoded"),
)
IS_VALID: Final = sa.text(
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
)
IS_FILLED: Final = sa.text("SELECT EXISTS (SELECT 1 FROM vehicles)")
ADD_COLUMN: Final = "ALTER TABLE vehicles ADD COLUMN IF NOT EXISTS {name} {kind}"
# Readers of the table wait behind this statement, which itself waits for older ones.
MAX_WAIT: Final = "SET lock_timeout = '5s'"


def build(connection: sa.Connection) -> None:
    """Create columns and indexes in PostgreSQL; this takes no transaction.

    An attempt that failed leaves an invalid index, which is replaced.
    """
    connection.execute(sa.text(MAX_WAIT))
    for name, kind in COLUMNS.items():
        compiled = kind().compile(dialect=connection.dialect)
        connection.execute(sa.text(ADD_COLUMN.format(name=name, kind=compiled)))
    connection.execute(sa.text("RESET lock_timeout"))
    is_filled = connection.scalar(IS_FILLED)
    for name, columns, condition in INDEXES:
        is_valid = connection.scalar(IS_VALID, {"name": name})
        if is_valid is False:
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
        # It waits for all transactions. The upgrade takes no time for an empty table.
        if is_filled and not is_valid:
            connection.execute(
                sa.text(
                    f"CREATE INDEX CONCURRENTLY {name} ON vehicles "
                    f"({', '.join(columns)}) WHERE {condition}"
                )
            )


def upgrade() -> None:
    """Add what does not exist; in PostgreSQL most exists: see `build`."""
    table = sa.inspect(op.get_bind()).get_columns("vehicles")
    existing = {column["name"] for column in table}
    for name, kind in COLUMNS.items():
        if name not in existing:
            op.add_column("vehicles", sa.Column(name, kind))
    for name, columns, condition in INDEXES:
        conditions: dict[str, Any] = {
            f"{dialect}_where": sa.text(condition)
            for dialect in ("sqlite", "postgresql")
        }
        op.create_index(name, "vehicles", columns, if_not_exists=True, **conditions)


def downgrade() -> None:
    """Drop the indexes, the columns, and the rows that need them."""
    for name, *_ in INDEXES:
        op.drop_index(name, "vehicles")
    op.execute("DELETE FROM vehicles WHERE vin_of_hint IS NOT NULL")
    for name in reversed(COLUMNS):
        op.drop_column("vehicles", name)
