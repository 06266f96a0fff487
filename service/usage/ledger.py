"""The ledger: one period's messages with their prices, as columns.

A ledger is made once for each refresh and plan, and never changes. Prices are exact
hundredths. The answer is encoded once; any selection of messages is cut out of it.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.usage.errors import MessageNotFound
from service.usage.model import (
    CurrentPeriod,
    Explanation,
    Message,
    Source,
    StepTaken,
)
from service.usage.rating import HUNDREDTHS_PER_CREDIT, Hundredths, Plan, RatedStep
from service.usage.reports import ReportKey, Settled, report_key
from service.usage.timestamps import Instants, read_instants

Rows = NDArray[np.intp]
"""Places of messages in upstream's order."""

Flags = NDArray[np.bool_]

Body = bytes | bytearray | mmap.mmap
Buffer = bytes | mmap.mmap

BY_TEXT: Final = -1
"""In the column of reports: no report priced this message."""

ANSWER_BEGIN: Final = b'{"usage":['
ANSWER_END: Final = b"]}"

_period_decoder: Final = msgspec.json.Decoder(CurrentPeriod)


class References(NamedTuple):
    """The report ids of a period: the usable ones as columns, and the others."""

    rows: Rows
    """Rows with a usable report id."""
    places: Rows
    """Where the key of each of these rows stands in `keys`."""
    keys: list[ReportKey]
    """Every key once, in the order of first use."""
    invalid_ids: dict[int, Any]
    """The report id of each row where it is not usable."""


@dataclass(frozen=True, eq=False)
class Messages:
    """Upstream's messages, checked, with the columns that pricing needs."""

    all: list[Message]
    timestamps: list[str]
    instants: Instants

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The messages' ids."""
        return np.array([message.id for message in self.all], np.int64)

    @cached_property
    def references(self) -> References:
        """Which rows name which report."""
        return _refer([message.report_id for message in self.all])

    def key_of(self, row: int) -> ReportKey | None:
        """The report key of a row that has a usable report id."""
        report_id = self.all[row].report_id
        return None if report_id is UNSET else report_key(report_id)


Columns = tuple[list[int], list[str], list[Any], list[float]]
"""Fields of items: ids, timestamps, names or UNSET, credits."""


@dataclass(eq=False, kw_only=True)
class Prices:
    """Messages and what they cost."""

    messages: Messages
    hundredths: Hundredths
    names: list[str]
    """The names of the reports that priced something, each once."""
    name_of: NDArray[np.int32]
    """Each row's place in `names`, or `BY_TEXT`."""

    @cached_property
    def by_text(self) -> Flags:
        """Which rows no report priced."""
        flags: Flags = self.name_of == BY_TEXT
        return flags

    def columns(self, begin: int, end: int) -> Columns:
        """The fields of the items in a run of rows."""
        names = np.array([*self.names, UNSET], dtype=object)  # BY_TEXT is the last
        return (
            [message.id for message in self.messages.all[begin:end]],
            self.messages.timestamps[begin:end],
            names[self.name_of[begin:end]].tolist(),
            (self.hundredths[begin:end] / HUNDREDTHS_PER_CREDIT).tolist(),
        )


