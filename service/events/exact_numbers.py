"""Numbers that a float cannot represent, so that different contents stay different.

JSON readers take `9007199254740993.0` and `9007199254740992.0` for the same number. A
digest of the content must not. Floats of up to 15 digits are exact, unless they are
nearly zero; the others are compared with their text.
"""

import math
from typing import Any, Final

import msgspec
from msgspec import Raw

MAX_EXACT_CHARS: Final = 16
"""Length of a literal of 15 digits and a point."""


class ValueDecoder:
    """Decodes JSON; not for several threads at once."""

    def __init__(self) -> None:
        # Only numbers with a point or an exponent are passed to the hook.
        self._decoder = msgspec.json.Decoder(float_hook=self._read)
        self._is_exact = True

    def decode(self, text: bytes) -> tuple[Any, Any]:
        """Return the value of a JSON text, and the value that its digest is made of.

        They differ if a number is not exact as a float: see `decode_exactly`. Raises
        `ValueError`, and `RecursionError`.
        """
        self._is_exact = True
        value = self._decoder.decode(text)
        return value, value if self._is_exact else decode_exactly(text)

    def _read(self, literal: str) -> float:
        value = _finite(literal)
        if len(literal) > MAX_EXACT_CHARS or "-" in literal[1:]:
            self._is_exact &= _canonical(literal) == _canonical(repr(value))
        return value


def decode_exactly(text: bytes) -> Any:
    """Decode JSON; numbers that are not exact as floats stay JSON texts.

    Raises `ValueError`, and `RecursionError`.
    """
    return _exact.decode(text)


def _read(literal: str) -> float | Raw:
    """Return a number as a float, or as a JSON text that no float is encoded to."""
    value = _finite(literal)
    exact = _canonical(literal)
    return value if exact == _canonical(repr(value)) else Raw(exact.encode())


def _finite(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise ValueError("the number is too large")
    return value


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
