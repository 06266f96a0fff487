"""Legal JSON that msgspec refuses: lone surrogates, huge numbers, a byte order mark."""

import math
from typing import Any

import msgspec
import pytest

from service.upstream.lenient_json import decode, has_surrogate, without_surrogates

ANY = msgspec.json.Decoder()


class Item(msgspec.Struct):
    """A struct with one validated field; other fields are skipped."""

    id: int


ITEM = msgspec.json.Decoder(Item)


@pytest.mark.parametrize(
    "body, value",
    [
        pytest.param(b'"\\ud83d"', "\ud83d", id="lone surrogate"),
        pytest.param(b'"\\ud83d\\ude00"', "\U0001f600", id="pair"),
        pytest.param(b'"a\\ude00\\ud83d"', "a\ude00\ud83d", id="wrong order"),
        pytest.param(b"1e400", math.inf, id="beyond a double"),
        pytest.param(b"1" * 4_301, math.inf, id="too many digits"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', {"a": 1}, id="byte order mark"),
        pytest.param(b'\xef\xbb\xbf["\\ud83d"]', ["\ud83d"], id="both"),
    ],
)
def test_legal_json_is_decoded(body: bytes, value: Any) -> None:
    """RFC 8259 allows all of these."""
    assert decode(body, ANY) == value
    assert decode(memoryview(body), ANY) == value


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"id":1,"x":"\\ud83d"}', id="surrogate"),
        pytest.param(b'{"id":1,"x":[1e400]}', id="number"),
        pytest.param(b'{"\\udfff":2,"id":1}', id="name"),
    ],
)
def test_fields_that_are_skipped_may_hold_anything(body: bytes) -> None:
    """They change nothing of the fields that are read."""
    assert decode(body, ITEM) == Item(1)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"id":1', id="truncated"),
        pytest.param(b'{"id":NaN}', id="NaN"),
        pytest.param(b'{"id":-Infinity}', id="Infinity"),
        pytest.param(b'{"id":1,"x":"\\ud83d"', id="truncated with a surrogate"),
        pytest.param(b'{"id":"\\ud83d"}', id="wrong type"),
        pytest.param(b'{"id":1e400}', id="number of the wrong type"),
        pytest.param(b"[" * 200_000 + b'"\\ud83d"', id="nested too deeply"),
    ],
)
def test_anything_else_is_refused_as_before(body: bytes) -> None:
    """The error is msgspec's, or that of the text's coding."""
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)):
        decode(body, ITEM)


def test_a_wrong_type_breaks_the_contract() -> None:
    """It is no malformed body, which another try could repair."""
    with pytest.raises(msgspec.ValidationError, match="wrong type"):
        decode(b'{"id":"\\ud83d"}', ITEM)


def test_surrogates_are_replaced_one_by_one() -> None:
    """The length of a text stays, and valid characters beyond 16 bits stay too."""
    text = "a\ud83d\U0001f600\ude00"
    assert has_surrogate(text)
    assert without_surrogates(text) == "a\ufffd\U0001f600\ufffd"
    assert not has_surrogate("a\U0001f600é")
