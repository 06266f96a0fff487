"""Bodies are checked by their ends, and decoded with errors of their own."""

from typing import Any

import msgspec
import pytest

from service.upstream import errors
from service.upstream.bodies import (
    MAX_WHITE_SPACE_BYTES,
    UpstreamResponse,
    decode,
    is_json,
)


class Period(msgspec.Struct):
    """A list of messages."""

    messages: list[Any]


DECODER = msgspec.json.Decoder(Period)


@pytest.mark.parametrize(
    "body, is_whole",
    [
        (b'{"a":1}', True),
        (b"[]", True),
        (b"\xef\xbb\xbf{}", True),
        (b" \t\r\n{}" + b" " * (MAX_WHITE_SPACE_BYTES - 1), True),
        (b"{" + b"[" * 3 * MAX_WHITE_SPACE_BYTES + b"}", True),
        (b"{}" + b" " * MAX_WHITE_SPACE_BYTES, False),
        (b"<html></html>", False),
        (b'{"a":1', False),
        (b"{]", False),
        (b"null", False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_only_the_ends_of_a_body_are_looked_at(body: bytes, *, is_whole: bool) -> None:
    """The first and the last character decide; a byte order mark is skipped."""
    assert is_json(bytearray(body)) == is_whole


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"messages":[{"text":"\xff"}]}', errors.MalformedBody),
        (b'{"messages":[{"text":"\\ud800"}', errors.MalformedBody),
        (b'{"messages":[],"more":' + b"[" * 90_000 + b"}", errors.ContractBroken),
        (b"[]", errors.ContractBroken),
        (b'{"messages":null}', errors.ContractBroken),
    ],
    ids=["not UTF-8", "surrogate, cut off", "deep nesting", "a list", "no list"],
)
def test_decoding_fails_as_the_call_would(
    body: bytes, expected: type[errors.UpstreamError]
) -> None:
    """The error has the same class, and the number of tries that the body took."""
    with pytest.raises(expected) as raised:
        decode(UpstreamResponse(bytearray(body), attempts=2), DECODER)

    assert type(raised.value) is expected
    assert raised.value.attempts == 2
