"""Metadata of all tables; each domain adds its own, and migrations create them."""

from typing import Any, Final

from sqlalchemy import MetaData

# Migrations refer to constraints by name, which must be the same on any database.
metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ASSIGNED: Final[dict[Any, Any]] = {"is_assigned": True}
"""Information of a column whose value the database assigns to each new row."""
