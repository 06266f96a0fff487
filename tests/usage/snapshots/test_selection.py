"""A selection is what filtering, sorting and paging by hand would give."""

import base64
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.instants import read_instant
from service.parameters import (
    InvalidParameter,
    encode_cursor,
    parse_cursor,
    parse_instant,
)
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.errors import CursorExpired
from service.usage.snapshots.selection import (
    EVERYTHING,
    SORT_COLUMNS,
    Cursor,
    Selection,
    select,
)
from tests.reference import items_of, message, priced_of, report

Sort = tuple[tuple[str, bool], ...]

REPORTS: Final = (
    report("1", "Tenant", 2)
    | report("2", "lease", 1)
    | report("3", "Lease", 1)
    | report("4", "Äcker", 61)
    | report("5", "", 1.85)
)
KINDS: Final[list[dict[str, Any]]] = [
    {"text": "rent rent"},
    {"text": "zz zz -"},
    {"text": ""},
    *({"report_id": number} for number in range(1, 7)),
]


def stamp(second: int) -> str:
    """A moment so many seconds into the period."""
    return f"2024-04-29T00:{second // 60:02}:{second % 60:02}Z"


def period(size: int) -> PricedMessages:
    """Messages of every kind, with few enough values that sorting has ties."""
    return priced_of(
        [
            message(
                row * 7 % 5 - 2,
                timestamp=stamp(row * 11 % 13),
                **KINDS[row * 5 % len(KINDS)],
            )
            for row in range(size)
        ],
        REPORTS,
    )


PRICED: Final = period(60)

KEYS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "message_id": lambda item: item["message_id"],
    "timestamp": lambda item: read_instant(item["timestamp"]),
    "report_name": lambda item: ("report_name" in item, item.get("report_name", "")),
    "credits_used": lambda item: item["credits_used"],
}


def sorted_by_hand(priced: PricedMessages, sort: Sort) -> list[int]:
    items = items_of(priced)
    rows = list(range(len(items)))
    for column, is_descending in reversed(sort):
        key = KEYS[column]
        rows.sort(key=lambda row: key(items[row]), reverse=is_descending)
    return rows


def rows_of(priced: PricedMessages, selection: Selection) -> list[int]:
    rows: list[int] = select(priced, selection).rows.tolist()
    return rows


def pages(priced: PricedMessages, selection: Selection) -> Iterable[list[int]]:
    """Every page, each cursor carried as a caller carries it."""
    for _ in range(len(priced) + 1):
        page = select(priced, selection)
        yield page.rows.tolist()
        if page.next is None:
            return
        cursor = parse_cursor(encode_cursor(page.next), Cursor)
        selection = selection._replace(cursor=cursor)
    pytest.fail("the pages do not come to an end")


def flatten(pages: Iterable[list[int]]) -> list[int]:
    return [row for page in pages for row in page]


sorts = st.lists(
    st.tuples(st.sampled_from(sorted(KEYS)), st.booleans()), max_size=4
).map(tuple)


# Filters.


@pytest.mark.parametrize(
    "since, until, rows",
    [
        (None, None, [0, 1, 2, 3]),
        (stamp(10), None, [0, 1, 2, 3]),
        (stamp(11), None, [1, 3]),
        (None, stamp(10), []),
        (None, stamp(11), [0, 2]),
        (stamp(10), stamp(11), [0, 2]),
        (stamp(11), stamp(11), []),
        (stamp(12), stamp(10), []),
        ("2024-04-29T02:00:10+02:00", "2024-04-29T00:00:10.000001", [0, 2]),
        ("0001-01-01", "9999-12-31", [0, 1, 2, 3]),
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", [0, 1, 2, 3]),
    ],
)
def test_filter_takes_its_start_and_leaves_its_end(
    since: str | None, until: str | None, rows: list[int]
) -> None:
    """`from` is inclusive and `to` exclusive, as instants and not as texts."""
    moments = [stamp(10), stamp(11), "2024-04-29T01:00:10+01:00", stamp(12)]
    priced = priced_of(
        message(row, timestamp=timestamp) for row, timestamp in enumerate(moments)
    )
    selection = Selection(
        since=parse_instant("from", since), until=parse_instant("to", until)
    )
    assert rows_of(priced, selection) == rows


