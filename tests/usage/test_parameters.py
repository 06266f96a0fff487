"""Parameters of usage requests: a plan, an order of messages, a time zone."""

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.errors import UnknownPlan
from service.usage.parameters import find_plan, parse_sort, parse_zone
from service.web.parameters import InvalidParameter

Sort = tuple[tuple[str, bool], ...]

# Plans.


@pytest.mark.parametrize(
    "name", ["", "flat-rate", "text-rules/2", "text-rules/", "TEXT-RULES", "/1"]
)
def test_unknown_plan_lists_the_known_ones(name: str) -> None:
    """There is no default for a plan that does not exist."""
    with pytest.raises(UnknownPlan) as raised:
        find_plan(name)

    assert raised.value.known == ("text-rules", "token-estimate")


# Order.


@pytest.mark.parametrize(
    "written, sort",
    [
        (None, ()),
        ("", ()),
        (";", ()),
        ("timestamp", (("timestamp", False),)),
        ("timestamp:", (("timestamp", False),)),
        ("timestamp:asc", (("timestamp", False),)),
        (
            "credits_used:desc;report_name:asc",
            (("credits_used", True), ("report_name", False)),
        ),
        (";message_id:desc;", (("message_id", True),)),
        (
            "message_id:desc;timestamp;message_id:asc",
            (("message_id", True), ("timestamp", False)),
        ),
        (";".join(["timestamp:desc"] * 500), (("timestamp", True),)),
    ],
)
def test_sort_is_read(written: str | None, sort: Sort) -> None:
    """The dashboard's form; of a column named again only the first mention counts."""
    assert parse_sort(written) == sort


@pytest.mark.parametrize(
    "written",
    [
        *("text", "id:asc", "MESSAGE_ID", "message_id:DESC", "message_id:up", ":asc"),
        *("message_id:asc:desc", "message_id asc", "message_id,timestamp", ":", "\0"),
        *("__class__:asc", "timestamp:asc;nothing:asc", "\u0131d", "\ud800"),
    ],
)
def test_sort_that_makes_no_sense_is_refused(written: str) -> None:
    """An unknown column or direction is the caller's error, which lists the known."""
    with pytest.raises(InvalidParameter, match="credits_used") as error:
        parse_sort(written)
    assert error.value.name == "sort"


# Zones.


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "Nowhere", "Europe", "Europe/", "Europe/London/", "Europe//London"),
        *("../etc/passwd", "/etc/localtime", "Europe/../Europe/London", ".", ".."),
        *("\0", "Europe/London\0", "\ud800", "\u00e9", "x" * 5000, "a/" * 2000),
        *("+01:00", "UTC+1", "__init__.py", "zone.tab", "tzdata.zi", "a.b/c.d"),
    ],
    ids=lambda name: repr(name[:24]),
)
def test_name_of_no_zone_is_refused(name: str) -> None:
    """Nothing sent as a zone opens another file or fails in another way."""
    with pytest.raises(InvalidParameter, match="Europe/London") as error:
        parse_zone(name)
    assert error.value.name == "tz"


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_zone_or_refusal_is_all_there_is(name: str) -> None:
    """Any text is a zone, or the caller's error."""
    try:
        zone = parse_zone(name)
    except InvalidParameter:
        return
    assert zone is not None
    assert ZoneInfo(zone).key == name
