"""The nouns of usage: what upstream sends, and what the service answers.

Plain frozen structs, and nothing of any framework. Upstream's structs ignore fields
they do not know; the answers' structs are the published contract.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_CREDIT_COST: Final = 1_000_000_000
"""The dearest report taken seriously; 70,000 of them still add up exactly."""

_COST_BOUNDS: Final = Meta(ge=0, le=MAX_CREDIT_COST)
_ID_BOUNDS: Final = Meta(ge=-(2**63), le=2**63 - 1)
_MAX_DECIMALS: Final = 2

Source = Literal["report", "text"]


class Message(Struct, frozen=True, gc=False):
    """One message as upstream tells it; `timestamp` stays verbatim.

    `report_id` may hold anything JSON can say: upstream does not promise a usable id.
    """

    id: Annotated[int, _ID_BOUNDS]
    text: str
    timestamp: str
    report_id: Any = UNSET


class CurrentPeriod(Struct, frozen=True):
    """Upstream's answer to `GET /messages/current-period`."""

    messages: list[Message]


class Report(Struct, frozen=True):
    """Upstream's answer to `GET /reports/{id}`; `credit_cost` is in credits.

    A cost with more than two decimals is refused: it could not be billed exactly.
    """

    id: int | str
    name: str
    credit_cost: Annotated[int, _COST_BOUNDS] | Annotated[float, _COST_BOUNDS]

    def __post_init__(self) -> None:
        if round(self.credit_cost, _MAX_DECIMALS) != self.credit_cost:
            raise ValueError("credit_cost has more than two decimals")

    @property
    def hundredths(self) -> int:
        """The cost in hundredths of a credit."""
        return round(self.credit_cost * 100)


class UsageItem(Struct, frozen=True, gc=False):
    """What one message used. No report priced it where `report_name` is left out."""

    message_id: int
    timestamp: str
    report_name: str | UnsetType
    credits_used: float


class UsageAnswer(Struct, frozen=True):
    """The current period's usage: one item for each message, in upstream's order."""

    usage: list[UsageItem]


class StepTaken(Struct, frozen=True):
    """One step of a price: what it added (or took off), and the total after it."""

    step: str
    credits: float
    total: float


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a message costs what it costs; the steps add up to `credits_used`."""

    message_id: int
    timestamp: str
    report_name: str | UnsetType = UNSET
    credits_used: float
    source: Source
    plan: str
    steps: list[StepTaken]


class DayUsage(Struct, frozen=True):
    """What one day used; `date` is `YYYY-MM-DD` in the zone that was asked for."""

    date: str
    messages: int
    credits_used: float


class DailyUsage(Struct, frozen=True):
    """Every day from the period's first to its last, those without messages too."""

    days: list[DayUsage]


class ReportUsage(Struct, frozen=True):
    """What the messages priced by one report used together."""

    report_name: str
    messages: int
    credits_used: float


class TextUsage(Struct, frozen=True):
    """What the messages priced by their text used together."""

    messages: int
    credits_used: float


class UsageByReport(Struct, frozen=True):
    """Usage by report name, the dearest first, and of the text-priced messages."""

    reports: list[ReportUsage]
    text: TextUsage


class PlanItem(Struct, frozen=True):
    """A plan that `?plan=` takes; the default one prices where none is asked for."""

    plan: str
    is_default: bool


class PlansAnswer(Struct, frozen=True):
    """Every plan with its version, the default one first."""

    plans: list[PlanItem]
