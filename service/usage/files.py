"""Prices a file of messages with no server: JSON or NDJSON in, NDJSON or CSV out.

There is no upstream here to ask for reports, so every message is priced by its text;
those that name a report are counted, since the service would price them by it.

NDJSON is read, priced and written some lines at a time, in constant memory. A JSON
document, `{"messages": […]}` or a bare list, is read whole. The first message that
cannot be read ends the run, after all before it in NDJSON have been written; of a
document that has one, nothing is priced.

FileError
├── UnreadableFile  the file cannot be read, or is not UTF-8
└── BadMessage      a line, or the document, does not hold what it should
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT, Plan
from service.usage.pricing.text import MAX_BATCH
from service.usage.snapshots.answers import StepTaken
from service.usage.snapshots.columns import steps_taken, to_credits
from service.usage.snapshots.formats import CSV_HEADER
from service.usage.snapshots.messages import report_key

READ_SIZE_BYTES: Final = 512 * 1024
"""Lines read at once: as many as begin within so many bytes."""

LF: Final = b"\n"
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)

_DOCUMENT_BEGINS: Final = re.compile(rb'\s*(\[|\{\s*("messages"\s*:|$))')
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class FileError(Exception):
    """A file that cannot be priced to its end; the text says why in one line."""


class UnreadableFile(FileError):
    """The file cannot be read, or is not UTF-8."""


class BadMessage(FileError):
    """A line, or the document, is not JSON or does not hold what it should."""


class FileMessage(Struct, frozen=True, gc=False):
    """A message of a file: as upstream tells it, but the timestamp may be left out."""

    id: int
    text: str
    timestamp: str | UnsetType = UNSET
    report_id: Any = UNSET


class PricedMessage(Struct, frozen=True, gc=False):
    """A line of output: the item of `GET /usage`, and the steps if asked for."""

    message_id: int
    timestamp: str | UnsetType
    credits_used: float
    steps: list[StepTaken] | UnsetType = UNSET


@dataclass
class Tally:
    """The totals of a file, so far."""

    messages: int = 0
    naming_reports: int = 0
    """Messages with a usable report id."""
    hundredths: int = 0

    def summary(self) -> str:
        """The same in words."""
        return (
            f"messages: {self.messages}; credits: {to_credits(self.hundredths)}; "
            f"naming a report, yet priced by text: {self.naming_reports}"
        )


Encode = Callable[[Plan, Sequence[FileMessage], Sequence[float]], bytes]
"""Writes messages that cost so many credits each."""


class Output(NamedTuple):
    """A way to write the priced messages; `head` goes before all of them."""

    encode: Encode
    head: bytes = b""


class _Document(Struct):
    messages: list[FileMessage]


class _Probe(Struct):
    messages: msgspec.Raw | UnsetType = UNSET


_encoder: Final = msgspec.json.Encoder()
_decode_message: Final = msgspec.json.Decoder(FileMessage).decode
_decode_probe: Final = msgspec.json.Decoder(_Probe).decode
_decode_document: Final = msgspec.json.Decoder(list[FileMessage] | _Document).decode


def rate_file(source: BinaryIO, sink: BinaryIO, plan: Plan, output: Output) -> Tally:
    """Price every message of `source` by its text, and write it to `sink`.

    Raises `FileError` when all that was priced before has been written; an
    `OSError` is of the sink.
    """
    tally = Tally()
    sink.write(output.head)
    for messages in read_messages(source):
        hundredths = plan.rate([message.text for message in messages])
        credits_used = (hundredths / HUNDREDTHS_PER_CREDIT).tolist()
        sink.write(output.encode(plan, messages, credits_used))
        tally.messages += len(messages)
        tally.naming_reports += _count_naming_reports(messages)
        tally.hundredths += int(hundredths.sum())
    return tally


def read_messages(source: BinaryIO) -> Iterator[Sequence[FileMessage]]:
    """The messages of a file, some at a time; raises `FileError`."""
    try:
        number, first = _first_line(source)
        if _begins_document(first):
            yield from _read_document(first + source.read(), number)
        else:
            yield from _read_lines(first, source, number)
    except OSError as error:
        raise UnreadableFile(error.strerror or str(error)) from error


def to_ndjson(
    _plan: Plan, messages: Sequence[FileMessage], credits_used: Sequence[float]
) -> bytes:
    """One item a line."""
    return _encoder.encode_lines(
        [
            PricedMessage(message.id, message.timestamp, cost)
            for message, cost in zip(messages, credits_used, strict=True)
        ]
    )


def to_explained_ndjson(
    plan: Plan, messages: Sequence[FileMessage], credits_used: Sequence[float]
) -> bytes:
    """One item a line, each with the steps of its price."""
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
    """RFC 4180, in the columns of `GET /usage`."""
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


NDJSON: Final = Output(to_ndjson)
EXPLAINED_NDJSON: Final = Output(to_explained_ndjson)
CSV: Final = Output(to_csv, head=_csv_rows([CSV_HEADER]))


def _count_naming_reports(messages: Sequence[FileMessage]) -> int:
    ids = [m.report_id for m in messages if m.report_id is not UNSET]
    return sum(report_key(report_id) is not None for report_id in ids)


def _first_line(source: BinaryIO) -> tuple[int, bytes]:
    """The first line that is not blank, without a byte order mark, and its number."""
    number, line = 1, source.readline().removeprefix(codecs.BOM_UTF8)
    while line.isspace():
        number, line = number + 1, source.readline()
    return number, line


def _begins_document(first: bytes) -> bool:
    """Return whether a line begins a JSON document, rather than being a message.

    The beginning decides, since a document may continue on further lines.
    """
    if _DOCUMENT_BEGINS.match(first):
        return True
    try:
        return _decode_probe(first).messages is not UNSET
    except UNDECODABLE:
        return False


def _read_document(body: bytes, number: int) -> Iterator[Sequence[FileMessage]]:
    """The messages of a document that begins at this line."""
    try:
        decoded = _decode_document(body)
    except UNDECODABLE as error:
        raise _explain_document(error, body, number) from error
    messages = decoded.messages if isinstance(decoded, _Document) else decoded
    for at in range(0, len(messages), MAX_BATCH):
        yield messages[at : at + MAX_BATCH]


def _read_lines(
    first: bytes, source: BinaryIO, number: int
) -> Iterator[Sequence[FileMessage]]:
    """The messages of lines, the first of which has this number."""
    lines = [first] if first else []
    while lines:
        messages, error = _decode_lines(lines, number)
        yield messages
        if error is not None:
            raise error
        number += len(lines)
        lines = source.readlines(READ_SIZE_BYTES)


def _decode_lines(
    lines: list[bytes], number: int
) -> tuple[list[FileMessage], FileError | None]:
    """The messages before the first line that holds none, and what is wrong there."""
    messages: list[FileMessage] = []
    for place, line in enumerate(lines, number):
        if line.isspace():
            continue
        try:
            messages.append(_decode_message(line))
        except UNDECODABLE as error:
            return messages, _explain_line(error, line, place)
    return messages, None


def _explain_line(error: Exception, line: bytes, number: int) -> FileError:
    if _first_not_utf8(line) is not None:
        return UnreadableFile(f"line {number}: not UTF-8")
    return BadMessage(f"line {number}: {_reason(error)}")


def _explain_document(error: Exception, body: bytes, number: int) -> FileError:
    """Name the line where the document is no JSON, or else the path in it."""
    not_utf8 = _first_not_utf8(body)
    if not_utf8 is not None:
        return UnreadableFile(f"line {number + body.count(LF, 0, not_utf8)}: not UTF-8")
    if isinstance(error, msgspec.ValidationError):
        return BadMessage(_reason(error))
    byte = _BYTE.search(str(error))
    end = int(byte[1]) if byte else len(body.rstrip())
    return BadMessage(f"line {number + body.count(LF, 0, end)}: {_reason(error)}")


def _first_not_utf8(raw: bytes) -> int | None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _reason(error: Exception) -> str:
    """Return msgspec's message, with the invalid field before it."""
    text, _, path = str(error).partition(" - at `$")
    if not text.startswith("JSON"):
        text = text[:1].lower() + text[1:]
    field = path.strip(".`")
    return f"{field}: {text}" if field else text
