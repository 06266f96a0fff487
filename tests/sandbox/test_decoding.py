"""How any VIN is decoded, held against what vPIC itself was seen to answer."""

from typing import Final

import pytest

from service.sandbox.decoding import ERROR_TEXTS, decode, has_right_check_digit
from service.sandbox.vehicles import MAKERS, NOTHING

SUV: Final = "Sport Utility Vehicle [SUV]/Multipurpose Vehicle [MPV]"
HATCHBACK: Final = "Hatchback/Liftback/Notchback"
SEEN: Final = [
    ("1XPWD40X1ED215307", "PETERBILT", "388", "2014", "Truck-Tractor", "0"),
    ("1XKWDB0X57J211825", "KENWORTH", "W9 Series", "2007", "Truck-Tractor", "0"),
    ("1XP5DB9X7YN526158", "PETERBILT", "379", "2000", "Truck-Tractor", "0"),
    ("4V4NC9EJXEN171694", "VOLVO TRUCK", "VNL", "2014", "Truck-Tractor", "0"),
    ("1XP5DB9X7XD487964", "PETERBILT", "379", "1999", "Truck-Tractor", "0"),
    ("1XP5DB9X7XD487945", "PETERBILT", "379", "1999", "Truck-Tractor", "1"),
    ("1FUBCXBS9DHFG2386", "FREIGHTLINER", "M2", "2013", "Truck-Tractor", "0"),
    ("1FUBCXBS9DHFG2387", "FREIGHTLINER", "M2", "2013", "Truck-Tractor", "1"),
    ("1M2AX09C88M003743", "MACK", "GU (Granite)", "2008", "Truck", "0"),
    ("1JJV532D9JL178490", "WABASH VANS", "Dry Van Duraplate", "2018", "Trailer", "0"),
    ("1FTMW1T88MFA00001", "FORD", "F-150", "2021", "Pickup", "0"),
    ("1HGCM82633A004352", "HONDA", "Accord", "2003", "Coupe", "0"),
    ("3VV3B7AXXNM077525", "VOLKSWAGEN", "Tiguan", "2022", SUV, "0"),
    ("WBA3A5C51CF256987", "BMW", "328i", "2012", "Sedan/Saloon", "1"),
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


def told(vin: str, *names: str) -> tuple[str, ...]:
    """Some fields of a row, without the blanks beside them."""
    row = decode(vin)
    return tuple(str(row[name]).strip() for name in names)


@pytest.mark.parametrize("seen", SEEN, ids=[vin for vin, *_ in SEEN])
def test_a_vin_is_decoded_as_by_vpic(seen: tuple[str, ...]) -> None:
    """Vehicle and error codes are those that vPIC was seen to answer."""
    names = ("VIN", "Make", "Model", "ModelYear", "BodyClass", "ErrorCode")
    assert told(seen[0], *names) == seen


@pytest.mark.parametrize("vin", [vin for vin, *_ in SEEN])
def test_every_row_has_the_same_fields(vin: str) -> None:
    """Known or not, a row has all fields in vPIC's order, and all are strings."""
    row = decode(vin)
    assert list(row) == list(NOTHING)
    assert {type(value) for value in row.values()} == {str}


@pytest.mark.parametrize("wmi", MAKERS)
def test_any_well_formed_vin_of_a_known_maker_is_decoded(wmi: str) -> None:
    """It gets the maker's make, a model of its, and a year; always the same ones."""
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
        ("1XP000A0", "8", "2008"),
        ("1XP00060", "V", "2027"),
        ("1XP000A0", "W", "1998"),
        ("1HG00060", "U", ""),
        ("1HG00060", "Z", ""),
        ("1HG00060", "0", ""),
        ("1HG00060", "*", ""),
    ],
)
def test_a_code_stands_for_two_years(start: str, code: str, year: str) -> None:
    """Position 7 tells which of a light vehicle; a heavy one is none of the future."""
    row = decode(f"{start}0{code}A000000")
    assert row["ModelYear"] == year
    assert ("11" in str(row["ErrorCode"]).split(",")) is (year == "")


def test_the_errors_are_told_in_words() -> None:
    """Each code has its text, joined as the codes are; the bad places are named."""
    names = ("ErrorText", "AdditionalErrorText", "VehicleDescriptor")
    assert told("1XPWD40X1ED21530O", *names) == (
        f"1 - {ERROR_TEXTS[1]}; 400 - {ERROR_TEXTS[400]}",
        "Invalid character(s): 17:O.",
        "1XPWD40X*ED",
    )
    assert told("1XPWD40X1ED215307", "ErrorText", "AdditionalErrorText") == (
        "0 - VIN decoded clean. Check Digit (9th position) is correct",
        "",
    )


@pytest.mark.parametrize("vin", ["1M8GDM9AXKP042788", "11111111111111111"])
def test_right_check_digits(vin: str) -> None:
    """Position 9 is what the 16 others come to, X being 10."""
    assert has_right_check_digit(vin)


@pytest.mark.parametrize(
    "vin",
    [
        "1M8GDM9A1KP042788",
        "1M8GDM9AXKP042789",
        "1M8GDM9AXKP04278O",
        "1M8GDM9A*KP042788",
        "1M8GDM9AXKP04278",
        "",
    ],
)
def test_wrong_check_digits(vin: str) -> None:
    """It is wrong too where a character has no value, or one is missing."""
    assert not has_right_check_digit(vin)
