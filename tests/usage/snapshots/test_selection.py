"""A selection is what filtering, sorting and paging by hand would give."""

import base64
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.instants import ExactInstant, read_exact, read_instant
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.cursors import MessageCursor, Sort, mark_of
from service.usage.snapshots.errors import CursorExpired, RangeNotCovered
from service.usage.snapshots.selection import Selection, select
from service.web.parameters import (
    InvalidParameter,
    encode_cursor,
    parse_cursor,
    parse_exact_instant,
)
from tests.reference import Reports, build_of, items_of, message, priced_of, report

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


HALF_NS: Final = 500_000_000
"""In attoseconds."""


def stamp(second: int, fraction: str = "") -> str:
    """A moment so many seconds into the period."""
    return f"2024-04-29T00:{second // 60:02}:{second % 60:02}{fraction}Z"


def period_rows(size: int) -> list[dict[str, Any]]:
    """Messages of every kind, with few enough values that sorting has ties."""
    return [
        message(
            row * 7 % 5 - 2,
            timestamp=stamp(row * 11 % 13, "" if row % 4 else ".0000000005"),
            **KINDS[row * 5 % len(KINDS)],
        )
        for row in range(size)
    ]


def period(size: int) -> PricedMessages:
    """The same, priced."""
    return priced_of(period_rows(size), REPORTS)


PRICED: Final = period(60)

KEYS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "message_id": lambda item: item["message_id"],
    "timestamp": lambda item: read_exact(item["timestamp"]),
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
        cursor = parse_cursor(encode_cursor(page.next), MessageCursor)
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
        (None, stamp(10, ".000000000000000001"), [0, 2]),
        (None, stamp(11), [0, 2]),
        (stamp(10), stamp(11), [0, 2]),
        (stamp(11), stamp(11), []),
        (stamp(12), stamp(11), []),
        (stamp(10, ".0000001"), stamp(11, ".0000001"), [1]),
        ("2024-04-29T02:00:10+02:00", "2024-04-29t00:00:10.000001z", [0, 2]),
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
        since=parse_exact_instant("from", since), until=parse_exact_instant("to", until)
    )
    assert rows_of(priced, selection) == rows


@pytest.mark.parametrize(
    "since, until",
    [
        (None, stamp(10)),
        (stamp(12), stamp(10)),
        (None, stamp(10, ".0000000005")),
        (None, "0001-01-01T00:00:00+14:00"),
    ],
)
def test_range_before_the_first_message_is_not_covered(
    since: str | None, until: str
) -> None:
    """No messages are known there, which is not the same as none were sent."""
    priced = priced_of([message(1, timestamp=stamp(10, ".0000000005"))])
    selection = Selection(
        since=parse_exact_instant("from", since), until=parse_exact_instant("to", until)
    )
    with pytest.raises(RangeNotCovered) as raised:
        select(priced, selection)
    assert raised.value.args == ("2024-04-29T00:00:10.000000Z",)


@pytest.mark.parametrize(
    "timestamp, date",
    [
        ("2024-04-29T23:59:59.9999999Z", "2024-04-29"),
        ("2024-04-29T00:30:00+01:00", "2024-04-28"),
        ("0001-01-01T00:00:00+14:00", "0000-12-31"),
        ("9999-12-31T23:59:59-14:00", "10000-01-01"),
    ],
)
def test_any_readable_timestamp_may_begin_the_period(timestamp: str, date: str) -> None:
    """Its date is in UTC, also where an offset moves it out of the years 1 to 9999."""
    assert priced_of([message(1, timestamp=timestamp)]).summary.begins_on == date


@given(
    st.lists(
        st.tuples(
            st.integers(-5, 20), st.sampled_from([0, 1, HALF_NS, HALF_NS + 1, 10**11])
        ),
        max_size=6,
    ),
    sorts,
)
def test_neighbouring_filters_share_the_period_out(
    bounds: list[tuple[int, int]], sort: Sort
) -> None:
    """Half-open ranges that meet lose no message and repeat none."""
    start = read_instant("2024-04-29")
    first = min(read_exact(each) for each in PRICED.messages.timestamps)
    exact = [(start + second * 1_000_000, atto) for second, atto in sorted(bounds)]

    def part(since: ExactInstant | None, until: ExactInstant | None) -> list[int]:
        selection = Selection(since=since, until=until, sort=sort)
        if until is None or until > first:
            return rows_of(PRICED, selection)
        with pytest.raises(RangeNotCovered):
            select(PRICED, selection)
        return []

    parts = [part(since, until) for since, until in pairwise([None, *exact, None])]
    assert sorted(flatten(parts)) == list(range(len(PRICED)))


