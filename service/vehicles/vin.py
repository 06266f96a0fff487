"""Parsing of VINs, and their check digit.

The rules are those of ISO 3779 and of 49 CFR Part 565. A VIN has 17 characters: digits,
and Latin capitals without I, O and Q. In North America the ninth is a check digit. In a
partial VIN, `*` stands for an unknown character, and the end may be missing.
"""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Final

from service.vehicles.errors import InvalidModelYear, InvalidVin
from service.vehicles.model import Vin

LENGTH: Final = 17
CHECK_POSITION: Final = 9
MAX_SHOWN: Final = 40
CONFUSABLE: Final = {"I": "1", "O": "0", "Q": "0 or 9"}
"""Letters that no VIN has, and the digits that are often misread as them."""

BYTE_ORDER_MARK: Final = "\ufeff"
HINT_MARK: Final = ","
"""Between a VIN and the model year that is its hint, as in a batch of vPIC."""
UNKNOWN: Final = "*"
WMI_LENGTH: Final = 3
"""Characters of a partial VIN that must be known: its manufacturer."""

_VIN: Final = re.compile(r"[A-HJ-NPR-Za-hj-npr-z0-9]{17}")
_PARTIAL: Final = re.compile(r"[A-HJ-NPR-Za-hj-npr-z0-9]{3}[A-HJ-NPR-Za-hj-npr-z0-9*]*")
# 7A to 7E belong to New Zealand.
_NORTH_AMERICAN: Final = re.compile(r"[1-5]|7[F-Z0-9]")
"""Beginning of VINs of the United States, Canada and Mexico."""

FIRST_YEAR: Final = 1980
"""The first model year of VINs with 17 characters is 1981; 1980 is that of code A."""

_YEAR: Final = re.compile(r"[0-9]{4}")

# Weights and values of the check digit: 49 CFR 565.15 (c).
_WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VALUES: Final = dict(zip("ABCDEFGH", range(1, 9), strict=True)) | dict(
    zip("JKLMNPRSTUVWXYZ", (1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9), strict=True)
)


def parse_vin(text: str, model_year: str = "") -> Vin:
    """Return the VIN in capitals, with the model year as a hint.

    Raises `InvalidVin` or `InvalidModelYear`, which say what is wrong.
    """
    stripped = trimmed(text)
    if _VIN.fullmatch(stripped):
        return with_hint(Vin(stripped.upper()), model_year)
    if UNKNOWN in stripped:
        return with_hint(_parse_partial(stripped), model_year)
    raise InvalidVin(_defect_of(stripped))


def trimmed(text: str) -> str:
    """Return a text without what files and scanners leave around it."""
    return text.strip().strip(BYTE_ORDER_MARK).strip()


def with_hint(vin: Vin, model_year: str) -> Vin:
    """Return a VIN with a hint, if there is one; raise `InvalidModelYear`."""
    hint = trimmed(model_year)
    if not hint:
        return vin
    if not parse_year(hint):
        raise InvalidModelYear(
            f"model year {shown(hint)}; expected {FIRST_YEAR} to {last_year()}"
        )
    return Vin(vin + HINT_MARK + hint)


def number_of(vin: Vin) -> str:
    """Return the VIN itself, without a hint."""
    return vin.partition(HINT_MARK)[0]


def hint_of(vin: Vin) -> str:
    """Return the model year that is the hint; empty without one."""
    return vin.partition(HINT_MARK)[2]


def with_every_hint(vin: Vin) -> list[Vin]:
    """Return the VIN without a hint, and with each possible one."""
    number = Vin(number_of(vin))
    years = range(FIRST_YEAR, last_year() + 1)
    return [number, *(Vin(f"{number}{HINT_MARK}{year}") for year in years)]


def parse_year(text: str) -> str:
    """Return a model year, or an empty text if it cannot be one."""
    is_year = _YEAR.fullmatch(text) and FIRST_YEAR <= int(text) <= last_year()
    return text if is_year else ""


def last_year() -> int:
    """Return the latest model year: that after the next calendar year."""
    return datetime.now(UTC).year + 2


def is_north_american(vin: str) -> bool:
    """Return True for the VIN of a maker in the United States, Canada or Mexico."""
    return bool(_NORTH_AMERICAN.match(vin))


def check_digit_fails(vin: Vin) -> bool:
    """Return True if the check digit is required by law, and wrong."""
    number = number_of(vin)
    if not is_north_american(number) or not _VIN.fullmatch(number):
        return False
    values = (_VALUES.get(each) or int(each) for each in number)
    rest = sum(a * b for a, b in zip(values, _WEIGHTS, strict=True)) % 11
    return number[CHECK_POSITION - 1] != "0123456789X"[rest]


def shown(text: str) -> str:
    """Return a text, cut to `MAX_SHOWN` characters for answers and logs."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _parse_partial(text: str) -> Vin:
    """Return a partial VIN without `*` at its end; raise `InvalidVin`."""
    if len(text) > LENGTH:
        raise InvalidVin(f"{len(text)} characters, more than {LENGTH}; {_PARTIAL_RULE}")
    if not _PARTIAL.fullmatch(text):
        known = text.replace(UNKNOWN, "0")
        defect = _character_defect(known) or f"{UNKNOWN} in the first {WMI_LENGTH}"
        raise InvalidVin(f"{defect}; {_PARTIAL_RULE}")
    return Vin(text.upper().rstrip(UNKNOWN))


def _defect_of(text: str) -> str:
    if len(text) == LENGTH + 1 and text[0] in "Ii":
        return (
            f"{LENGTH + 1} characters, the first of which is I; some scanners add this "
            f"prefix to the VIN of an import, so remove it; {_RULE}"
        )
    defect = _character_defect(text) or f"{len(text)} characters, not {LENGTH}"
    return f"{defect}; {_RULE}"


def _character_defect(text: str) -> str:
    for position, character in enumerate(text[: LENGTH + 1], start=1):
        if not _VIN.fullmatch(character * LENGTH):
            return f"{_reason(character)} at position {position}"
    return ""


_RULE: Final = "a VIN has 17 letters A to Z and digits, but no I, O or Q"
_PARTIAL_RULE: Final = (
    f"{_RULE}; in a partial one, {UNKNOWN} is unknown from position {WMI_LENGTH + 1} on"
)


def _reason(character: str) -> str:
    if character.upper() in CONFUSABLE and character.isascii():
        meant = CONFUSABLE[character.upper()]
        return f"the letter {character} (is it {meant}?)"
    if character == " ":
        return "a space"
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    return f"{character} ({name})" if character.isprintable() else name
