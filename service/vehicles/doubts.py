"""Doubts about a result: the error codes of vPIC, and model years that are possible.

vPIC's codes are advice. A VIN of a European maker has a letter at position 9 and gets
code 400, but its row can be right. So a row with a make and a year is an answer, and
each code becomes a warning.
"""

import re
from collections.abc import Iterable
from typing import Final

from service.vehicles.details import Details, unpack
from service.vehicles.model import Entry, Verdict, Vin
from service.vehicles.vin import (
    FIRST_YEAR,
    check_digit_fails,
    hint_of,
    is_north_american,
    last_year,
    number_of,
)

WARNINGS: Final = {
    1: "check_digit",
    2: "corrected",
    3: "corrected_by_check_digit",
    4: "ambiguous_correction",
    5: "errors_in_positions",
    6: "incomplete",
    7: "unknown_manufacturer",
    8: "no_detailed_data",
    9: "glider",
    10: "off_road",
    11: "invalid_model_year_character",
    12: "model_year_mismatch",
    14: "unmatched_characters",
    400: "invalid_characters",
}
"""Names of vPIC's codes in `warnings`, which are part of the contract."""

OPEN_YEAR: Final = "year"
"""Stands among the codes if the VIN leaves the model year open."""
SETTLED: Final = frozenset({0, 1, 6, 9, 10, 11, 12})
"""Codes of a row whose pattern vPIC knows; a pattern is that of certain years.

vPIC adds a note about the year to most of these rows, for trucks and trailers. Of those
of `ultravin`, it decodes nine in ten for no other year.
"""
LIGHT_TYPES: Final = frozenset(
    {"PASSENGER CAR", "MULTIPURPOSE PASSENGER VEHICLE (MPV)"}
)
"""Types for which position 7 settles the year by law, in North America."""

CYCLE_YEARS: Final = 30
YEAR_CODES: Final = "ABCDEFGHJKLMNPRSTVWXY123456789"
"""Characters at position 10 for 30 model years, beginning with 1980 (49 CFR 565.15)."""
YEAR_POSITION: Final = 10

_CODE: Final = re.compile(r"[0-9]{1,6}")


def codes_of(vin: str, details: Details) -> str:
    """Return vPIC's codes, comma-joined, with `OPEN_YEAR`; empty if there is none."""
    texts = (each.strip() for each in details.get("ErrorCode", "").split(","))
    codes = list(dict.fromkeys(int(each) for each in texts if _CODE.fullmatch(each)))
    if not codes:
        return ""
    marks = [OPEN_YEAR] if _leaves_year_open(vin, details, codes) else []
    return ",".join([*map(str, codes), *marks])


def numbers_of(codes: str) -> list[int]:
    """Return vPIC's codes as numbers."""
    return [int(each) for each in codes.split(",") if each not in {"", OPEN_YEAR}]


def warnings_of(vin: Vin, codes: str) -> list[str]:
    """Return the name of each doubt."""
    numbers = [code for code in numbers_of(codes) if code]
    names = [WARNINGS.get(code, f"code_{code}") for code in numbers]
    # The cache has rows without codes, and vPIC may not check a partial VIN.
    if check_digit_fails(vin) and WARNINGS[1] not in names:
        names.insert(0, WARNINGS[1])
    return names


def verdict_of(entry: Entry) -> Verdict:
    """Return what vPIC says of a VIN that it could not decode."""
    details = unpack(entry.packed)
    return Verdict(
        codes=numbers_of(entry.codes),
        error_text=details.get("ErrorText", ""),
        additional_error_text=details.get("AdditionalErrorText", ""),
        suggested_vin=details.get("SuggestedVIN", ""),
        possible_values=details.get("PossibleValues", ""),
    )


def candidates_of(vin: Vin, codes: str, model_year: str) -> list[str]:
    """Return the model years that the VIN leaves open, if there are several."""
    if OPEN_YEAR not in codes or hint_of(vin) == model_year:
        return []
    years = _pattern_years(number_of(vin))
    return years if len(years) > 1 else []


def _leaves_year_open(vin: str, details: Details, codes: Iterable[int]) -> bool:
    """Return whether vPIC has found the year by position 10 alone."""
    is_light = details.get("VehicleType") in LIGHT_TYPES
    is_settled_by_law = is_light and is_north_american(vin)
    return not (SETTLED.issuperset(codes) or is_settled_by_law)


def _pattern_years(number: str) -> list[str]:
    code = number[YEAR_POSITION - 1 : YEAR_POSITION]
    if not code or code not in YEAR_CODES:
        return []
    first = FIRST_YEAR + YEAR_CODES.index(code)
    years = range(first, last_year() + 1, CYCLE_YEARS)
    return [str(year) for year in years]
