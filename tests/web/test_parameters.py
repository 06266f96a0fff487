"""Cursors as query parameters: their text, and texts that are none."""

import base64
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.web.parameters import InvalidParameter, encode_cursor, parse_cursor


class Position(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A cursor of these tests."""

    name: str
    number: int


def written(raw: bytes) -> str:
    """The text of a cursor with these bytes, which need not be JSON."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(st.builds(Position, st.text(), st.integers(-(2**63), 2**63 - 1)))
def test_cursor_survives_the_way_through_a_url(cursor: Position) -> None:
    """An encoded cursor is decoded to an equal one, and needs no escaping."""
    carried = encode_cursor(cursor)

    assert parse_cursor(carried, Position) == cursor
    assert carried.replace("-", "").replace("_", "").isalnum()
    assert carried.isascii()


@pytest.mark.parametrize(
    "name, padded",
    [("a", "WyJhIiwxXQ=="), ("aa", "WyJhYSIsMV0="), ("aaa", "WyJhYWEiLDFd")],
)
def test_padding_is_optional(name: str, padded: str) -> None:
    """A client may send the padding of base64, which `encode_cursor` leaves out."""
    cursor = Position(name, 1)

    assert encode_cursor(cursor) == padded.rstrip("=")
    assert parse_cursor(padded.rstrip("="), Position) == cursor
    assert parse_cursor(padded, Position) == cursor


def test_missing_cursor_is_none() -> None:
    """The first page has no cursor."""
    assert parse_cursor(None, Position) is None


@pytest.mark.parametrize(
    "value",
    [
        *("", "=", "====", "a", "!", "%5B", "\u00e9", "\ud800", "\0"),
        *(written(b'["a",1]') + end for end in (" ", "!", "===", "\n")),
        *map(
            written, [b"", b"null", b"{}", b"[]", b'["a"]', b'["a",1,2]', b'["a",1]x']
        ),
        *map(written, [b'\xff["a",1]', b'["\xff",1]', b'["\\ud800",1]']),
        *map(written, [b'["a",1' + b"0" * 5000, b"[" * 6000]),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_malformed_cursor_is_refused(value: str) -> None:
    """Invalid base64, other JSON and deep nesting are errors of the client."""
    with pytest.raises(InvalidParameter, match="Link header") as error:
        parse_cursor(value, Position)
    assert error.value.name == "cursor"


@given(st.text() | st.binary().map(written))
def test_any_text_is_a_cursor_or_refused(value: str) -> None:
    """No text of a client raises another error than `InvalidParameter`."""
    with suppress(InvalidParameter):
        assert isinstance(parse_cursor(value, Position), Position)