# Sorting.


@given(sorts, st.integers(0, 40))
def test_several_columns_sort_by_importance(sort: Sort, size: int) -> None:
    """The first column decides, each further one only among equals, stably."""
    priced = period(size)
    assert rows_of(priced, Selection(sort=sort)) == sorted_by_hand(priced, sort)


@pytest.mark.parametrize("edge", [2**63 - 1, -(2**63)])
def test_extreme_ids_sort_right(edge: int) -> None:
    """Turning the order round does not overflow at the ends of 64 bits."""
    priced = priced_of([message(0), message(edge), message(1)])
    rows = rows_of(priced, Selection(sort=(("message_id", True),)))
    assert rows == ([1, 2, 0] if edge > 0 else [2, 0, 1])


# Pages.


@given(sorts, st.integers(1, 70), st.integers(0, 60))
def test_pages_make_up_the_whole(sort: Sort, limit: int, size: int) -> None:
    """Under any order and page size, the pages in turn are the selection."""
    priced = period(size)
    found = list(pages(priced, Selection(sort=sort, limit=limit)))
    assert flatten(found) == sorted_by_hand(priced, sort)
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1] or not size


def test_rest_without_a_limit_is_one_page() -> None:
    """A cursor alone asks for everything behind it."""
    page = select(PRICED, Selection(limit=7))
    rest = select(PRICED, Selection(cursor=page.next))
    assert [*page.rows.tolist(), *rest.rows.tolist()] == list(range(len(PRICED)))
    assert rest.next is None


@pytest.mark.parametrize("way", ["same refresh", "next refresh", "another process"])
@given(
    sort=sorts,
    limit=st.integers(1, 30),
    size=st.integers(31, 45),
    more=st.integers(0, 30),
)
def test_pages_go_on_after_the_period_grew(
    way: str, sort: Sort, limit: int, size: int, more: int
) -> None:
    """Messages that arrive between two pages neither shift nor repeat any."""
    before = build_of(period_rows(size), REPORTS, refresh_id="a").priced
    first = select(before, Selection(sort=sort, limit=limit))
    grown = build_of(
        period_rows(size + more),
        REPORTS,
        before=before if way == "next refresh" else None,
        refresh_id="a" if way == "same refresh" else "b",
    ).priced
    rest = flatten(pages(grown, Selection(sort=sort, limit=limit, cursor=first.next)))
    whole = sorted_by_hand(grown, sort)
    last = int(first.rows[-1])
    assert rest == whole[whole.index(last) + 1 :]
    assert not set(rest) & set(first.rows.tolist())
    assert set(range(size)) <= {*rest, *first.rows.tolist()}


@given(
    sort=sorts,
    limit=st.integers(1, 20),
    removed=st.sets(st.integers(0, 29)),
    added=st.lists(st.integers(0, 40), max_size=8),
)
def test_pages_go_on_whatever_else_is_added_or_removed(
    sort: Sort, limit: int, removed: set[int], added: list[int]
) -> None:
    """The next pages are what the order now has after the last message."""
    sent = [each | {"id": row} for row, each in enumerate(period_rows(30))]
    before = build_of(sent, REPORTS, refresh_id="a").priced
    first = select(before, Selection(sort=sort, limit=limit))
    last = sent[int(first.rows[-1])]
    changed = [each for each in sent if each is last or each["id"] not in removed]
    for number, place in enumerate(added):
        new = message(100 + number, timestamp=stamp(place), **KINDS[place % len(KINDS)])
        changed.insert(place, new)
    now = build_of(changed, REPORTS, before=before, refresh_id="b").priced
    rest = flatten(pages(now, Selection(sort=sort, limit=limit, cursor=first.next)))
    whole = sorted_by_hand(now, sort)
    assert rest == whole[whole.index(changed.index(last)) + 1 :]


