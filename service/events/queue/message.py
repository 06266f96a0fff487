"""Messages of the stream: the events of one request, as its collector parsed them.

The writer stores them without another validation. Events are encoded without their
texts, which would nearly double the size; only those of stock clients have them.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final
from zlib import crc32

import msgspec
import zstandard
from msgspec import Meta, Struct

from service.events.backlog import Reservation
from service.events.errors import EventsError, EventTooLarge
from service.events.model import Event, EventFailure, EventResult
from service.events.receipts import result_of
from service.events.store import Stored

VERSION: Final = 1
LEVEL: Final = 1
"""Of zstandard: three servers replicate and store a third of the bytes then, which
saves them several times the processor time that it costs here."""
MIN_COMPRESSED_BYTES: Final = 1_024
"""Smaller messages hardly get smaller."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Size of a message that is decompressed: several times that of any request."""

Address = Annotated[
    str, Meta(pattern=r"^(_INBOX(\.[A-Za-z0-9_-]+)+)?\Z", max_length=200)
]
"""A subject for an `Outcome`, or no text.

Another program may publish any text. The server or the library would refuse what is no
subject, which ends the session; one of `$JS.API` would be a request of the writer.
"""


class QueuedRequest(Struct, frozen=True, array_like=True, tag=VERSION):
    """The events of one request, or a part of them, in the order sent.

    Another format gets another tag. Fields that are appended need a default.
    """

    application: str
    items: list[Event | EventFailure]
    request_id: str = ""
    traceparent: str = ""
    reply_to: Address = ""
    """The subject to which the writer publishes an `Outcome`; empty for none."""


class Outcome(Struct, frozen=True, array_like=True, tag=VERSION):
    """The results of a message's events, for the request that waits for them."""

    results: list[EventResult]


class BadMessage(EventsError):
    """A message of the stream cannot be decoded, or has an unknown version."""


def encode(request: QueuedRequest) -> bytes:
    """Return the message of a request, compressed unless it is small."""
    return _compressed(_encoder.encode(request))


def _compressed(message: bytes) -> bytes:
    if len(message) < MIN_COMPRESSED_BYTES:
        return message
    return zstandard.ZstdCompressor(level=LEVEL).compress(message)


def size_of(message: bytes) -> int:
    """Return the size of a message without its compression, if it tells that size."""
    if not message.startswith(zstandard.FRAME_HEADER):
        return len(message)
    try:
        return max(len(message), zstandard.frame_content_size(message))
    except zstandard.ZstdError:
        return len(message)


def split(
    reservation: Reservation,
    items: Sequence[Event | EventFailure],
    max_bytes: int,
    reply_to: Callable[[int], str] | None = None,
    first: int = 0,
) -> list[bytes]:
    """Return the messages of a request: one, or several if it were too large.

    `reply_to` returns the address for the outcome of a message, from the place of its
    first event. Raises `EventTooLarge` for an event that fits into no message.
    """
    request = QueuedRequest(
        reservation.application,
        list(items),
        reservation.request_id,
        reservation.traceparent,
        "" if reply_to is None else reply_to(first),
    )
    message = encode(request)
    if len(message) <= max_bytes:
        return [message]
    if len(items) == 1:
        reason = f"an event with its errors has {len(message)} bytes"
        raise EventTooLarge(f"{reason}; a message of the queue has up to {max_bytes}")
    middle = len(items) // 2
    left = split(reservation, items[:middle], max_bytes, reply_to, first)
    right = split(reservation, items[middle:], max_bytes, reply_to, first + middle)
    return left + right


def decode(message: bytes) -> QueuedRequest:
    """Return the request of a message; raises `BadMessage`."""
    try:
        return _decoder.decode(uncompressed(message))
    except (ValueError, RecursionError) as error:
        raise BadMessage(str(error)) from error


def uncompressed(message: bytes) -> bytes:
    """Return a message without its compression; raises `ValueError`."""
    if not message.startswith(zstandard.FRAME_HEADER):
        return message
    try:
        size = zstandard.frame_content_size(message)
        if not 0 <= size <= MAX_BYTES:
            raise ValueError(f"a compressed message of {size} bytes")
        return zstandard.ZstdDecompressor().decompress(message)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def encode_outcome(
    items: Sequence[Event | EventFailure], stored: Sequence[Stored]
) -> bytes:
    """Return the answer of a writer to `QueuedRequest.reply_to`."""
    # Texts of errors may make it larger than the message, which was compressed.
    return _compressed(_encoder.encode(Outcome(list(map(result_of, items, stored)))))


def decode_outcome(message: bytes) -> list[EventResult]:
    """Return the results of a message's events; raises `BadMessage`."""
    try:
        return _outcomes.decode(uncompressed(message)).results
    except (ValueError, RecursionError) as error:
        raise BadMessage(str(error)) from error


def partition_of(application: str, partitions: int) -> int:
    """Return the partition of an application's events: the same in every process."""
    return crc32(application.encode()) % partitions


def subject_of(stream: str, partition: int) -> str:
    """Return the subject of a partition's messages."""
    return f"{stream}.{partition}"


def _without_texts(_texts: Any) -> None:
    """Leave out the texts of a body, of which the events have all that is stored."""


def _texts_of(_expected: type, value: Any) -> Any:
    """Return the texts of a stock client's items as they are."""
    return value


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_without_texts)
_outcomes: Final = msgspec.msgpack.Decoder(Outcome)
_decoder: Final = msgspec.msgpack.Decoder(QueuedRequest, dec_hook=_texts_of)
