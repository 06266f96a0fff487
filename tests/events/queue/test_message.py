"""Messages of the stream: their format, its versions, and what is none."""

import json
from typing import Final

import msgspec
import pytest
import zstandard

from service.events.model import Event, EventFailure
from service.events.parsing import EventParser
from service.events.queue.message import (
    MAX_BYTES,
    MIN_COMPRESSED_BYTES,
    BadMessage,
    QueuedRequest,
    decode,
    decode_outcome,
    encode,
    encode_outcome,
)
from service.events.store import NEW
from tests.events.conftest import event

MAGIC: Final = zstandard.FRAME_HEADER


def request_of(parser: EventParser, events: int) -> QueuedRequest:
    """Return a request with this number of events, and an invalid one."""
    sent = [event(id=f"e-{number}") for number in range(events)]
    body = json.dumps([*sent, event(category="")]).encode()
    items = parser.parse_body(body, "application/json", events + 1, "shop")
    return QueuedRequest("shop", items, "r-1", "00-a", "_INBOX.1")


def _fields(item: Event | EventFailure) -> dict[str, object]:
    names = set(item.__struct_fields__) - {"source"}
    return {name: getattr(item, name) for name in names}


@pytest.mark.parametrize("events", [1, 500], ids=["small", "compressed"])
def test_a_message_has_all_that_is_stored(parser: EventParser, events: int) -> None:
    """Whether it is compressed or not."""
    request = request_of(parser, events)

    message = encode(request)
    decoded = decode(message)

    assert message.startswith(MAGIC) == (events > 1)
    assert (len(message) >= MIN_COMPRESSED_BYTES) == (events > 1)
    assert list(map(_fields, decoded.items)) == list(map(_fields, request.items))
    assert (decoded.application, decoded.request_id) == ("shop", "r-1")
    assert (decoded.traceparent, decoded.reply_to) == ("00-a", "_INBOX.1")


def test_a_message_without_compression_is_read_too(parser: EventParser) -> None:
    """So is one that was compressed at another level."""
    request = request_of(parser, 50)
    plain = zstandard.decompress(encode(request))

    for message in (plain, zstandard.compress(plain, 9)):
        assert len(decode(message).items) == 51


def test_an_outcome_is_smaller_than_its_message(parser: EventParser) -> None:
    """Also if it has all errors: the servers refuse larger ones than a message."""
    wrong = [event(id=f"e-{number}", category="") for number in range(900)]
    body = json.dumps(wrong).encode()
    items = parser.parse_body(body, "application/json", 900, "shop")

    outcome = encode_outcome(items, [NEW] * 900)

    assert len(outcome) < len(encode(QueuedRequest("shop", items)))
    assert [each.status for each in decode_outcome(outcome)] == ["failed"] * 900


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        b"no message",
        MAGIC,
        MAGIC + b"\xff" * 20,
        zstandard.compress(b"x" * 5_000)[:-4],
        zstandard.compress(b"not msgpack"),
        # Without its size, so that it could have any.
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 5_000),
        msgspec.msgpack.encode([2, "shop", []]),
        msgspec.msgpack.encode([1, "shop"]),
        msgspec.msgpack.encode({"application": "shop"}),
    ],
)
def test_what_is_no_message_is_told_from_one(message: bytes) -> None:
    """Whatever is in the stream, the writer can keep it aside."""
    with pytest.raises(BadMessage):
        decode(message)


def test_a_message_that_would_fill_the_memory_is_refused() -> None:
    """A small frame may claim any size."""
    bomb = zstandard.compress(bytes(MAX_BYTES + 1))

    assert len(bomb) < MAX_BYTES // 1_000
    with pytest.raises(BadMessage, match="a compressed message of"):
        decode(bomb)
