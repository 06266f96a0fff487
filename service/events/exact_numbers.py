"""Numbers that a float cannot represent, so that different contents stay different.

JSON readers take `9007199254740993.0` and `9007199254740992.0` for the same number. A
digest of the content must not. Numbers of up to 15 digits are exact as floats, unless
they are nearly zero. Few texts have others, which are searched by their shape first:
each event would pay for a look at each of its numbers.
"""

import math
import re
from typing import Any, Final

import msgspec
from msgspec import Raw

_LONG: Final = b"0" * 16
_TINY: Final = b"e-000"
_SHAPES: Final = bytes.maketrans(b"123456789.E", b"0000000000e")
"""Digits and points become zeros."""
_DIGITS: Final = re.compile(rb"[0-9.]+[eE]?")
_IS_FLOAT: Final = re.compile(rb"[.eE]")
_NUMBER_BEFORE: Final = re.compile(rb"[\s:,\[]-?[0-9.]{1,16}\Z")
_NUMBER_BEFORE_BYTES: Final = 20


def has_inexact(text: bytes) -> bool:
    """Return whether a JSON text may have a number that is not exact as a float.

    True may be wrong, as digits in a string may look like a number; False may not.
    """
    shape = text.translate(_SHAPES)
    return _has_long(text, shape) or _has_tiny(text, shape)


def decode_exactly(text: bytes) -> Any:
    """Decode JSON; numbers that are not exact as floats stay JSON texts.

    Raises `ValueError`, and `RecursionError`.
    """
    return _exact.decode(text)


def _has_long(text: bytes, shape: bytes) -> bool:
    """Return whether a float has more than 15 digits."""
    place = shape.find(_LONG)
    while place >= 0:
        run = _DIGITS.match(text, place)
        assert run is not None  # noqa: S101 - a digit or a point is at this place
        if _IS_FLOAT.search(run[0]):
            return True
        place = shape.find(_LONG, run.end())
    return False


def _has_tiny(text: bytes, shape: bytes) -> bool:
    """Return whether a number has a negative exponent of more than two digits."""
    place = shape.find(_TINY)
    while place >= 0:
        start = max(0, place - _NUMBER_BEFORE_BYTES)
        # UUIDs have the same shape.
        if _NUMBER_BEFORE.search(text, start, place):
            return True
        place = shape.find(_TINY, place + 1)
    return False


def _read(literal: str) -> float | Raw:
    """Return a number as a float, or as a JSON text that no float is encoded to."""
    value = float(literal)
    if math.isinf(value):
        raise ValueError("the number is too large")
    exact = _canonical(literal)
    return value if exact == _canonical(repr(value)) else Raw(exact.encode())


def _canonical(literal: str) -> str:
    """Return sign, digits and exponent, in one form for each decimal number."""
    mantissa, _, exponent = literal.lower().partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    integer, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = (integer + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return f"{sign}0E0"
    power = int(exponent or 0) - len(fraction) + len(digits) - len(significant)
    return f"{sign}{significant}E{power}"


_exact: Final = msgspec.json.Decoder(float_hook=_read)
