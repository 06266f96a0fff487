"""Pricing of a file of messages without a server, into NDJSON or CSV.

There is no upstream to request reports from, so the texts price all messages. Messages
that name a report are counted, because the service would price them by the report.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from service.usage.message_file import FileMessage, read_messages
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT, Plan
from service.usage.snapshots.answers import StepTaken
from service.usage.snapshots.columns import steps_taken, to_credits
from service.usage.snapshots.formats import CSV_HEADER
from service.usage.snapshots.messages import report_key


class PricedMessage(Struct, frozen=True, gc=False):
    """A line of output: the item of `GET /usage`, optionally with its steps."""

    message_id: int
    timestamp: str | UnsetType
    credits_used: float
    steps: list[StepTaken] | UnsetType = UNSET


@dataclass
class FileTotals:
    """The totals of the messages that were priced."""

    messages: int = 0
    naming_reports: int = 0
    """Messages with a usable report id."""
    hundredths: int = 0

    def summary(self) -> str:
        """Return the totals as one line of text."""
        return (
            f"messages: {self.messages}; credits: {to_credits(self.hundredths)}; "
            f"naming a report, yet priced by text: {self.naming_reports}"
        )


FileEncoder = Callable[[Plan, Sequence[FileMessage], Sequence[float]], bytes]
"""Encodes messages with their prices in credits."""


class FileFormat(NamedTuple):
    """A format of the priced messages; `head` precedes all of them."""

    encode: FileEncoder
    head: bytes = b""


_encoder: Final = msgspec.json.Encoder()


def rate_file(
    source: BinaryIO, sink: BinaryIO, plan: Plan, output: FileFormat
) -> FileTotals:
    """Price every message of `source` by its text, and write it to `sink`.

    Raises `MessageFileError` after writing the messages before the invalid one, and
    `OSError` if the sink fails.
    """
    totals = FileTotals()
    sink.write(output.head)
    for messages in read_messages(source):
        hundredths = plan.rate([message.text for message in messages])
        credits_used = (hundredths / HUNDREDTHS_PER_CREDIT).tolist()
        sink.write(output.encode(plan, messages, credits_used))
        totals.messages += len(messages)
        totals.naming_reports += _count_naming_reports(messages)
        totals.hundredths += int(hundredths.sum())
    return totals


def to_ndjson(
    _plan: Plan, messages: Sequence[FileMessage], credits_used: Sequence[float]
) -> bytes:
    """Encode one item a line."""
    return _encoder.encode_lines(
        [
            PricedMessage(message.id, message.timestamp, cost)
            for message, cost in zip(messages, credits_used, strict=True)
        ]
    )


def to_explained_ndjson(
    plan: Plan, messages: Sequence[FileMessage], credits_used: Sequence[float]
) -> bytes:
    """Encode one item a line, with the steps of its price."""
    amounts = plan.amounts([message.text for message in messages])
    rows = zip(messages, credits_used, amounts.T.tolist(), strict=True)
    return _encoder.encode_lines(
        [
            PricedMessage(message.id, message.timestamp, cost, steps_taken(plan, own))
            for message, cost, own in rows
        ]
    )


def to_csv(
    _plan: Plan, messages: Sequence[FileMessage], credits_used: Sequence[float]
) -> bytes:
    """Encode as RFC 4180 with the columns of `GET /usage`, without the header."""
    return _csv_rows(
        (
            message.id,
            "" if message.timestamp is UNSET else message.timestamp,
            "",
            cost,
        )
        for message, cost in zip(messages, credits_used, strict=True)
    )


def _csv_rows(rows: Iterable[Sequence[object]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8")


NDJSON: Final = FileFormat(to_ndjson)
EXPLAINED_NDJSON: Final = FileFormat(to_explained_ndjson)
CSV: Final = FileFormat(to_csv, head=_csv_rows([CSV_HEADER]))


def _count_naming_reports(messages: Sequence[FileMessage]) -> int:
    ids = [m.report_id for m in messages if m.report_id is not UNSET]
    return sum(report_key(report_id) is not None for report_id in ids)
