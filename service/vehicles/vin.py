"""Parsing of VINs, and their check digit.

The rules are those of ISO 3779 and of 49 CFR Part 565. A VIN has 17 characters: digits,
and Latin capitals without I, O and Q. In North America the ninth is a check digit.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from service.vehicles.errors import InvalidVin
from service.vehicles.model import Vin

LENGTH: Final = 17
CHECK_POSITION: Final = 9
MAX_SHOWN: Final = 40
CONFUSABLE: Final = {"I": "1", "O": "0", "Q": "0 or 9"}
"""Letters that no VIN has, and the digits that are often misread as them."""

_VIN: Final = re.compile(r"[A-HJ-NPR-Za-hj-npr-z0-9]{17}")
# 7A to 7E belong to New Zealand.
_NORTH_AMERICAN: Final = re.compile(r"[1-5]|7[F-Z0-9]")
"""Beginning of VINs of the United States, Canada and Mexico."""

# Weights and values of the check digit: 49 CFR 565.15 (c).
_WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VALUES: Final = dict(zip("ABCDEFGH", range(1, 9), strict=True)) | dict(
    zip("JKLMNPRSTUVWXYZ", (1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9), strict=True)
)


def parse_vin(text: str) -> Vin:
    """Return the VIN in capitals. Raises `InvalidVin`, which says what is wrong."""
    if _VIN.fullmatch(text):
        return Vin(text.upper())
    raise InvalidVin(_defect_of(text))


def parse_vins(texts: Iterable[str]) -> dict[str, Vin | InvalidVin]:
    """Return the VIN of each text, or its error."""
    parsed: dict[str, Vin | InvalidVin] = {}
    for text in texts:
        try:
            parsed[text] = parse_vin(text)
        except InvalidVin as error:
            parsed[text] = error
    return parsed


def check_digit_fails(vin: Vin) -> bool:
    """Return True if the check digit is required by law, and wrong."""
    if not _NORTH_AMERICAN.match(vin):
        return False
    values = (_VALUES.get(each) or int(each) for each in vin)
    rest = sum(a * b for a, b in zip(values, _WEIGHTS, strict=True)) % 11
    return vin[CHECK_POSITION - 1] != "0123456789X"[rest]


def shown(text: str) -> str:
    """Return a text, cut to `MAX_SHOWN` characters for answers and logs."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _defect_of(text: str) -> str:
    for position, character in enumerate(text[: LENGTH + 1], start=1):
        if not _VIN.fullmatch(character * LENGTH):
            return f"{_reason(character)} at position {position}; {_RULE}"
    return f"{len(text)} characters, not {LENGTH}; {_RULE}"


_RULE: Final = "a VIN has 17 letters A to Z and digits, but no I, O or Q"


def _reason(character: str) -> str:
    if character.upper() in CONFUSABLE and character.isascii():
        meant = CONFUSABLE[character.upper()]
        return f"the letter {character} (is it {meant}?)"
    if character == " ":
        return "a space"
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    return f"{character} ({name})" if character.isprintable() else name
