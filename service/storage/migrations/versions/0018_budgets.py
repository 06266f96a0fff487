"""Tables of budgets, and of their firings with the state of the deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

IS_PENDING = sa.text("state = 'pending'")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "usage_budgets",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hundredths", sa.BigInteger, nullable=False),
        sa.Column("thresholds", sa.Text, nullable=False),
        sa.Column("forecast_thresholds", sa.Text, nullable=False),
        sa.Column("webhook_url", sa.Text),
        sa.Column("webhook_host", sa.Text),
        sa.Column("webhook_secret", sa.Text),
        sa.Column("disabled_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("checked_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_usage_budgets_name"),
    )
    op.create_table(
        "usage_firings",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("budget_id", sa.Text, nullable=False),
        sa.Column("period_number", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("percent", sa.Integer, nullable=False),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("fired_at", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_error", sa.Text),
        sa.Column("ended_at", sa.BigInteger),
        sa.UniqueConstraint(
            "budget_id",
            "period_number",
            "kind",
            "percent",
            name="uq_usage_firings_budget_id_period_number_kind_percent",
        ),
    )
    op.create_index(
        "ix_usage_firings_next_at",
        "usage_firings",
        ["next_at"],
        sqlite_where=IS_PENDING,
        postgresql_where=IS_PENDING,
    )
    op.create_index(
        "ix_usage_firings_fired_at", "usage_firings", ["budget_id", "fired_at", "id"]
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("usage_firings")
    op.drop_table("usage_budgets")
