"""Priced messages: one period under one plan, as immutable columns.

A column has one element for each message, in the upstream's order. The contract's JSON
is encoded once; the items of other selections are slices of it.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.usage.pricing.plans import (
    HUNDREDTHS_PER_CREDIT,
    Hundredths,
    Plan,
)
from service.usage.pricing.text import Flags
from service.usage.snapshots.answers import PriceSource, StepTaken, UsageItem
from service.usage.snapshots.messages import Messages
from service.usage.snapshots.quarter_sums import QuarterSums, sum_up

MessageRows = NDArray[np.intp]
"""Indexes of messages in the upstream's order: `(n_rows,)` intp."""
Steps = NDArray[np.int32] | NDArray[np.int64]
"""Amounts of steps: `(n_steps, n_messages)`, hundredths of a credit."""
Buffer = bytes | mmap.mmap

BY_TEXT: Final = -1
"""Marks in `PricedMessages.name_of` a message that its text priced."""
REPORT_STEP: Final = "report"

ANSWER_BEGIN: Final = b'{"usage":['
ANSWER_END: Final = b"]}"
COMMA: Final = b","

SEARCHED_BYTES: Final = 256 * 1024
"""Larger arrays do not fit the processor's cache."""


class Summary(NamedTuple):
    """The totals of a period under a plan."""

    plan: str
    messages: int
    credits_total: float
    degraded: int
    """Messages priced by their texts because a report was unavailable."""
    begins_on: str | None = None
    """The date of the first message, in UTC: `2024-04-29`; None without messages."""


@dataclass(eq=False, kw_only=True)
class PricedMessages:
    """Messages and their prices.

    Only `answer` may be replaced, by an equal one in shared memory.
    """

    messages: Messages
    plan: Plan
    hundredths: Hundredths
    """`(n_messages,)` int64: prices in hundredths of a credit."""
    steps: Steps
    """Amount of each step of the plan; 0 where a report priced the message."""
    names: list[str]
    """The names of the reports that priced messages, each once."""
    name_of: NDArray[np.int32]
    """`(n_messages,)` int32: each message's index in `names`, or `BY_TEXT`."""
    by_text: Flags
    """`(n_messages,)` bool: true where no report priced the message."""
    refresh_ids: list[str]
    """The refreshes that priced messages of this period."""
    refresh_of: NDArray[np.int32]
    """`(n_messages,)` int32: each message's index in `refresh_ids`."""
    degraded: int
    values_since: str = ""
    """The refresh that last changed a price, a report name or a time of a message."""
    order_since: str = ""
    """The refresh that last changed the order of messages that stayed."""
    answer: Buffer = b""
    """The whole period as the contract's JSON."""
    hashed: Any = None
    """The hash of `answer` without its end, to be continued by the next refresh."""

    def __len__(self) -> int:
        return len(self.name_of)

    @property
    def answer_digest(self) -> str | None:
        """The digest of `answer`, as its ETag has it; None in an adopted snapshot."""
        if self.hashed is None:
            return None
        hashed = self.hashed.copy()
        hashed.update(ANSWER_END)
        digest: str = hashed.hexdigest()
        return digest

    @property
    def summary(self) -> Summary:
        """The totals of these messages."""
        total = to_credits(int(self.hundredths.sum()))
        begins_on = self.begin.partition("T")[0] if self.begin else None
        return Summary(self.plan.id, len(self), total, self.degraded, begins_on)

    @property
    def begin(self) -> str | None:
        """The time of the first message, as ISO 8601 in UTC; None without messages."""
        if not len(self):
            return None
        # An offset may move it out of the years of `datetime`, but not of numpy.
        return f"{self.messages.instants.min().astype('datetime64[us]')}Z"

    @cached_property
    def item_begins(self) -> MessageRows:
        """The begin of each item in `answer`, and of the one that would follow them.

        `(n_messages + 1,)` intp, in bytes.
        """
        return self.find_items(len(ANSWER_BEGIN))

    @cached_property
    def quarter_sums(self) -> QuarterSums:
        """The messages and their prices by quarter of an hour."""
        return sum_up(self.messages.instants, self.hundredths)

    def find_items(self, at: int) -> MessageRows:
        """Return the begins of the items from a byte of `answer` on, as above."""
        # An item begins with `{"m`. No string contains that, because JSON escapes
        # quotes, and a string's last quote precedes a comma or a brace.
        answer = np.frombuffer(self.answer, np.uint8)
        begins = []
        for begin in range(at, len(answer), SEARCHED_BYTES):
            marks = answer[begin : begin + SEARCHED_BYTES + 2]
            braces = np.flatnonzero(marks[:-2] == ord("{"))
            is_item = (marks[braces + 1] == ord('"')) & (marks[braces + 2] == ord("m"))
            begins.append(braces[is_item] + begin)
        return np.concatenate([*begins, [len(answer) - len(ANSWER_END) + len(COMMA)]])

    def encoded_items(self, rows: MessageRows) -> list[bytes]:
        """Return the encoded items of these rows, as slices of `answer`."""
        begins, answer = self.item_begins, self.answer
        ends = begins[rows + 1] - len(COMMA)
        bounds = zip(begins[rows].tolist(), ends.tolist(), strict=True)
        return [answer[begin:end] for begin, end in bounds]

    def items(self, rows: MessageRows | slice) -> list[UsageItem]:
        """Return the items of these rows."""
        timestamps = self.messages.timestamps
        names = np.array([*self.names, UNSET], dtype=object)  # BY_TEXT is the last
        return list(
            map(
                UsageItem,
                self.messages.ids[rows].tolist(),
                timestamps[rows] if isinstance(rows, slice) else timestamps.take(rows),
                names[self.name_of[rows]].tolist(),
                (self.hundredths[rows] / HUNDREDTHS_PER_CREDIT).tolist(),
            )
        )

    def source(self, row: int) -> PriceSource:
        """Return the source of a message's price."""
        return "text" if self.name_of[row] == BY_TEXT else "report"

    def steps_of(self, row: int) -> list[StepTaken]:
        """Return the steps of a message's price."""
        if self.name_of[row] == BY_TEXT:
            return steps_taken(self.plan, self.steps[:, row].tolist())
        price = to_credits(int(self.hundredths[row]))
        return [StepTaken(REPORT_STEP, price, price)]


def steps_taken(plan: Plan, amounts: Sequence[int]) -> list[StepTaken]:
    """Return the steps of a plan with running totals; amounts are in hundredths."""
    totals = accumulate(amounts)
    rows = zip(plan.steps, amounts, totals, strict=True)
    return [
        StepTaken(step.name, to_credits(amount), to_credits(total))
        for step, amount, total in rows
    ]


def to_credits(hundredths: int) -> float:
    """Return hundredths as credits; their shortest form has at most two decimals."""
    return hundredths / HUNDREDTHS_PER_CREDIT