changes = st.fixed_dictionaries(
    {},
    optional={
        "text": st.sampled_from(["", "rent rent", "zz zz -"]),
        "timestamp": st.integers(0, 12).map(stamp),
        "report_id": st.integers(1, 7),
    },
)


@pytest.mark.parametrize("way", ["next refresh", "another process"])
@given(
    sort=sorts,
    limit=st.integers(1, 11),
    changed=st.dictionaries(st.integers(0, 11), changes, max_size=3),
    moved=st.dictionaries(st.integers(0, 11), st.integers(0, 11), max_size=2),
    removed=st.sets(st.integers(0, 11), max_size=2),
    reports=st.sampled_from([REPORTS, REPORTS | report("1", "Z", 99), {}]),
)
def test_pages_repeat_and_skip_nothing_whatever_changes(
    *,
    way: str,
    sort: Sort,
    limit: int,
    changed: dict[int, dict[str, Any]],
    moved: dict[int, int],
    removed: set[int],
    reports: Reports,
) -> None:
    """Where messages have passed the cursor, it has expired."""
    sent = [each | {"id": row} for row, each in enumerate(period_rows(12))]
    before = build_of(sent, REPORTS, refresh_id="a").priced
    first = select(before, Selection(sort=sort, limit=limit))
    now = [{**each, **changed.get(each["id"], {})} for each in sent]
    for old, new in moved.items():
        now.insert(new, now.pop(old))
    now = [each for each in now if each["id"] not in removed]
    is_next = way == "next refresh"
    priced = build_of(
        now, reports, before=before if is_next else None, refresh_id="b"
    ).priced
    with suppress(CursorExpired):
        query = Selection(sort=sort, limit=limit, cursor=first.next)
        rest = priced.messages.ids[flatten(pages(priced, query))].tolist()
        assert set(rest).isdisjoint(first.rows.tolist())
        assert {*rest, *first.rows.tolist()} >= {each["id"] for each in now}


@pytest.mark.parametrize(
    "now, why",
    [
        ([], "is gone"),
        ([message(1)], "is gone"),
        ([message(1), message(3)], "is gone"),
        ([message(1), message(2, timestamp=stamp(1)), message(3)], "another time"),
        ([message(n, timestamp="2024-05-01") for n in (1, 2, 3)], "another one"),
    ],
    ids=["empty", "shorter", "replaced", "sent at another time", "another period"],
)
def test_cursor_whose_message_is_gone_has_expired(
    now: list[dict[str, Any]], why: str
) -> None:
    """A page needs the last message of the previous page, with the same time."""
    page = select(priced_of([message(1), message(2), message(3)]), Selection(limit=2))
    with pytest.raises(CursorExpired, match=why):
        select(priced_of(now), Selection(limit=2, cursor=page.next))


def test_copies_of_a_message_are_told_apart_only_by_their_number() -> None:
    """Where a copy was added or removed, the last one is not known any more."""
    page = select(priced_of([message(1)] * 4), Selection(limit=3))
    rest = select(
        priced_of([*[message(1)] * 4, message(2)]), Selection(cursor=page.next)
    )
    assert rest.rows.tolist() == [3, 4]
    for copies in (2, 3, 5):
        with pytest.raises(CursorExpired):
            select(priced_of([message(1)] * copies), Selection(cursor=page.next))


def test_cursor_outside_the_filter_has_expired() -> None:
    """A cursor does not carry over to a filter that its message does not pass."""
    page = select(PRICED, Selection(limit=5))
    with pytest.raises(CursorExpired):
        select(PRICED, Selection(since=read_exact("2025-01-01"), cursor=page.next))


# Cursors.

