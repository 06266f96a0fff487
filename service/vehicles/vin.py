"""VINs: which texts are one, what is wrong with the others, and the check digit.

The rules are those of ISO 3779 and of 49 CFR Part 565: 17 characters, digits and Latin
capitals but for I, O and Q; in North America the ninth checks the others.
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
"""Letters that no VIN has, and what they are mostly read for."""

_VIN: Final = re.compile(r"[A-HJ-NPR-Za-hj-npr-z0-9]{17}")
_NORTH_AMERICAN: Final = re.compile(r"[1-5]|7[F-Z0-9]")
"""How VINs of the United States, Canada and Mexico begin."""

_WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VALUES: Final = dict(zip("ABCDEFGH", range(1, 9), strict=True)) | dict(
    zip("JKLMNPRSTUVWXYZ", (1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9), strict=True)
)


def parse_vin(text: str) -> Vin:
    """The VIN that a text is, in capitals; `InvalidVin` says what is wrong with it."""
    if _VIN.fullmatch(text):
        return Vin(text.upper())
    raise InvalidVin(_what_is_wrong(text))


def parse_vins(texts: Iterable[str]) -> dict[str, Vin | InvalidVin]:
    """What each text is: a VIN, or why it is none."""
    parsed: dict[str, Vin | InvalidVin] = {}
    for text in texts:
        try:
            parsed[text] = parse_vin(text)
        except InvalidVin as error:
            parsed[text] = error
    return parsed


def check_digit_fails(vin: Vin) -> bool:
    """Whether the check digit is wrong, of a VIN that has one by law."""
    if not _NORTH_AMERICAN.match(vin):
        return False
    values = (_VALUES.get(each) or int(each) for each in vin)
    rest = sum(a * b for a, b in zip(values, _WEIGHTS, strict=True)) % 11
    return vin[CHECK_POSITION - 1] != "0123456789X"[rest]


def shown(text: str) -> str:
    """A text as an answer or a log shows it: of bounded length."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _what_is_wrong(text: str) -> str:
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
