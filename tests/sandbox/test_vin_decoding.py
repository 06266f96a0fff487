"""Decoding of VINs, compared with recorded answers of vPIC."""

from typing import Final

import pytest

from service.sandbox.fake_vehicles import EMPTY_ROW, MAKERS
from service.sandbox.vin_decoding import ERROR_TEXTS, decode, has_right_check_digit

SUV: Final = "Sport Utility Vehicle [SUV]/Multipurpose Vehicle [MPV]"
RECORDED: Final = [
    ("1XPWD40X1ED215307", "PETERBILT", "388", "2014", "Truck-Tractor", "0"),
    ("1XKWDB0X57J211825", "KENWORTH", "W9 Series", "2007", "Truck-Tractor", "0"),
    ("1XP5DB9X7YN526158", "PETERBILT", "379", "2000", "Truck-Tractor", "0"),
    ("4V4NC9EJXEN171694", "VOLVO TRUCK", "VNL", "2014", "Truck-Tractor", "0"),
    ("1XP5DB9X7XD487964", "PETERBILT", "379", "1999", "Truck-Tractor", "0"),
    ("1JJV532D9JL178490", "WABASH VANS", "Dry Van Duraplate", "2018", "Trailer", "0"),
    ("3VV3B7AXXNM077525", "VOLKSWAGEN", "Tiguan", "2022", SUV, "0"),
    ("WDC1668731A298010", "MERCEDES-BENZ", "GL-Class", "2001", SUV, "8"),
    ("ZA9CA05AXJLA12340", "LAMBORGHINI", "", "1988", "", "8"),
    ("5UXWX7C5*BA", "BMW", "X3", "2011", SUV, "6"),
    ("1XPWD40X1ED21530O", "PETERBILT", "388", "2014", "Truck-Tractor", "1,400"),
    ("4T1SK12E00U028452", "TOYOTA", "Camry", "", "Sedan/Saloon", "11,400"),
    ("12345678901234567", "SHERMAN + REILLY", "", "", "", "1,11,14,400"),
    ("123456789", "SHERMAN + REILLY", "", "", "", "6,11,14"),
    ("11111111111111111", "", "", "", "", "7"),
    ("1AKJHHDR3KSKX6689", "", "", "", "", "1,7"),
    ("AAAAAAAAAAAAAAAAA", "", "", "", "", "1,7,400"),
    ("999999999993VV3B7AXXNM077525", "", "", "", "", "1,7,400"),
]
"""VIN, make, model, model year, body class and error codes."""


def fields_of(vin: str, *names: str) -> tuple[str, ...]:
    """Return some fields of a row, without surrounding blanks."""
    row = decode(vin)
    return tuple(str(row[name]).strip() for name in names)


@pytest.mark.parametrize("recorded", RECORDED, ids=[vin for vin, *_ in RECORDED])
def test_a_vin_is_decoded_as_by_vpic(recorded: tuple[str, ...]) -> None:
    """Vehicle and error codes are those of vPIC's answers, in rows of all fields."""
    names = ("VIN", "Make", "Model", "ModelYear", "BodyClass", "ErrorCode")
    assert fields_of(recorded[0], *names) == recorded
    row = decode(recorded[0])
    assert list(row) == list(EMPTY_ROW)
    assert {type(value) for value in row.values()} == {str}


@pytest.mark.parametrize("wmi", MAKERS)
def test_any_well_formed_vin_of_a_known_maker_is_decoded(wmi: str) -> None:
    """The row has the maker's make, one of its models and a year, always the same."""
    vin = f"{wmi}ABC7D1RH123456"
    row = decode(vin)
    models = [(model["Make"], model["Model"]) for model in MAKERS[wmi].models]
    assert (row["Make"], row["Model"]) in models
    assert row["ModelYear"] == ("1994" if MAKERS[wmi].is_light else "2024")
    assert decode(vin) == row


@pytest.mark.parametrize(
    "start, code, year",
    [
        ("1HG00060", "A", "1980"),
        ("1HG000A0", "A", "2010"),
        ("1HG000A0", "9", "2039"),
        ("1XP00060", "V", "2027"),
        ("1XP000A0", "W", "1998"),
        ("1HG00060", "U", ""),
        ("1HG00060", "*", ""),
    ],
)
def test_a_code_stands_for_two_years(start: str, code: str, year: str) -> None:
    """Position 7 decides for a light vehicle; a heavy one has no future year."""
    row = decode(f"{start}0{code}A000000")
    assert row["ModelYear"] == year
    assert ("11" in str(row["ErrorCode"]).split(",")) is (year == "")


def test_error_codes_have_texts() -> None:
    """The texts are in the order of the codes; invalid positions are listed."""
    names = ("ErrorText", "AdditionalErrorText", "VehicleDescriptor")
    assert fields_of("1XPWD40X1ED21530O", *names) == (
        f"1 - {ERROR_TEXTS[1]}; 400 - {ERROR_TEXTS[400]}",
        "Invalid character(s): 17:O.",
        "1XPWD40X*ED",
    )
    assert fields_of("1XPWD40X1ED215307", "ErrorText", "AdditionalErrorText") == (
        "0 - VIN decoded clean. Check Digit (9th position) is correct",
        "",
    )


@pytest.mark.parametrize(
    "vin, is_right",
    [
        ("1M8GDM9AXKP042788", True),
        ("11111111111111111", True),
        ("1M8GDM9A1KP042788", False),
        ("1M8GDM9AXKP04278O", False),
        ("1M8GDM9A*KP042788", False),
        ("1M8GDM9AXKP04278", False),
    ],
)
def test_check_digits(vin: str, *, is_right: bool) -> None:
    """Position 9 is the checksum of the others; X stands for 10."""
    assert has_right_check_digit(vin) is is_right
