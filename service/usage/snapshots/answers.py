"""The bodies of answers from a snapshot: the published contract of `/usage`.

Plain frozen structs. Credits are numbers with at most two decimals.
"""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

PriceSource = Literal["report", "text"]


class UsageItem(Struct, frozen=True, gc=False):
    """The usage of one message; without `report_name` if its text priced it."""

    message_id: int
    timestamp: str
    report_name: str | UnsetType
    credits_used: float


class UsageAnswer(Struct, frozen=True):
    """The current period's usage: an item for each message, in the upstream's order."""

    usage: list[UsageItem]


class StepTaken(Struct, frozen=True):
    """One step of a price: the credits that it adds, and the new total."""

    step: str
    credits: float
    total: float


class Explanation(Struct, frozen=True, kw_only=True):
    """The steps of one message's price; they add up to `credits_used`."""

    message_id: int
    timestamp: str
    report_name: str | UnsetType = UNSET
    credits_used: float
    source: PriceSource
    plan: str
    steps: list[StepTaken]


class DayUsage(Struct, frozen=True):
    """The usage of one day; `date` is `YYYY-MM-DD` in the requested time zone."""

    date: str
    messages: int
    credits_used: float


class DailyUsage(Struct, frozen=True):
    """The usage of every day from the first message to the last.

    A period of more than 3,700 days lists only days with messages, and has
    `gaps_omitted`: true.
    """

    days: list[DayUsage]
    gaps_omitted: bool | UnsetType = UNSET


class ReportUsage(Struct, frozen=True):
    """The usage of the messages that one report priced."""

    report_name: str
    messages: int
    credits_used: float


class TextUsage(Struct, frozen=True):
    """The usage of the messages that their texts priced."""

    messages: int
    credits_used: float


class UsageByReport(Struct, frozen=True):
    """Usage by report, the most expensive first, and of messages priced by text."""

    reports: list[ReportUsage]
    text: TextUsage
