"""Reading of files of messages: NDJSON, or one JSON document.

NDJSON is read some lines at a time, in constant memory. A document,
`{"messages": […]}` or a bare list, is read whole.

MessageFileError
├── UnreadableMessageFile  the file cannot be read, or is not UTF-8
└── BadMessage             a line or the document does not have the expected content
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from service.upstream import lenient_json
from service.usage.pricing.text import MAX_BATCH

READ_SIZE_BYTES: Final = 512 * 1024
"""Lines are read in batches of about this size."""

LF: Final = b"\n"
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_DOCUMENT_BEGINS: Final = re.compile(rb'\s*(\[|\{\s*("messages"\s*:|$))')
"""A line that is not valid JSON by itself, but may be the start of a document."""
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class MessageFileError(Exception):
    """A file that cannot be priced to its end; its text is one line."""


class UnreadableMessageFile(MessageFileError):
    """The file cannot be read, or is not UTF-8."""


class BadMessage(MessageFileError):
    """A line or the document is not JSON, or does not have the expected content."""


class FileMessage(Struct, frozen=True, gc=False):
    """A message of a file: as in the messages API, but the timestamp is optional."""

    id: int
    text: str
    timestamp: str | UnsetType = UNSET
    report_id: Any = UNSET


class _Document(Struct):
    messages: list[FileMessage]


class _Probe(Struct):
    # Raw values are skipped: a whole document may be on the first line.
    messages: msgspec.Raw | UnsetType = UNSET
    id: msgspec.Raw | UnsetType = UNSET
    text: msgspec.Raw | UnsetType = UNSET


class _LenientProbe(Struct):
    messages: Any = UNSET
    id: Any = UNSET
    text: Any = UNSET


_message_decoder: Final = msgspec.json.Decoder(FileMessage)
_decode_probe: Final = msgspec.json.Decoder(_Probe).decode
_lenient_probe_decoder: Final = msgspec.json.Decoder(_LenientProbe)
_document_decoder: Final = msgspec.json.Decoder(list[FileMessage] | _Document)


def read_messages(source: BinaryIO) -> Iterator[Sequence[FileMessage]]:
    """Yield the messages of a file in batches.

    Raises `MessageFileError` after the messages before the first invalid line.
    """
    try:
        number, first = _first_line(source)
        if _begins_document(first):
            yield from _read_document(first + source.read(), number)
        else:
            yield from _read_lines(first, source, number)
    except OSError as error:
        raise UnreadableMessageFile(error.strerror or str(error)) from error


def _first_line(source: BinaryIO) -> tuple[int, bytes]:
    """Return the number and the bytes of the first line that is not blank.

    A byte order mark before it is removed.
    """
    number, line = 1, source.readline().removeprefix(codecs.BOM_UTF8)
    while line.isspace():
        number, line = number + 1, source.readline()
    return number, line


def _begins_document(first: bytes) -> bool:
    """Return whether a line is the start of a document, and not a message."""
    try:
        probe = _probe(first)
    except UNDECODABLE:
        # A document may continue on further lines.
        return _DOCUMENT_BEGINS.match(first) is not None
    # A message may have more fields, also one that is called messages.
    is_message = probe.id is not UNSET and probe.text is not UNSET
    return probe.messages is not UNSET and not is_message


def _probe(line: bytes) -> _Probe | _LenientProbe:
    try:
        return _decode_probe(line)
    except UNDECODABLE:
        return lenient_json.decode(line, _lenient_probe_decoder)


def _read_document(body: bytes, number: int) -> Iterator[Sequence[FileMessage]]:
    """Yield the messages of a document that starts on the line of this number."""
    try:
        decoded = lenient_json.decode(body, _document_decoder)
    except UNDECODABLE as error:
        raise _explain_document(error, body, number) from error
    messages = decoded.messages if isinstance(decoded, _Document) else decoded
    for at in range(0, len(messages), MAX_BATCH):
        yield [_with_valid_time(each) for each in messages[at : at + MAX_BATCH]]


def _read_lines(
    first: bytes, source: BinaryIO, number: int
) -> Iterator[Sequence[FileMessage]]:
    """Yield the messages of lines; the first line has this number."""
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
) -> tuple[list[FileMessage], MessageFileError | None]:
    """Return the messages before the first invalid line, and the error of that line."""
    messages: list[FileMessage] = []
    for line_number, line in enumerate(lines, number):
        if line.isspace():
            continue
        try:
            message = lenient_json.decode(line, _message_decoder)
        except UNDECODABLE as error:
            return messages, _explain_line(error, line, line_number)
        messages.append(_with_valid_time(message))
    return messages, None


def _with_valid_time(message: FileMessage) -> FileMessage:
    """Return the message with a timestamp that the output can be encoded with."""
    timestamp = message.timestamp
    if timestamp is UNSET or not lenient_json.has_surrogate(timestamp):
        return message
    return replace(message, timestamp=lenient_json.without_surrogates(timestamp))


def _explain_line(error: Exception, line: bytes, number: int) -> MessageFileError:
    if _first_not_utf8(line) is not None:
        return UnreadableMessageFile(f"line {number}: not UTF-8")
    return BadMessage(f"line {number}: {_reason(error)}")


def _explain_document(error: Exception, body: bytes, number: int) -> MessageFileError:
    """Return an error that names the line of invalid JSON, or the path of a value."""
    not_utf8 = _first_not_utf8(body)
    if not_utf8 is not None:
        return UnreadableMessageFile(
            f"line {number + body.count(LF, 0, not_utf8)}: not UTF-8"
        )
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
