"""Values of header fields: lists, qualities and entity tags."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.web.header_values import (
    joined,
    parse_entity_tags,
    parse_weighted,
    split_list,
)

# Texts of the characters that separate, quote and escape, and any other text.
values = st.text() | st.text(alphabet='",;=\\ \tWq01.a')


@pytest.mark.parametrize(
    "lines, value",
    [([], None), (["a"], "a"), (["a", "b;q=0.5, c"], "a, b;q=0.5, c"), ([""], "")],
)
def test_lines_of_a_header_are_one_value(lines: list[str], value: str | None) -> None:
    """The lines of a header are one list, in their order (RFC 9110 section 5.3)."""
    headers = CIMultiDict([("accept", line) for line in lines])
    headers.add("Accept-Encoding", "gzip")

    assert joined(headers, "Accept") == value


@pytest.mark.parametrize(
    "value, members",
    [
        pytest.param("", [], id="empty"),
        pytest.param("a", ["a"], id="one"),
        pytest.param(" a,b\t,  c d ", ["a", "b", "c d"], id="white space"),
        pytest.param(" , a,, \t,b,", ["a", "b"], id="empty members"),
        pytest.param('a,"b,c",d', ["a", '"b,c"', "d"], id="quoted comma"),
        pytest.param('a;x="1,2", b', ['a;x="1,2"', "b"], id="quoted parameter"),
        pytest.param(r'"a\",b",c', [r'"a\",b"', "c"], id="escaped quote"),
        pytest.param(r'"a\\",b', [r'"a\\"', "b"], id="escaped backslash"),
        pytest.param(r"a\,b", ["a\\", "b"], id="backslash outside quotes"),
        pytest.param('"",a', ['""', "a"], id="empty string"),
        pytest.param('a, "b, c', ["a", '"b, c'], id="no closing quote"),
    ],
)
def test_list_is_split_at_its_commas(value: str, members: list[str]) -> None:
    """A comma inside a quoted string separates nothing, and no member is empty."""
    assert split_list(value) == members


@pytest.mark.parametrize(
    "value, weighted",
    [
        pytest.param("", [], id="empty"),
        pytest.param("gzip", [("gzip", 1.0)], id="no weight"),
        pytest.param(
            "GZIP;q=0.5, br;Q=0", [("gzip", 0.5), ("br", 0.0)], id="upper case"
        ),
        pytest.param(", a,, b;q=0.2,", [("a", 1.0), ("b", 0.2)], id="empty members"),
        pytest.param("a ; q = 0.125", [("a", 0.125)], id="white space"),
        pytest.param("text/html;level=1;q=0.5", [("text/html", 0.5)], id="parameter"),
        pytest.param("a;q=0.5;q=0.9", [("a", 0.5)], id="two weights"),
        pytest.param("a;qs=0.5", [("a", 1.0)], id="another parameter"),
        pytest.param('a;x="b;q=0.1";q=0.7', [("a", 0.7)], id="quoted weight"),
        pytest.param(r'a;x="\";q=0.1";q=0.7', [("a", 0.7)], id="escaped quote"),
        pytest.param('a;x="b,c";q=0.1, d', [("a", 0.1), ("d", 1.0)], id="quoted comma"),
        pytest.param(";q=0.5", [("", 0.5)], id="no value"),
        pytest.param("a;x=1;;q=0.3", [("a", 0.3)], id="empty parameter"),
    ],
)
def test_members_have_weights(value: str, weighted: list[tuple[str, float]]) -> None:
    """A member without a weight has the quality 1 (RFC 9110 section 12.4.2)."""
    assert parse_weighted(value) == weighted


@pytest.mark.parametrize(
    "weight, quality",
    [
        *(("0", 0.0), ("0.", 0.0), ("0.000", 0.0), ("0.999", 0.999)),
        *(("1", 1.0), ("1.", 1.0), ("1.000", 1.0)),
    ],
)
def test_weight_has_up_to_three_decimals(weight: str, quality: float) -> None:
    """A valid weight is a number from 0 to 1 (RFC 9110 section 12.4.2)."""
    assert parse_weighted(f"a;q={weight}") == [("a", quality)]


@pytest.mark.parametrize(
    "weight",
    [
        *("", " ", "x", ".5", "0.1234", "1.001", "2", "10", "00.5"),
        *(
            "-0.5",
            "+0.5",
            "5e-1",
            "nan",
            "inf",
            '"0.5"',
            "0.5 0.5",
            "\uff11",
            "0.\u0663",
        ),
    ],
)
def test_invalid_weight_counts_as_zero(weight: str) -> None:
    """The client does not get what it may have refused."""
    assert parse_weighted(f"a;q={weight}")[0] == ("a", 0.0)


@pytest.mark.parametrize(
    "value, tags",
    [
        pytest.param("", [], id="empty"),
        pytest.param('"a"', [('"a"', False)], id="strong"),
        pytest.param('W/"a"', [('"a"', True)], id="weak"),
        pytest.param('""', [('""', False)], id="empty tag"),
        pytest.param('"a",W/"b"', [('"a"', False), ('"b"', True)], id="list"),
        pytest.param(', "a",,\t', [('"a"', False)], id="empty members"),
        pytest.param('"a,b"', [('"a,b"', False)], id="comma in a tag"),
        pytest.param(r'"a\b"', [(r'"a\b"', False)], id="backslash in a tag"),
        pytest.param('"a\\", "b"', [('"a\\"', False), ('"b"', False)], id="no escape"),
        pytest.param('"\u00e9"', [('"\u00e9"', False)], id="obsolete text"),
        pytest.param('*, a, w/"b", W/ "c"', [], id="no tags"),
        pytest.param('"a b", "a"x, "a" "b", "\x7f"', [], id="invalid characters"),
        pytest.param('x, "b", "c', [('"b"', False)], id="one valid of three"),
    ],
)
def test_entity_tags_are_read(value: str, tags: list[tuple[str, bool]]) -> None:
    """Members of a list that are no entity tags are ignored."""
    assert parse_entity_tags(value) == tags


@given(values)
@example(";")
@example('"\\')
def test_any_text_can_be_parsed(value: str) -> None:
    """No text of a client makes parsing fail, and what is found is well formed."""
    members = split_list(value)
    weighted = parse_weighted(value)
    tags = parse_entity_tags(value)

    assert all(member and member == member.strip() for member in members)
    assert len(weighted) == len(members)
    assert all(0.0 <= each.quality <= 1.0 for each in weighted)
    assert all(each.value == each.value.lower() for each in weighted)
    assert all(tag.opaque in value for tag in tags)
    assert all(tag.opaque.strip('"').count('"') == 0 for tag in tags)
