"""Priced messages: one period under one plan, as immutable columns.

A column has one element for each message, in upstream's order. The contract's JSON is
encoded once; every other selection of messages is cut out of it.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.usage.pricing.plans import (
    HUNDREDTHS_PER_CREDIT,
    Hundredths,
    Plan,
)
from service.usage.snapshots.answers import Source, StepTaken, UsageItem
from service.usage.snapshots.messages import Messages

Rows = NDArray[np.intp]
"""Places of messages in upstream's order."""
Flags = NDArray[np.bool_]
Steps = NDArray[np.int32] | NDArray[np.int64]
"""Amounts of steps in hundredths, `(n_steps, n_messages)`."""
Buffer = bytes | mmap.mmap

BY_TEXT: Final = -1
"""In `PricedMessages.name_of`: no report priced this message."""
REPORT_STEP: Final = "report"

ANSWER_BEGIN: Final = b'{"usage":['
ANSWER_END: Final = b"]}"
COMMA: Final = b","


class Summary(NamedTuple):
    """The totals of a period under a plan."""

    plan: str
    messages: int
    credits_total: float
    degraded: int
    """Messages priced by their texts because a report was unavailable."""


@dataclass(eq=False, kw_only=True)
class PricedMessages:
    """Messages and their prices. Nothing changes, but `answer` may move in memory."""

    messages: Messages
    plan: Plan
    hundredths: Hundredths
    """`(n_messages,)` int64: prices in hundredths of a credit."""
    steps: Steps
    """What each step of the plan added; 0 where a report priced the message."""
    names: list[str]
    """The names of the reports that priced messages, each once."""
    name_of: NDArray[np.int32]
    """`(n_messages,)`: each message's place in `names`, or `BY_TEXT`."""
    by_text: Flags
    """`(n_messages,)`: true where no report priced the message."""
    refresh_ids: list[str]
    """The refreshes that priced messages of this period."""
    refresh_of: NDArray[np.int32]
    """`(n_messages,)`: each message's place in `refresh_ids`."""
    degraded: int
    answer: Buffer = b""
    """The whole period as the contract's JSON."""

    def __len__(self) -> int:
        return len(self.name_of)

    @property
    def summary(self) -> Summary:
        """The totals of these messages."""
        total = to_credits(int(self.hundredths.sum()))
        return Summary(self.plan.id, len(self), total, self.degraded)

    @cached_property
    def item_bounds(self) -> tuple[Rows, Rows]:
        """The offsets in `answer` where each item begins, and where it ends.

        An item begins with `{"m`. Nothing inside a string reads so: JSON escapes its
        quotes, and the quote that ends one is followed by a comma or a brace.
        """
        marks = np.frombuffer(self.answer, np.uint8)
        braces = np.flatnonzero(marks[:-2] == ord("{"))
        is_item = (marks[braces + 1] == ord('"')) & (marks[braces + 2] == ord("m"))
        begins = braces[is_item]
        last_end = len(self.answer) - len(ANSWER_END)
        ends = np.append(begins[1:] - len(COMMA), last_end)
        return begins, ends[: len(begins)]

    def encoded_items(self, rows: Rows) -> list[bytes]:
        """Return the encoded items of these rows, cut out of `answer`."""
        begins, ends = self.item_bounds
        bounds = zip(begins[rows].tolist(), ends[rows].tolist(), strict=True)
        answer = self.answer
        return [answer[begin:end] for begin, end in bounds]

    def items(self, begin: int, end: int) -> list[UsageItem]:
        """Return the items of a run of rows."""
        names = np.array([*self.names, UNSET], dtype=object)  # BY_TEXT is the last
        return list(
            map(
                UsageItem,
                self.messages.ids[begin:end].tolist(),
                self.messages.timestamps[begin:end],
                names[self.name_of[begin:end]].tolist(),
                (self.hundredths[begin:end] / HUNDREDTHS_PER_CREDIT).tolist(),
            )
        )

    def source(self, row: int) -> Source:
        """Return what priced a message."""
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
    """Return hundredths as credits; the number's shortest form has two decimals."""
    return hundredths / HUNDREDTHS_PER_CREDIT
