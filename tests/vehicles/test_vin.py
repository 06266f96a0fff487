"""Which texts are VINs, what is wrong with the others, and whose check digit fails."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.vehicles.errors import InvalidVin
from service.vehicles.vin import check_digit_fails, parse_vin
from tests.vehicles.conftest import KNOWN, VIN

CHARACTERS = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
CHECK_DIGITS = "0123456789X"
IS_VIN = re.compile(f"[{CHARACTERS}]{{17}}")
RULE = "a VIN has 17 letters A to Z and digits, but no I, O or Q"


def with_check_digit(vin: str, digit: str) -> str:
    """A VIN with another ninth character."""
    return vin[:8] + digit + vin[9:]


def read(text: str) -> tuple[str | None, str]:
    """The VIN that a text is, or why it is none."""
    try:
        return parse_vin(text), ""
    except InvalidVin as error:
        return None, str(error)


@pytest.mark.parametrize(
    "text, what",
    [
        ("", "0 characters, not 17"),
        (VIN[:16], "16 characters, not 17"),
        (VIN * 600, "10200 characters, not 17"),
        ("IXPWD40X1ED215307", "the letter I (is it 1?) at position 1"),
        ("1XPWD40X1ED21530O", "the letter O (is it 0?) at position 17"),
        ("qXPWD40X1ED215307", "the letter q (is it 0 or 9?) at position 1"),
        ("1XPWD 40X1ED215307", "a space at position 6"),
        ("I" + VIN, "18 characters, the first of which is I; some scanners add this"),
        ("i" + VIN.lower(), "prefix to the VIN of an import, so remove it"),
        ("1" + VIN, "18 characters, not 17"),
        ("1XPWD-40X1-ED215307", "- (HYPHEN-MINUS) at position 6"),
        ("1XPWD\t40X1ED21530", "U+0009 at position 6"),
        (VIN[:16] + "\0", "U+0000 at position 17"),
        ("1XPWD\xa040X1ED21530", "NO-BREAK SPACE at position 6"),
        (VIN[:16] + "\u200b", "ZERO WIDTH SPACE at position 17"),
        ("1XPWD40X1ED2153\u202e7", "RIGHT-TO-LEFT OVERRIDE at position 16"),
        (
            "\N{CYRILLIC CAPITAL LETTER A}" * 17,
            "(CYRILLIC CAPITAL LETTER A) at position 1",
        ),
        ("\uff11XPWD40X1ED215307", "(FULLWIDTH DIGIT ONE) at position 1"),
        ("1XPWD40X1ED21530\xb2", "(SUPERSCRIPT TWO) at position 17"),
        ("1XPWD40X1ED21530\N{LATIN SMALL LETTER DOTLESS I}", "DOTLESS I) at position"),
        ("1XPWD40X1ED21530\N{KELVIN SIGN}", "(KELVIN SIGN) at position 17"),
        ("1XPWD40X1ED21530\udcff", "U+DCFF at position 17"),
        ("1' OR '1'='1' --", "' (APOSTROPHE) at position 2"),
        ("../../etc/passwd", ". (FULL STOP) at position 1"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_reason_of_an_invalid_vin(text: str, what: str) -> None:
    """The first thing that is wrong, where it is, and what a VIN would be."""
    with pytest.raises(InvalidVin) as raised:
        parse_vin(text)

    assert what in str(raised.value)
    assert str(raised.value).endswith(f"; {RULE}")


@given(st.one_of(st.text(), st.text(CHARACTERS + "ioqIOQ -", max_size=20)))
def test_every_text_is_a_vin_or_has_a_reason(text: str) -> None:
    """Nothing else is raised, and the reason is short and can be written anywhere."""
    vin, reason = read(text)

    assert vin is None or (vin == text.upper() and IS_VIN.fullmatch(vin))
    assert len(reason) < 200
    assert reason.isprintable()
    assert reason.encode().decode() == reason


# --- check digits -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, is_wrong",
    [
        *((text, False) for text in KNOWN),
        ("1M8GDM9AXKP042788", False),
        ("11111111111111111", False),
        ("1XP5DB9X7XD487945", True),
        ("1XPWD40XXED215307", True),
        ("1XPWD40XAED215307", True),
    ],
)
def test_a_check_digit(text: str, *, is_wrong: bool) -> None:
    """Any other character at position 9 fails, a letter that is never one too."""
    assert check_digit_fails(parse_vin(text)) is is_wrong


@pytest.mark.parametrize(
    "beginning",
    ["JT", "WB", "ZA", "LF", "KM", "SA", "6F", "80", "9B", "00", "AA", "7A", "7E"],
)
def test_elsewhere_there_is_no_check_digit(beginning: str) -> None:
    """Outside of North America, such as in New Zealand (7A to 7E), nothing fails."""
    text = f"{beginning}PWD40X1ED215307"

    assert not any(
        check_digit_fails(parse_vin(with_check_digit(text, digit)))
        for digit in CHARACTERS
    )


@pytest.mark.parametrize("beginning", ["1A", "2Z", "30", "4V", "59", "7F", "7S", "70"])
def test_north_america_has_them(beginning: str) -> None:
    """The United States have some that begin with a 7 too."""
    fails = [
        check_digit_fails(
            parse_vin(with_check_digit(f"{beginning}PWD40X1ED215307", digit))
        )
        for digit in CHECK_DIGITS
    ]

    assert sorted(fails) == [False] + [True] * 10
