"""Queries over HTTP on each database: filters, pages, sessions and counts."""

import asyncio
from typing import Final

import pytest
from yarl import URL

from tests.events.conftest import (
    PAGE,
    SESSION,
    Caller,
    all_pages,
    ask,
    at,
    event,
    next_page,
    paths_of,
    send,
)

TOLD_APART: Final = [
    at("a", session_id="s1", timestamp="2024-05-01T00:00:00Z"),
    at("b", session_id="s1", timestamp="2024-05-02T00:00:00Z", name="scrolled"),
    at("c", session_id="s2", timestamp="2024-05-03T00:00:00Z", category="other"),
    at("d", session_id="s2", timestamp="2024-05-04T02:00:00+02:00"),
    at("e", session_id="s2", timestamp="2024-05-04 00:00:00.000001"),
]


FILTERS: Final[list[tuple[dict[str, str], str]]] = [
    ({}, "abcde"),
    ({"session_id": "s1"}, "ab"),
    ({"category": "other"}, "c"),
    ({"name": "scrolled"}, "b"),
    ({"from": "2024-05-02T00:00:00.000001Z"}, "cde"),
    ({"to": "2024-05-04T00:00:00.000001Z"}, "abcd"),
    ({"from": "2024-05-04T02:00+02:00", "to": "2024-05-04T00:00:00.000001"}, "d"),
    ({"from": "2024-05-04", "to": "2024-05-01"}, ""),
    ({"category": "page interaction", "name": "pageview"}, "ade"),
    (
        {
            "session_id": "s2",
            "category": "page interaction",
            "name": "pageview",
            "from": "2024-05-04T00:00:00.000001Z",
            "to": "2024-05-05",
        },
        "e",
    ),
    ({"from": "0001-01-01", "to": "9999-12-31T23:59:59.999999-23:59"}, "abcde"),
    ({"application": "shop"}, "abcde"),
]


async def test_filters_are_combined(caller: Caller) -> None:
    """All filters apply together; `from` is inclusive, `to` exclusive."""
    client = await caller()
    await send(client, *reversed(TOLD_APART))

    for filters, found in FILTERS:
        answer = await ask(client, "/events", **filters)

        assert "".join(paths_of(answer["events"])) == found, filters


async def test_events_are_in_order_of_time_and_then_of_arrival(caller: Caller) -> None:
    """Timestamps are compared as instants; equal ones are ordered by arrival."""
    client = await caller()
    await send(client, at("c", timestamp="2024-05-01T12:00:00Z"))
    await send(
        client,
        at("d", timestamp="2024-05-01T13:00:00+01:00"),
        at("a", timestamp="0001-01-01T00:00:00+23:59"),
        at("e", timestamp="2024-05-01 12:00:00"),
        at("b", timestamp="1969-12-31T23:59:59.999999Z"),
    )

    assert paths_of((await ask(client, "/events"))["events"]) == list("abcde")


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
async def test_pages_lead_to_the_end(caller: Caller, limit: int) -> None:
    """The pages have each event once, in order, despite equal timestamps."""
    client = await caller()
    for start in (0, 3):
        await send(
            client,
            *(
                at(f"{n:02}", timestamp="2024-05-01T00:00Z")
                for n in range(start, start + 3)
            ),
        )
    await send(client, at("06", timestamp="2024-05-02T00:00Z"))

    path = f"/events?limit={limit}&category=page+interaction&to=2024-06-01"
    pages = await all_pages(client, path, "events")

    assert [len(each) for each in pages[:-1]] == [limit] * (len(pages) - 1)
    assert 1 <= len(pages[-1]) <= limit
    together = paths_of([each for page in pages for each in page])
    assert together == [f"{n:02}" for n in range(7)]


