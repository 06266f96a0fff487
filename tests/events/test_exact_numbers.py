"""Numbers that a float cannot represent: found in any text, and compared exactly."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.events.exact_numbers import ValueDecoder, decode_exactly

literals = st.builds(
    lambda sign, digits, fraction, exponent: f"{sign}{digits}{fraction}{exponent}",
    st.sampled_from(["", "-"]),
    st.integers(0, 10**20).map(str),
    st.sampled_from(["", ".0", ".5"]) | st.integers(0, 10**25).map(".{:030}".format),
    st.sampled_from(["", "e0", "E+5", "e-5", "e-300", "e-0310", "e-330", "E-99999"]),
)


def is_exact(literal: str) -> bool:
    """Return whether the shortest text of a float is equal to the number."""
    value = msgspec.json.decode(literal)
    return Decimal(literal) == Decimal(repr(value))


@given(one=literals, other=literals)
@example(one="9007199254740993.0", other="9007199254740992.0")
@example(one="1e-999999999", other="0.0")
@example(one="5e-324", other="4e-324")
def test_numbers_that_are_not_exact_are_found(one: str, other: str) -> None:
    """Each is found, and its digest's text depends on its exact value only."""
    texts = []
    for literal in (one, other):
        text = f'{{"v": {literal}}}'.encode()
        encoded = msgspec.json.encode(decode_exactly(text))
        if is_exact(literal):
            assert encoded == msgspec.json.encode(msgspec.json.decode(text))
        value, content = ValueDecoder().decode(text)
        assert value == msgspec.json.decode(text)
        assert msgspec.json.encode(content) == encoded
        texts.append(encoded)
    is_same = Decimal(one) == Decimal(other)
    is_same &= one.startswith("-") == other.startswith("-")
    if all(type(msgspec.json.decode(each)) is float for each in (one, other)):
        assert (texts[0] == texts[1]) == (is_same or one == other)


@pytest.mark.parametrize(
    "text",
    [
        b'{"id": "e2085be5-9137-4e4e-8e-4123e-4555"}',
        b'{"at": 1714356509123456789, "price": 12.5, "n": [1e-7, 1E300]}',
        b'{"at": "2021-01-01 09:15:27.243860", "version": "1.2.3"}',
    ],
)
def test_usual_texts_have_none(text: bytes) -> None:
    """UUIDs, times and long integers have no such number, and are decoded once."""
    value, content = ValueDecoder().decode(text)
    assert content is value


@pytest.mark.parametrize("literal", ["1e400", "-1E999999999", "1" * 400 + ".5"])
def test_a_number_beyond_all_floats_is_refused(literal: str) -> None:
    """It is no infinity."""
    with pytest.raises(ValueError, match="large"):
        decode_exactly(literal.encode())
