"""The prices of one build that the serving process logs, and the period's sums."""

from typing import Final, NamedTuple

from service.usage.snapshots.answers import PriceSource, StepTaken
from service.usage.snapshots.build import Built
from service.usage.snapshots.columns import (
    MessageRows,
    PricedMessages,
    Summary,
    to_credits,
)
from service.usage.snapshots.messages import ReportKey
from service.usage.snapshots.quarter_sums import QuarterSums

MAX_QUARTERS: Final = 16_000
"""Those of 166 days, of which the serving process makes days in some milliseconds."""


class PriceLogging(NamedTuple):
    """The refresh that logs prices, and the maximum number of logged messages."""

    refresh_id: str
    max_messages: int


class LoggedPrice(NamedTuple):
    """The price of one message with its steps, for the log."""

    message_id: int
    source: PriceSource
    report_id: ReportKey | None
    credits_used: float
    steps: list[StepTaken]


class Priced(NamedTuple):
    """The sums of a period under a plan, and the messages priced now."""

    summary: Summary
    reused: int
    logged: list[LoggedPrice]
    """The first messages priced now, at most `PriceLogging.max_messages`."""
    omitted: int
    """The number of other messages priced now."""
    answer_digest: str | None
    """`PricedMessages.answer_digest`."""
    quarter_sums: QuarterSums | None
    """None if they are more than `MAX_QUARTERS`."""


def describe(built: Built, max_logged: int) -> Priced:
    """Return the sums, and the first `max_logged` messages priced now."""
    priced, new = built
    sums = priced.quarter_sums
    logged = _logged_prices(priced, new[:max_logged])
    return Priced(
        summary=priced.summary,
        reused=len(priced) - len(new),
        logged=logged,
        omitted=len(new) - len(logged),
        answer_digest=priced.answer_digest,
        quarter_sums=sums if len(sums.quarters) <= MAX_QUARTERS else None,
    )


def _logged_prices(priced: PricedMessages, rows: MessageRows) -> list[LoggedPrice]:
    messages = priced.messages
    keys = [*messages.report_keys, None]  # NO_REPORT is the last
    return [
        LoggedPrice(
            message_id=int(messages.ids[row]),
            source=priced.source(row),
            report_id=keys[messages.report_of[row]],
            credits_used=to_credits(int(priced.hundredths[row])),
            steps=priced.steps_of(row),
        )
        for row in rows.tolist()
    ]
