"""Budgets and their firings, as the API answers them and as they are stored."""

from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_CREDITS: Final = 1e12
MAX_PERCENT: Final = 1_000
MAX_THRESHOLDS: Final = 20
MAX_URL_CHARS: Final = 2_000
DEFAULT_THRESHOLDS: Final = (50, 80, 100)

Percent = Annotated[int, Meta(ge=1, le=MAX_PERCENT)]
Percents = Annotated[
    tuple[Percent, ...],
    Meta(max_length=MAX_THRESHOLDS, description="Percentages of the budget's credits."),
]
Credits = Annotated[float, Meta(ge=0.01, le=MAX_CREDITS)]


class Kind(StrEnum):
    """The figure that has reached a threshold: credits used, or credits expected."""

    USED = "used"
    FORECAST = "forecast"


class NewWebhook(Struct, frozen=True, forbid_unknown_fields=True):
    """The receiver of a budget's firings."""

    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL_CHARS)]
    secret: (
        Annotated[
            str,
            Meta(
                max_length=100,
                description="`whsec_` and 24 to 64 bytes in base64. Without it, the "
                "budget keeps its secret; if it has none, one is created.",
            ),
        ]
        | None
    ) = None


class NewBudget(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a budget, which replaces the one before."""

    credits: Annotated[Credits, Meta(description="The credits of one period.")]
    thresholds: Percents = DEFAULT_THRESHOLDS
    forecast_thresholds: Percents = ()
    webhook: NewWebhook | None = None


class Budget(Struct, frozen=True, kw_only=True):
    """A stored budget; times in microseconds, credits in hundredths."""

    id: str
    name: str
    hundredths: int
    thresholds: tuple[int, ...]
    forecast_thresholds: tuple[int, ...]
    webhook_url: str | None
    webhook_host: str | None
    disabled_at: int | None
    created_at: int
    checked_at: int

    @property
    def has_webhook(self) -> bool:
        """True if firings are delivered to a receiver."""
        return self.webhook_url is not None and self.disabled_at is None


class WebhookItem(Struct, frozen=True, kw_only=True):
    """The receiver of a budget. The path of its URL is not shown: it may be secret."""

    url: Annotated[str, Meta(examples=["https://hooks.example.com/…"])]
    disabled_at: (
        Annotated[str, Meta(description="When the receiver answered 410.")] | UnsetType
    ) = UNSET
    secret: (
        Annotated[str, Meta(description="Only in the answer that creates it.")]
        | UnsetType
    ) = UNSET


DeliveryState = Literal["pending", "delivered", "failed", "logged"]


class FiredItem(Struct, frozen=True, kw_only=True):
    """A threshold that has fired in the open period, and its delivery."""

    kind: Kind
    threshold: int
    at: str
    delivery: str
    state: DeliveryState


class ForecastItem(Struct, frozen=True, kw_only=True):
    """The credits of the period at its end, or the reason why they are unknown."""

    expected: float | UnsetType = UNSET
    low: float | UnsetType = UNSET
    high: float | UnsetType = UNSET
    reason: Literal["too_early", "no_end_known"] | UnsetType = UNSET


class BudgetItem(Struct, frozen=True, kw_only=True):
    """A budget and its state; null where no period is kept yet."""

    name: str
    credits: float
    thresholds: tuple[int, ...]
    forecast_thresholds: tuple[int, ...]
    webhook: WebhookItem | None
    created_at: str
    period: str | None
    as_of: str | None
    credits_used: float | None
    credits_remaining: (
        Annotated[float, Meta(description="Negative above the budget.")] | None
    )
    share: Annotated[float, Meta(description="Used credits / credits.")] | None
    forecast: ForecastItem | None
    fired: list[FiredItem]


class BudgetsAnswer(Struct, frozen=True):
    """All budgets, by name."""

    budgets: list[BudgetItem]


class DeliveryItem(Struct, frozen=True, kw_only=True):
    """A firing and its delivery; `id` is the `webhook-id` of all its attempts."""

    id: str
    period: str
    kind: Kind
    threshold: int
    fired_at: str
    state: DeliveryState
    attempts: int
    next_attempt_at: str | UnsetType = UNSET
    ended_at: str | UnsetType = UNSET
    last_status: int | UnsetType = UNSET
    last_error: str | UnsetType = UNSET


class DeliveriesAnswer(Struct, frozen=True):
    """The deliveries of a budget, the newest first."""

    deliveries: list[DeliveryItem]


class FiringData(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The figures of a firing."""

    budget: str
    period: str
    revision: int
    kind: Kind
    threshold: int
    credits: float
    credits_used: float
    share: float
    as_of: str
    credits_expected: float | UnsetType = UNSET


class FiringPayload(Struct, frozen=True, kw_only=True):
    """The body of a webhook, in the form that Standard Webhooks recommends."""

    type: str
    timestamp: str
    data: FiringData