@given(st.lists(st.integers(-5, 20), max_size=6), sorts)
def test_neighbouring_filters_share_the_period_out(
    bounds: list[int], sort: Sort
) -> None:
    """Half-open ranges that meet lose no message and repeat none."""
    first = read_instant("2024-04-29")
    moments = [None, *(first + second * 1_000_000 for second in sorted(bounds)), None]
    parts = [
        rows_of(PRICED, Selection(since=since, until=until, sort=sort))
        for since, until in pairwise(moments)
    ]
    assert sorted(flatten(parts)) == list(range(len(PRICED)))


def test_default_selection_is_everything() -> None:
    """Without filters, order and limit the whole period is one page."""
    page = select(PRICED, EVERYTHING)
    assert page.rows.tolist() == list(range(len(PRICED)))
    assert page.next is None


# Sorting.


@pytest.mark.parametrize("is_descending", [False, True], ids=["asc", "desc"])
@pytest.mark.parametrize("column", SORT_COLUMNS)
def test_each_column_sorts_both_ways(column: str, *, is_descending: bool) -> None:
    """Sorted by one column, ties keep upstream's order in either direction."""
    sort = ((column, is_descending),)
    rows = rows_of(PRICED, Selection(sort=sort))
    assert rows == sorted_by_hand(PRICED, sort)
    keys = [KEYS[column](items_of(PRICED)[row]) for row in rows]
    assert keys == sorted(keys, reverse=is_descending)


@given(sorts, st.integers(0, 40))
def test_several_columns_sort_by_importance(sort: Sort, size: int) -> None:
    """The first column decides, each further one only among equals, stably."""
    priced = period(size)
    assert rows_of(priced, Selection(sort=sort)) == sorted_by_hand(priced, sort)


def test_messages_without_a_report_come_first_by_name() -> None:
    """Ascending by report name, the unnamed lead, even before an empty name."""
    rows = rows_of(PRICED, Selection(sort=(("report_name", False),)))
    names = [items_of(PRICED)[row].get("report_name") for row in rows]
    unnamed = names.count(None)
    assert names[:unnamed] == [None] * unnamed
    assert list(dict.fromkeys(names)) == [None, "", "Lease", "Tenant", "lease", "Äcker"]


@pytest.mark.parametrize("edge", [2**63 - 1, -(2**63)])
def test_extreme_ids_sort_right(edge: int) -> None:
    """Turning the order round does not overflow at the ends of 64 bits."""
    priced = priced_of([message(0), message(edge), message(1)])
    rows = rows_of(priced, Selection(sort=(("message_id", True),)))
    assert rows == ([1, 2, 0] if edge > 0 else [2, 0, 1])


@pytest.mark.parametrize("written", ["", "soon", "2024-02-30", "\u0661", "\ud800", " "])
def test_moment_that_cannot_be_read_is_refused(written: str) -> None:
    """A filter that is no moment is the caller's error, by the parameter's name."""
    with pytest.raises(InvalidParameter, match="ISO 8601") as error:
        parse_instant("from", written)
    assert error.value.name == "from"


# Pages.


@given(sorts, st.integers(1, 70), st.integers(0, 60))
def test_pages_make_up_the_whole(sort: Sort, limit: int, size: int) -> None:
    """Under any order and page size, the pages in turn are the selection."""
    priced = period(size)
    found = list(pages(priced, Selection(sort=sort, limit=limit)))
    assert flatten(found) == sorted_by_hand(priced, sort)
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1] or not size


@pytest.mark.parametrize("size", [0, 1, 4, 5])
def test_only_a_cut_selection_has_a_next_page(size: int) -> None:
    """A page that holds the last message has no next one, even if it is full."""
    page = select(period(size), Selection(limit=4))
    assert len(page.rows) == min(size, 4)
    assert (page.next is not None) == (size > 4)


def test_rest_without_a_limit_is_one_page() -> None:
    """A cursor alone asks for everything behind it."""
    page = select(PRICED, Selection(limit=7))
    rest = select(PRICED, Selection(cursor=page.next))
    assert [*page.rows.tolist(), *rest.rows.tolist()] == list(range(len(PRICED)))
    assert rest.next is None


