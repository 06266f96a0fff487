"""Decoding of any VIN as by vPIC: the vehicle, if it is known, and the errors."""

from operator import mul
from typing import Final

from service.sandbox.fake_vehicles import (
    EMPTY_ROW,
    MAKERS,
    NO_DETAIL,
    UNKNOWN_CHARACTERS,
    Maker,
)

LENGTH: Final = 17
CHECK_DIGITS: Final = "0123456789X"
# Position 10 never has I, O, Q, U, Z or 0.
YEAR_CODES: Final = "ABCDEFGHJKLMNPRSTVWXY123456789"
CHARACTERS: Final = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
WILDCARD: Final = "*"
"""Stands for a character that the client does not know."""

ALLOWED: Final = {
    **dict.fromkeys(range(LENGTH), CHARACTERS + WILDCARD),
    8: CHECK_DIGITS + WILDCARD,
    9: YEAR_CODES + WILDCARD,
}
"""The valid characters at each position, counted from 0."""

# Values and weights of the check digit: 49 CFR 565.15 (c).
VALUES: Final = dict(
    zip(CHARACTERS, map(int, "012345678912345678123457923456789"), strict=True)
)
WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)

FIRST_YEAR: Final = 1980
CYCLE_YEARS: Final = len(YEAR_CODES)
LAST_YEAR: Final = 2027
"""The codes repeat every 30 years; a heavy vehicle has no later year than this."""

ERROR_TEXTS: Final = {
    0: "VIN decoded clean. Check Digit (9th position) is correct",
    1: "Check Digit (9th position) does not calculate properly",
    6: "Incomplete VIN",
    7: "Manufacturer is not registered with NHTSA for sale or importation in the U.S. "
    "for use on U.S roads; Please contact the manufacturer directly for more "
    "information",
    8: "No detailed data available currently",
    11: "Incorrect Model Year - Position 10 does not match valid model year codes "
    "(I, O, Q, U, Z, 0). Decoded data may not be accurate.",
    14: "Unable to provide information for some of the characters in the VIN, based "
    "on the manufacturer submission.",
    400: "Invalid Characters Present",
}


def decode(vin: str) -> dict[str, object]:
    """Return the row of a VIN in capitals, as in vPIC's answer."""
    maker = MAKERS.get(vin[:3])
    invalid = _find_invalid(vin)
    codes = _find_errors(vin, maker, is_valid=not invalid)
    return {
        **(maker.model_of(vin[3:8]) if maker else EMPTY_ROW),
        "AdditionalErrorText": f"Invalid character(s): {invalid}." if invalid else "",
        "ErrorCode": ",".join(map(str, codes)),
        "ErrorText": "; ".join([f"{code} - {ERROR_TEXTS[code]}" for code in codes]),
        "ModelYear": _find_year(vin, maker) if maker else "",
        "VIN": vin,
        "VehicleDescriptor": f"{vin[:8]}*{vin[9:11]}",
    }


def has_right_check_digit(vin: str) -> bool:
    """Return True if position 9 of a VIN in capitals is the checksum of the others."""
    if len(vin) != LENGTH or not VALUES.keys() >= set(vin):
        return False
    total = sum(map(mul, WEIGHTS, [VALUES[character] for character in vin]))
    return vin[8] == CHECK_DIGITS[total % len(CHECK_DIGITS)]


def _find_invalid(vin: str) -> str:
    return ", ".join(
        f"{position + 1}:{character}"
        for position, character in enumerate(vin)
        if character not in ALLOWED.get(position, "")
    )


def _find_errors(vin: str, maker: Maker | None, *, is_valid: bool) -> list[int]:
    error = maker.error if maker else 0
    found = {
        1: len(vin) >= LENGTH and not has_right_check_digit(vin),
        6: len(vin) < LENGTH,
        7: maker is None,
        8: error == NO_DETAIL,
        11: not _has_year(vin),
        14: error == UNKNOWN_CHARACTERS,
        400: not is_valid,
    }
    return [code for code, is_found in found.items() if is_found] or [0]


def _has_year(vin: str) -> bool:
    return len(vin) > 9 and vin[9] in YEAR_CODES


def _find_year(vin: str, maker: Maker) -> str:
    """Return the model year.

    Position 7 decides between two years for a light vehicle; a heavy one has the later
    year, up to `LAST_YEAR`.
    """
    if not _has_year(vin):
        return ""
    year = FIRST_YEAR + YEAR_CODES.index(vin[9])
    later = year + CYCLE_YEARS
    is_later = vin[6].isalpha() if maker.is_light else later <= LAST_YEAR
    return str(later if is_later else year)
