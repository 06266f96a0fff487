"""Which texts are VINs, what is wrong with the others, and whose check digit fails."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.vehicles.errors import InvalidVin
from service.vehicles.vin import check_digit_fails, parse_vin, shown
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
    "text",
    [*KNOWN, "11111111111111111", "AAAAAAAAAAAAAAAAA", "ZZZZZZZZZZZZZZZZZ"],
)
def test_what_keeps_the_rules_is_a_vin(text: str) -> None:
    """Digits and letters but for three, whatever they mean."""
    assert parse_vin(text) == text


@pytest.mark.parametrize("text", ["1xpwd40x1ed215307", "1xPwD40X1eD215307"])
def test_lower_case_is_raised(text: str) -> None:
    """However it is typed, it is one and the same VIN."""
    assert parse_vin(text) == VIN


@pytest.mark.parametrize(
    "text, what",
    [
        ("", "0 characters, not 17"),
        ("1", "1 characters, not 17"),
        (VIN[:16], "16 characters, not 17"),
        (VIN + "1", "18 characters, not 17"),
        (VIN * 600, "10200 characters, not 17"),
        ("IXPWD40X1ED215307", "the letter I (is it 1?) at position 1"),
        ("1XPWD40X1ED21530O", "the letter O (is it 0?) at position 17"),
        ("1XPWD4OX1ED215307", "the letter O (is it 0?) at position 7"),
        ("qXPWD40X1ED215307", "the letter q (is it 0 or 9?) at position 1"),
        (" " + VIN, "a space at position 1"),
        (VIN + " ", "a space at position 18"),
        ("1XPWD 40X1ED215307", "a space at position 6"),
        ("1XPWD-40X1-ED215307", "- (HYPHEN-MINUS) at position 6"),
        ("1XPWD\t40X1ED21530", "U+0009 at position 6"),
        (VIN + "\n", "U+000A at position 18"),
        (VIN[:16] + "\0", "U+0000 at position 17"),
        ("1XPWD\xa040X1ED21530", "NO-BREAK SPACE at position 6"),
        (VIN[:16] + "\u200b", "ZERO WIDTH SPACE at position 17"),
        ("1XPWD40X1ED2153\u202e7", "RIGHT-TO-LEFT OVERRIDE at position 16"),
        (
            "1\N{CYRILLIC CAPITAL LETTER HA}PWD40X1ED215307",
            "(CYRILLIC CAPITAL LETTER HA) at position 2",
        ),
        (
            "\N{CYRILLIC CAPITAL LETTER A}" * 17,
            "(CYRILLIC CAPITAL LETTER A) at position 1",
        ),
        ("\uff11XPWD40X1ED215307", "(FULLWIDTH DIGIT ONE) at position 1"),
        ("\N{ARABIC-INDIC DIGIT ONE}" * 17, "(ARABIC-INDIC DIGIT ONE) at position 1"),
        ("1XPWD40X1ED21530\xb2", "(SUPERSCRIPT TWO) at position 17"),
        ("1XPWD40X1ED21530\N{LATIN SMALL LETTER DOTLESS I}", "DOTLESS I) at position"),
        ("1XPWD40X1ED21530\N{LATIN SMALL LETTER LONG S}", "LONG S) at position 17"),
        ("1XPWD40X1ED21530\N{KELVIN SIGN}", "(KELVIN SIGN) at position 17"),
        ("1XPWD40X1ED21530\N{SNOWMAN}", "(SNOWMAN) at position 17"),
        ("1XPWD40X1ED21530\udcff", "U+DCFF at position 17"),
        ("1' OR '1'='1' --", "' (APOSTROPHE) at position 2"),
        ("1XPWD40X1ED215307;DROP TABLE vehicles", "; (SEMICOLON) at position 18"),
        ("../../etc/passwd", ". (FULL STOP) at position 1"),
        ("1XPWD40X1ED21/307", "/ (SOLIDUS) at position 14"),
        ("1XPWD40X1ED21%307", "% (PERCENT SIGN) at position 14"),
        ("1XPWD40X1ED21?307", "? (QUESTION MARK) at position 14"),
        ("1XPWD40X1ED21*307", "* (ASTERISK) at position 14"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_what_is_wrong_is_said(text: str, what: str) -> None:
    """The first thing that is wrong, where it is, and what a VIN would be."""
    with pytest.raises(InvalidVin) as raised:
        parse_vin(text)

    assert what in str(raised.value)
    assert str(raised.value).endswith(f"; {RULE}")


@given(st.one_of(st.text(), st.text(CHARACTERS + "ioqIOQ -", max_size=20)))
def test_every_text_is_a_vin_or_told_why_not(text: str) -> None:
    """Nothing else is raised, and the reason is short and can be written anywhere."""
    vin, reason = read(text)

    assert vin is None or (vin == text.upper() and IS_VIN.fullmatch(vin))
    assert len(reason) < 200
    assert reason.isprintable()
    assert reason.encode().decode() == reason


@given(st.text(CHARACTERS, min_size=17, max_size=17))
def test_every_combination_is_a_vin(text: str) -> None:
    """No VIN is refused for what it means."""
    assert parse_vin(text) == text
    assert parse_vin(text.lower()) == text


# --- check digits -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *KNOWN,
        "1M8GDM9AXKP042788",
        "11111111111111111",
        "5GZCZ43D13S812715",
        "1FUJGLDR3CLBP8834",
        "3VV3B7AXXNM077525",
        "1XKYDP9XXFJ440749",
    ],
)
def test_a_right_check_digit(text: str) -> None:
    """VINs of real vehicles pass, those with an X too."""
    assert not check_digit_fails(parse_vin(text))


@pytest.mark.parametrize(
    "text",
    [
        "1XP5DB9X7XD487945",
        "12345678901234567",
        "1XPWD40X2ED215307",
        "1XPWD40XXED215307",
        "1XPWD40XAED215307",
        "2AAAAAAAAAAAAAAAA",
        "5AAAAAAAAAAAAAAAA",
    ],
)
def test_a_wrong_check_digit(text: str) -> None:
    """Any other character at position 9 fails, a letter that is never one too."""
    assert check_digit_fails(parse_vin(text))


@given(st.sampled_from("12345"), st.text(CHARACTERS, min_size=16, max_size=16))
def test_one_check_digit_passes(first: str, rest: str) -> None:
    """Of all characters at position 9, exactly one is right, whatever the others."""
    passing = [
        digit
        for digit in CHARACTERS
        if not check_digit_fails(parse_vin(with_check_digit(first + rest, digit)))
    ]

    assert len(passing) == 1
    assert passing[0] in CHECK_DIGITS


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


@pytest.mark.parametrize(
    "text, expected",
    [("", ""), ("x" * 40, "x" * 40), ("x" * 41, "x" * 40 + "…")],
    ids=["empty", "longest", "longer"],
)
def test_what_is_shown_is_short(text: str, expected: str) -> None:
    """An answer repeats no more than some characters of what was sent."""
    assert shown(text) == expected