@given(sorts, st.integers(1, 30), st.integers(0, 30))
def test_pages_go_on_after_the_period_grew(sort: Sort, limit: int, more: int) -> None:
    """Messages that arrive between two pages neither shift nor repeat any."""
    first = select(period(31), Selection(sort=sort, limit=limit))
    grown = period(31 + more)
    rest = flatten(pages(grown, Selection(sort=sort, limit=limit, cursor=first.next)))
    whole = sorted_by_hand(grown, sort)
    last = int(first.rows[-1])
    assert rest == whole[whole.index(last) + 1 :]
    assert not set(rest) & set(first.rows.tolist())
    assert set(range(31)) <= {*rest, *first.rows.tolist()}


@pytest.mark.parametrize(
    "now",
    [[], [message(1)], [message(1), message(3)], [message(0), message(1), message(2)]],
    ids=["empty", "shorter", "replaced", "shifted"],
)
def test_cursor_whose_message_is_gone_has_expired(now: list[dict[str, Any]]) -> None:
    """Where the page's last message is not in its place, no page is made up."""
    page = select(priced_of([message(1), message(2), message(3)]), Selection(limit=2))
    with pytest.raises(CursorExpired):
        select(priced_of(now), Selection(limit=2, cursor=page.next))


def test_cursor_outside_the_filter_has_expired() -> None:
    """A cursor does not carry over to a filter that its message does not pass."""
    page = select(PRICED, Selection(limit=5))
    with pytest.raises(CursorExpired):
        select(PRICED, Selection(since=read_instant("2025-01-01"), cursor=page.next))


# Cursors.


def written(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(st.integers(0, 2**40), st.integers(-(2**63), 2**63 - 1))
def test_cursor_survives_the_way_through_a_url(row: int, message_id: int) -> None:
    """What is given out is read back the same, and needs no escaping."""
    carried = encode_cursor(Cursor(row, message_id))
    assert parse_cursor(carried, Cursor) == Cursor(row, message_id)
    assert carried.replace("-", "").replace("_", "").isalnum()
    assert carried.isascii()


def test_no_cursor_is_none() -> None:
    """Most questions carry no cursor."""
    assert parse_cursor(None, Cursor) is None


@pytest.mark.parametrize(
    "value",
    [
        *("", "=", "====", "a", "!", "%5B", "WzEsMl0 ", "\u00e9", "\ud800", "\0"),
        *map(written, [b"", b"null", b"{}", b"[]", b"[1]", b"[1,2,3]", b"[1,2]x"]),
        *map(written, [b"[1.5,2]", b"[1e30,2]", b'["1",2]', b"[true,2]", b"\xff[1,2]"]),
        *map(written, [b"[1,2," + b"[" * 6000, b"[" * 6000, b"[1" + b"0" * 5000]),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_cursor_not_of_our_making_is_refused(value: str) -> None:
    """Garbage, other JSON and nesting without end are the caller's error."""
    with pytest.raises(InvalidParameter, match="Link header") as error:
        parse_cursor(value, Cursor)
    assert error.value.name == "cursor"


@pytest.mark.parametrize(
    "cursor",
    [
        *(Cursor(-1, 0), Cursor(-60, -2), Cursor(60, 0), Cursor(2**63, 0)),
        *(Cursor(2**70, 2**70), Cursor(-(2**70), 0), Cursor(0, 2**70), Cursor(0, 99)),
    ],
    ids=str,
)
def test_forged_cursor_has_expired(cursor: Cursor) -> None:
    """A row or id that does not exist leads to no message, and to no crash."""
    text = written(msgspec.json.encode([cursor.row, cursor.message_id]))
    forged = parse_cursor(text, Cursor)
    assert forged == cursor
    with pytest.raises(CursorExpired):
        select(PRICED, Selection(cursor=forged))


@given(
    st.one_of(
        st.text(),
        st.binary().map(written),
        st.tuples(st.integers(), st.integers()).map(msgspec.json.encode).map(written),
    ),
    sorts,
)
def test_no_cursor_leads_to_another_error(value: str, sort: Sort) -> None:
    """Whatever is sent as a cursor gives a page, or one of two errors."""
    with suppress(InvalidParameter, CursorExpired):
        page = select(
            PRICED, Selection(sort=sort, limit=3, cursor=parse_cursor(value, Cursor))
        )
        assert np.isin(page.rows, np.arange(len(PRICED))).all()
