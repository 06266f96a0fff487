"""The bodies that queries on a snapshot give: the published contract of `/usage`.

Plain frozen structs. Credits are numbers with at most two decimals.
"""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Source = Literal["report", "text"]


class UsageItem(Struct, frozen=True, gc=False):
    """The usage of one message; `report_name` is left out where its text priced it."""

    message_id: int
    timestamp: str
    report_name: str | UnsetType
    credits_used: float


class UsageAnswer(Struct, frozen=True):
    """The current period's usage: one item for each message, in upstream's order."""

    usage: list[UsageItem]


class StepTaken(Struct, frozen=True):
    """One step of a price: the credits that it added or took off, and the new total."""

    step: str
    credits: float
    total: float


class Explanation(Struct, frozen=True, kw_only=True):
    """The steps of one message's price; they add up to `credits_used`."""

    message_id: int
    timestamp: str
    report_name: str | UnsetType = UNSET
    credits_used: float
    source: Source
    plan: str
    steps: list[StepTaken]


class DayUsage(Struct, frozen=True):
    """The usage of one day; `date` is `YYYY-MM-DD` in the requested time zone."""

    date: str
    messages: int
    credits_used: float


class DailyUsage(Struct, frozen=True):
    """The usage of every day from the period's first to its last.

    `gaps_omitted` is true where these are more than 3,700 days: then only days that
    have messages are listed. Otherwise it is left out.
    """

    days: list[DayUsage]
    gaps_omitted: bool | UnsetType = UNSET


class ReportUsage(Struct, frozen=True):
    """The usage of all messages that one report priced."""

    report_name: str
    messages: int
    credits_used: float


class TextUsage(Struct, frozen=True):
    """The usage of all messages that their texts priced."""

    messages: int
    credits_used: float


class UsageByReport(Struct, frozen=True):
    """Usage by report name, the most expensive first, and of text-priced messages."""

    reports: list[ReportUsage]
    text: TextUsage