async def test_events_that_arrive_between_pages_move_nothing(caller: Caller) -> None:
    """The pages have the first events once, and later events at their places.

    Before each page an earlier, a later and a simultaneous event arrive.
    """
    client = await caller()
    now = "2024-05-01T00:00Z"
    await send(client, *(at(f"old {n}", timestamp=now) for n in range(9)))
    seen: list[str] = []
    following: URL | None = URL("/events?limit=2")
    for number in range(100):
        assert following is not None
        for moment in ("2023-01-01 00:00", now, "2025-01-01 00:00"):
            if number < 5:
                await send(client, at(f"new {number} {moment}", timestamp=moment))
        async with client.get(following) as answer:
            seen += paths_of((await answer.json())["events"])
            following = next_page(answer)
        if following is None:
            break

    assert [each for each in seen if each.startswith("old")] == [
        f"old {n}" for n in range(9)
    ]
    assert len(set(seen)) == len(seen)
    assert [each for each in seen if each.endswith(now)] == [
        f"new {n} {now}" for n in range(5)
    ]
    assert [each for each in seen if "2025" in each] == [
        f"new {n} 2025-01-01 00:00" for n in range(5)
    ]


async def test_a_page_of_large_events_ends_early(
    caller: Caller,
) -> None:
    """A page has fewer large events than requested, and the next page continues."""
    client = await caller()
    large = {**PAGE, "referrer": "x" * 32_000}
    for start in range(0, 300, 30):
        await send(
            client,
            *(
                event(id=f"{n:03}", data={**large, "path": f"{n:03}"})
                for n in range(start, start + 30)
            ),
        )

    pages = await all_pages(client, "/events?limit=1000", "events")

    assert len(pages) == 2
    assert len(pages[0]) > 200
    together = [each["id"] for page in pages for each in page]
    assert together == [f"{n:03}" for n in range(300)]
    session = await ask(client, f"/sessions/{SESSION}")
    assert session["number_of_events"] == 300
    assert len(session["events"]) == len(pages[0])


async def test_a_session_is_derived_from_its_events(caller: Caller) -> None:
    """`first` and `last` are timestamps of events, verbatim, in any arrival order."""
    client = await caller()
    moments = ["2024-05-01T12:00:00+02:00", "2024-05-01 11:00", "2024-05-01T09:59:59Z"]
    await asyncio.gather(*(send(client, at(each, timestamp=each)) for each in moments))

    session = await ask(client, f"/sessions/{SESSION}")

    assert (session["first"], session["last"]) == (moments[2], moments[1])
    assert session["number_of_events"] == 3
    assert paths_of(session["events"]) == [moments[2], moments[0], moments[1]]


async def test_a_long_session_lists_its_first_events(caller: Caller) -> None:
    """A session lists 10,000 events; its number and last time are of all events."""
    client = await caller()
    for start in range(0, 10_001, 1_000):
        stop = min(start + 1_000, 10_001)
        await send(client, *(event(id=f"{n:05}") for n in range(start, stop)))
    last = "2021-01-02T00:00:00Z"
    await send(client, event(id="last", timestamp=last))

    session = await ask(client, f"/sessions/{SESSION}")

    assert session["number_of_events"] == 10_002
    assert session["last"] == last
    assert [each["id"] for each in session["events"]] == [
        f"{n:05}" for n in range(10_000)
    ]
    pages = await all_pages(
        client, f"/events?limit=1000&session_id={SESSION}", "events"
    )
    assert sum(map(len, pages)) == 10_002


async def test_any_session_id_can_be_queried(caller: Caller) -> None:
    """Every valid session id works in a path, percent-encoded."""
    client = await caller()
    for name in ("a b", "a/b", "ä€😀", "%", "..", "?", "x" * 200, "+"):
        await send(client, event(session_id=name))
        encoded = "".join(f"%{byte:02X}" for byte in name.encode())

        answer = await client.get(URL(f"/sessions/{encoded}", encoded=True))

        assert answer.status == 200, name
        assert (await answer.json())["session_id"] == name


async def test_an_unknown_session_is_not_found(caller: Caller) -> None:
    """The answer is 404, also for an id that no database can store."""
    client = await caller()
    await send(client, event())

    for name in ("none", "%00", "a%00b", "%FF", "x" * 2000):
        answer = await client.get(URL(f"/sessions/{name}", encoded=True))

        assert answer.status == 404, name
        assert (await answer.json())["code"] == "session_not_found"