@dataclass(eq=False, kw_only=True)
class Ledger(Prices):
    """The priced messages of a period under one plan; columns have a row a message.

    Nothing in it changes, but that `answer` may move to other memory.
    """

    plan: Plan
    fresh: Rows
    """The rows that were not carried over, priced alike, from the ledger before."""
    settled: Settled
    answer: Buffer
    """The whole period as the contract's JSON."""

    def __len__(self) -> int:
        return len(self.messages.all)

    @property
    def credits_total(self) -> float:
        """What the whole period has used, in credits."""
        return to_credits(int(self.hundredths.sum()))

    @cached_property
    def degraded(self) -> int:
        """Messages priced by text only because their report could not be had."""
        references, failed = self.messages.references, self.settled.failed
        is_failed = np.array([key in failed for key in references.keys], np.bool_)
        return int(np.count_nonzero(is_failed[references.places]))

    @property
    def missing_reports(self) -> int:
        """Reports that upstream says do not exist."""
        absent = sum(report is None for report in self.settled.reports.values())
        return absent - len(self.settled.failed)

    @cached_property
    def item_bounds(self) -> tuple[Rows, Rows]:
        """Where each item begins in `answer`, and where it has ended.

        An item begins with `{"m`. Nothing inside a string reads so: JSON escapes its
        quotes, and the quote that ends one is followed by a comma or a brace.
        """
        marks = np.frombuffer(self.answer, np.uint8)
        braces = np.flatnonzero(marks[:-2] == ord("{"))
        is_item = (marks[braces + 1] == ord('"')) & (marks[braces + 2] == ord("m"))
        begins = braces[is_item]
        last_end = len(self.answer) - len(ANSWER_END)
        ends = np.append(begins[1:] - len(","), last_end)
        return begins, ends[: len(begins)]

    def items(self, rows: Rows) -> list[bytes]:
        """The encoded items of these rows, cut out of `answer`."""
        begins, ends = self.item_bounds
        bounds = zip(begins[rows].tolist(), ends[rows].tolist(), strict=True)
        answer = self.answer
        return [answer[begin:end] for begin, end in bounds]

    def source(self, row: int) -> Source:
        """What priced a row."""
        return "text" if self.name_of[row] == BY_TEXT else "report"

    def row_of(self, message_id: int) -> int:
        """The first row with this id; `MessageNotFound` where there is none."""
        rows = np.flatnonzero(self.messages.ids == message_id)
        if not len(rows):
            raise MessageNotFound(message_id)
        return int(rows[0])

    def steps(self, rows: Sequence[int]) -> list[list[StepTaken]]:
        """How the price of each of these rows came about."""
        by_text = [row for row in rows if self.source(row) == "text"]
        texts = [self.messages.all[row].text for row in by_text]
        explained = dict(zip(by_text, self.plan.explain(texts), strict=True))
        return [
            [
                StepTaken(step.name, to_credits(step.amount), to_credits(step.total))
                for step in explained.get(row) or [self._report_step(row)]
            ]
            for row in rows
        ]

    def explain(self, message_id: int) -> Explanation:
        """Why the message costs what it costs; `MessageNotFound` without one."""
        row = self.row_of(message_id)
        message = self.messages.all[row]
        source = self.source(row)
        return Explanation(
            message_id=message.id,
            timestamp=message.timestamp,
            report_name=UNSET if source == "text" else self.names[self.name_of[row]],
            credits_used=to_credits(int(self.hundredths[row])),
            source=source,
            plan=self.plan.id,
            steps=self.steps([row])[0],
        )

    def _report_step(self, row: int) -> RatedStep:
        amount = int(self.hundredths[row])
        return RatedStep("report", amount, amount)


def to_credits(hundredths: int) -> float:
    """Hundredths as the number of credits, whose shortest form has two decimals."""
    return hundredths / HUNDREDTHS_PER_CREDIT


def _refer(report_ids: list[Any]) -> References:
    rows: list[int] = []
    places: list[int] = []
    place_of: dict[ReportKey, int] = {}
    invalid_ids: dict[int, Any] = {}
    for row, report_id in enumerate(report_ids):
        if report_id is UNSET:
            continue
        key = report_key(report_id)
        if key is None:
            invalid_ids[row] = report_id
            continue
        rows.append(row)
        places.append(place_of.setdefault(key, len(place_of)))
    return References(
        np.array(rows, np.intp), np.array(places, np.intp), list(place_of), invalid_ids
    )


def read_messages(body: Body) -> Messages:
    """Decode a body of upstream; `msgspec.DecodeError` where it breaks the contract."""
    messages = _period_decoder.decode(memoryview(body)).messages
    timestamps = [message.timestamp for message in messages]
    try:
        return Messages(messages, timestamps, read_instants(timestamps))
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from error
