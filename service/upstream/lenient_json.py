"""Decoding of JSON that is legal, although msgspec refuses it.

RFC 8259 allows escapes of lone surrogates (`"\\ud83d"`), numbers of any size, and a
byte order mark that the reader may skip. msgspec refuses all three anywhere in a
document, also in fields that it skips. One such value must not fail a whole period. So
the standard library decodes a document that msgspec refuses, ten times slower, and
msgspec validates the result.

A lone surrogate stays one character of its string. A number beyond the range of a
double, and an integer of more than 4,300 digits, become infinite.
"""

import codecs
import json
import math
import mmap
from typing import Any, Final, NoReturn, TypeVar

import msgspec

T = TypeVar("T")

JsonBody = bytes | bytearray | memoryview | mmap.mmap

MAX_DIGITS: Final = 4_300
"""Python's own limit: converting more digits takes quadratic time."""
OUT_OF_RANGE: Final = "out of range"


def decode(body: JsonBody, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode and validate a JSON document; raises `msgspec.DecodeError`."""
    view = memoryview(body)
    if bytes(view[: len(codecs.BOM_UTF8)]) == codecs.BOM_UTF8:
        view = view[len(codecs.BOM_UTF8) :]
    try:
        return decoder.decode(view)
    except msgspec.DecodeError as error:
        # msgspec reports a number out of range as this error, although it is legal.
        is_invalid = isinstance(error, msgspec.ValidationError)
        if is_invalid and OUT_OF_RANGE not in str(error):
            raise
        try:
            value = _decode_any(view)
        except (ValueError, RecursionError):
            raise error from None
        try:
            return msgspec.convert(value, decoder.type)
        except UnicodeEncodeError:
            # msgspec cannot name the type of a string with a surrogate.
            invalid = "a string with a lone surrogate has the wrong type"
            raise msgspec.ValidationError(invalid) from None


def has_surrogate(text: str) -> bool:
    """Return whether a string has a lone surrogate, so that it is not valid Unicode."""
    return not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text)


def without_surrogates(text: str) -> str:
    """Return a string that can be encoded: U+FFFD takes the place of surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decode_any(view: memoryview) -> Any:
    """Decode by the standard library; raises `ValueError` and `RecursionError`."""
    return json.loads(
        str(view, "utf-8"),
        object_pairs_hook=_object,
        parse_int=_parse_int,
        parse_constant=_refuse,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with names that msgspec can compare with its fields."""
    return {
        without_surrogates(name) if has_surrogate(name) else name: value
        for name, value in pairs
    }


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


def _refuse(constant: str) -> NoReturn:
    """Refuse NaN and Infinity, which the standard library accepts by default."""
    raise ValueError(f"{constant} is no JSON value")
