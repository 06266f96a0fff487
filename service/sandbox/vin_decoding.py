"""Decoding of any VIN as by vPIC: the vehicle, if it is known, and the errors."""

from collections.abc import Collection, Mapping, Sequence
from operator import mul
from typing import Final

from service.sandbox.fake_vehicles import (
    EMPTY_ROW,
    MAKERS,
    NO_DETAIL,
    SOME_POSITIONS,
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

UNUSED: Final = (
    "The error positions are indicated by ! in Suggested VIN. In the Possible values "
    "section, each pair of parenthesis indicate information about each error position "
    "in VIN . The Numeric value before the : indicates the position in error and the "
    "values after the : indicate the possible values that are allowed in this position "
    "Unused position(s): 4,5,6,7,8."
)
ERROR_TEXTS: Final = {
    0: "VIN decoded clean. Check Digit (9th position) is correct",
    1: "Check Digit (9th position) does not calculate properly",
    5: "VIN has errors in few positions",
    6: "Incomplete VIN",
    7: "Manufacturer is not registered with NHTSA for sale or importation in the U.S. "
    "for use on U.S roads; Please contact the manufacturer directly for more "
    "information",
    8: "No detailed data available currently",
    11: "Incorrect Model Year - Position 10 does not match valid model year codes "
    "(I, O, Q, U, Z, 0). Decoded data may not be accurate.",
    12: "Model Year Warning - Model Year entered for decoding with VIN does not match "
    "the model year based on the 10th position in VIN.",
    14: "Unable to provide information for some of the characters in the VIN, based "
    "on the manufacturer submission.",
    400: "Invalid Characters Present",
}


def decode(vin: str, year: str = "") -> dict[str, object]:
    """Return the row of a VIN in capitals, as in vPIC's answer; `year` is a hint."""
    maker = MAKERS.get(vin[:3])
    invalid = _find_invalid(vin)
    is_mismatch = bool(maker and year) and year not in _years(vin)
    codes = _find_errors(vin, maker, is_valid=not invalid, is_mismatch=is_mismatch)
    unused = UNUSED if maker and maker.possible_values else ""
    marked = [position for position, _ in invalid]
    row: dict[str, object] = {
        **(maker.model_of(vin[3:8]) if maker else EMPTY_ROW),
        "AdditionalErrorText": _additional_text(unused, invalid),
        "ErrorCode": ",".join(map(str, codes)),
        "ErrorText": "; ".join([f"{code} - {ERROR_TEXTS[code]}" for code in codes]),
        "ModelYear": (year or _find_year(vin, maker)) if maker else "",
        "PossibleValues": maker.possible_values if maker else "",
        "SuggestedVIN": _suggest(vin, [*(range(4, 9) if unused else ()), *marked]),
        "VIN": vin,
        "VehicleDescriptor": f"{vin[:8]}*{vin[9:11]}",
    }
    # vPIC knows no pattern of the maker in that year.
    return row | {"Model": "", "BodyClass": ""} if is_mismatch else row


def makers_of(wmi: str) -> list[dict[str, object]]:
    """Return the rows of vPIC about the manufacturer with a code; none if unknown."""
    maker = MAKERS.get(wmi)
    if maker is None:
        return []
    fields: Mapping[str, object] = maker.models[0]
    return [
        {
            "CommonName": str(fields["Make"]).title(),
            "CreatedOn": "2015-03-27",
            "DateAvailableToPublic": "2015-01-01",
            "Make": fields["Make"],
            "ManufacturerName": fields["Manufacturer"],
            "ParentCompanyName": "",
            "URL": "",
            "UpdatedOn": None,
            "VehicleType": fields["VehicleType"],
        }
    ]


def has_right_check_digit(vin: str) -> bool:
    """Return True if position 9 of a VIN in capitals is the checksum of the others."""
    if len(vin) != LENGTH or not VALUES.keys() >= set(vin):
        return False
    total = sum(map(mul, WEIGHTS, [VALUES[character] for character in vin]))
    return vin[8] == CHECK_DIGITS[total % len(CHECK_DIGITS)]


def _find_invalid(vin: str) -> list[tuple[int, str]]:
    """Return the positions, counted from 1, and characters that are invalid."""
    return [
        (position + 1, character)
        for position, character in enumerate(vin)
        if character not in ALLOWED.get(position, "")
    ]


def _additional_text(unused: str, invalid: Sequence[tuple[int, str]]) -> str:
    shown = ", ".join(f"{position}:{character}" for position, character in invalid)
    return f"{unused} {f'Invalid character(s): {shown}.' if shown else ''}".strip()


def _suggest(vin: str, positions: Collection[int]) -> str:
    """Return the VIN with `!` at positions; empty if there are none."""
    if not positions:
        return ""
    return "".join(
        "!" if position in positions else character
        for position, character in enumerate(vin, start=1)
    )


def _find_errors(
    vin: str, maker: Maker | None, *, is_valid: bool, is_mismatch: bool
) -> list[int]:
    errors = maker.errors if maker else ()
    found = {
        1: len(vin) >= LENGTH and not has_right_check_digit(vin),
        5: SOME_POSITIONS in errors,
        6: len(vin) < LENGTH,
        7: maker is None,
        8: NO_DETAIL in errors,
        11: not _has_year(vin),
        12: is_mismatch,
        14: UNKNOWN_CHARACTERS in errors or is_mismatch,
        400: not is_valid,
    }
    return [code for code, is_found in found.items() if is_found] or [0]


def _has_year(vin: str) -> bool:
    return len(vin) > 9 and vin[9] in YEAR_CODES


def _years(vin: str) -> list[str]:
    """Return the model years that position 10 may mean."""
    if not _has_year(vin):
        return []
    first = FIRST_YEAR + YEAR_CODES.index(vin[9])
    return [str(first), str(first + CYCLE_YEARS)]


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
