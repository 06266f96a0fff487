"""The tables of budgets; `storage/migrations` creates them."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text, UniqueConstraint

from service.storage.tables import metadata

PENDING: Final = "pending"
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
LOGGED: Final = "logged"
"""States of the delivery of a firing; `logged` means that there is no webhook."""

# Times are microseconds since 1970, credits are hundredths.
budgets: Final = Table(
    "usage_budgets",
    metadata,
    # A budget that is removed and created again is another one, which fires again.
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("hundredths", BigInteger, nullable=False),
    # JSON lists of percentages.
    Column("thresholds", Text, nullable=False),
    Column("forecast_thresholds", Text, nullable=False),
    Column("webhook_url", Text),
    Column("webhook_host", Text),
    Column("webhook_secret", Text),
    # When the receiver has answered 410.
    Column("disabled_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    # When a fresh snapshot was last compared with the budget.
    Column("checked_at", BigInteger, nullable=False),
)
firings: Final = Table(
    "usage_firings",
    metadata,
    # The `webhook-id`.
    Column("id", Text, primary_key=True),
    Column("budget_id", Text, nullable=False),
    Column("period_number", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("percent", Integer, nullable=False),
    Column("period", Text, nullable=False),
    Column("fired_at", BigInteger, nullable=False),
    Column("payload", Text, nullable=False),
    Column("state", Text, nullable=False),
    # Each attempt has a number, so that a slow one cannot undo the result of the next.
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    # When it is due. During an attempt, when another process takes it over.
    Column("next_at", BigInteger, nullable=False),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("ended_at", BigInteger),
    # A threshold fires once.
    UniqueConstraint("budget_id", "period_number", "kind", "percent"),
    Index("ix_usage_firings_next_at", "next_at"),
    Index("ix_usage_firings_fired_at", "budget_id", "fired_at", "id"),
)