FAILED_FILTERS: Final[list[tuple[dict[str, str], str]]] = [
    ({}, "abcd"),
    ({"session_id": "s1"}, "ab"),
    ({"category": "other"}, "c"),
    ({"name": "scrolled"}, "b"),
    ({"from": "2024-05-02T00:00:00Z"}, "abcd"),
    ({"to": "2024-05-02T00:00:00Z"}, ""),
    ({"code": "unreadable_timestamp", "from": "2024-05-02"}, "d"),
    ({"session_id": "s2", "name": "scrolled"}, ""),
]


async def test_failed_events_have_the_same_filters(caller: Caller) -> None:
    """Filters use the fields that could be parsed, and the time of the arrival."""
    client = await caller()
    wrong = {"colour": "red"}
    scrolled = {"name": "scrolled", **wrong}
    await send(
        client,
        at("a", session_id="s1", timestamp="2024-05-01T00:00Z", **wrong),
        at("b", session_id="s1", timestamp="2024-05-02T00:00Z", **scrolled),
        at(
            "c",
            session_id="s2",
            timestamp="2024-05-03T00:00Z",
            category="other",
            **wrong,
        ),
        at("d", session_id="s2", timestamp="soon", **wrong),
    )

    for filters, found in FAILED_FILTERS:
        answer = await ask(client, "/events/failed", **filters)

        assert (
            "".join(paths_of([each["event"] for each in answer["failed"]])) == found
        ), filters


async def test_failed_events_come_in_pages(caller: Caller) -> None:
    """The pages have each failure once, by arrival, though it was sent twice."""
    client = await caller()
    broken = [at(f"{n}", session_id="") for n in range(5)]
    await send(client, *broken)
    await send(client, *broken)

    pages = await all_pages(client, "/events/failed?limit=2", "failed")

    assert [len(each) for each in pages] == [2, 2, 1]
    events = [each["event"] for page in pages for each in page]
    assert events == broken


COUNTED: Final = [
    at("a", timestamp="2024-05-01T00:00:00Z"),
    at("b", timestamp="2024-05-01T00:59:59.999999Z"),
    at("c", timestamp="2024-05-01T01:00:00Z", category="other", session_id="s2"),
    at("d", timestamp="1969-12-31T23:59:59.999999Z", name="scrolled"),
    at("e", timestamp="0001-01-01T00:00:00+23:59"),
    at("f", timestamp="2024-05-01T00:00:00Z", session_id="", colour="red"),
    at("g", timestamp="2024-05-02T00:00:00Z", session_id=""),
]


COUNTS: Final[list[tuple[dict[str, str], list[tuple[str, int]]]]] = [
    ({}, [("page interaction", 4), ("other", 1)]),
    ({"by": "name"}, [("pageview", 4), ("scrolled", 1)]),
    (
        {"by": "hour"},
        [
            ("0000-12-31T00:00Z", 1),
            ("1969-12-31T23:00Z", 1),
            ("2024-05-01T00:00Z", 2),
            ("2024-05-01T01:00Z", 1),
        ],
    ),
    ({"by": "error"}, [("wrong_length", 2), ("unknown_field", 1)]),
    ({"by": "name", "category": "other"}, [("pageview", 1)]),
    (
        {"by": "hour", "from": "2024-05-01", "to": "2024-05-01T01:00:00Z"},
        [("2024-05-01T00:00Z", 2)],
    ),
    ({"by": "error", "to": "2024-05-02"}, []),
    (
        {"by": "error", "from": "2024-05-02", "limit": "1"},
        [("wrong_length", 2)],
    ),
    ({"by": "name", "limit": "1"}, [("pageview", 4)]),
    (
        {
            "by": "hour",
            "zeros": "true",
            "from": "2024-04-30T23:30",
            "to": "2024-05-01T00:30",
        },
        [("2024-04-30T23:00Z", 0), ("2024-05-01T00:00Z", 1)],
    ),
    ({"by": "name", "session_id": "none"}, []),
]


async def test_events_are_counted(caller: Caller) -> None:
    """Counts are by frequency, hours ascending; filters apply."""
    client = await caller()
    await send(client, *COUNTED)

    for parameters, counts in COUNTS:
        stats = await ask(client, "/events/stats", **parameters)

        assert stats["by"] == parameters.get("by", "category")
        counted = [(each["value"], each["events"]) for each in stats["counts"]]
        assert counted == counts, parameters