int64 = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
cursors = st.builds(
    MessageCursor,
    query=st.text(),
    mark=st.text(),
    message_id=int64,
    instant=st.tuples(int64, int64),
    price=int64,
    name=st.text(),
    copy=st.tuples(counts, counts),
    twin=st.tuples(counts, counts),
    messages=counts,
    passed=st.text(),
)
FIELDS: Final[list[Any]] = [
    *("query", "mark", 7, [1_714_348_800_000_000, 0]),
    *(100, "name", [0, 1], [0, 1], 60, "ff"),
]
INVALID_FIELDS: Final[dict[int, list[Any]]] = {
    0: [None, 1, [], "\ud800"],
    1: [None, 1.5],
    2: [2**63, -(2**63) - 1, 2**70, 1.5, 1e30, "1", True, None],
    3: [1, [1], [1, 2, 3], [2**63, 0], [0, 2**63], ["0", 0], None],
    4: [None, "1", 0.5, 2**63],
    5: [None, 1],
    6: [1, [1], [-1, 1], [0, 2**63], [0.5, 1], ["0", 1]],
    7: [None, [0, 1, 2], [0, -1]],
    8: [-1, 2**63, None],
    9: [None, 0, ["ff"]],
}


def written(value: object) -> str:
    """The text of a cursor with this JSON, which may be invalid."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def with_field(place: int, value: object) -> list[Any]:
    """The fields of a valid cursor, one of them changed."""
    fields = [*FIELDS]
    fields[place] = value
    return fields


@given(cursors)
def test_cursor_is_decoded_to_an_equal_one(cursor: MessageCursor) -> None:
    """Every field keeps its value, also at the ends of 64 bits."""
    assert parse_cursor(encode_cursor(cursor), MessageCursor) == cursor


def test_fields_of_the_malformed_cursors_are_valid() -> None:
    """Each case below is refused for the one field that it changes."""
    assert parse_cursor(written(FIELDS), MessageCursor)


@pytest.mark.parametrize(
    "fields",
    [
        *([], FIELDS[:-1], [*FIELDS, 1]),
        *(
            with_field(place, value)
            for place, values in INVALID_FIELDS.items()
            for value in values
        ),
    ],
    ids=lambda fields: repr(fields)[-60:],
)
def test_cursor_with_invalid_fields_is_refused(fields: list[Any]) -> None:
    """A field of another type or size, or another number of fields, is an error."""
    with pytest.raises(InvalidParameter):
        parse_cursor(written(fields), MessageCursor)


PERIODS: Final = {
    "usual": PRICED,
    "empty": priced_of([]),
    "without fractions": priced_of(map(message, range(-2, 6))),
    "extreme": priced_of(
        message(each, timestamp=timestamp)
        for each in (2**63 - 1, -(2**63), 0)
        for timestamp in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")
    ),
}


@pytest.mark.parametrize("priced", PERIODS.values(), ids=PERIODS)
@given(data=st.data(), cursor=cursors, sort=sorts)
def test_forged_cursor_gives_a_page_or_has_expired(
    priced: PricedMessages, data: st.DataObject, cursor: MessageCursor, sort: Sort
) -> None:
    """Whatever fields a client forges lead to no other message, and to no crash."""
    messages, rows = priced.messages, range(len(priced))
    known = {(int(messages.ids[row]), messages.instant_at(row)) for row in rows}
    forged = [{"message_id": each, "instant": at} for each, at in sorted(known)]
    true: dict[str, Any] = data.draw(st.sampled_from([{}, *forged]))
    near: dict[str, Any] = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "mark": st.just(mark_of(priced, sort)),
                "copy": st.tuples(st.integers(0, 8), st.integers(0, 8)),
                "messages": st.integers(0, 80),
            },
        )
    )
    carried = encode_cursor(msgspec.structs.replace(cursor, **true, **near))
    selection = Selection(sort=sort, cursor=parse_cursor(carried, MessageCursor))
    with suppress(CursorExpired):
        found = rows_of(priced, selection)
        whole = sorted_by_hand(priced, sort)
        assert found == whole[len(whole) - len(found) :]


@given(
    st.lists(
        st.one_of(st.text(), st.integers(), st.lists(st.integers(), max_size=3)),
        max_size=10,
    ),
    sorts,
)
def test_no_cursor_leads_to_another_error(fields: list[Any], sort: Sort) -> None:
    """A cursor with any fields gives a page, or one of two errors."""
    cursor = written(fields)
    with suppress(InvalidParameter, CursorExpired):
        page = select(
            PRICED,
            Selection(sort=sort, limit=3, cursor=parse_cursor(cursor, MessageCursor)),
        )
        assert np.isin(page.rows, np.arange(len(PRICED))).all()
