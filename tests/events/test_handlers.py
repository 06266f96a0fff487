"""The endpoints of events, over a socket, on each database."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import ClientResponse
from yarl import URL

from tests.conftest import Client
from tests.events.conftest import SESSION, event, on_sqlite

Caller = Callable[..., Awaitable[Client]]
Json = dict[str, Any]

PAGE: Final = {"host": "www.example.com", "path": "/"}


async def send(client: Client, *events: Json) -> Json:
    """Send events in one request; gives the receipt."""
    async with client.post("/events", json=list(events)) as answer:
        assert answer.status == 202, await answer.text()
        receipt: Json = await answer.json()
        return receipt


async def ask(client: Client, path: str, **parameters: str | int) -> Json:
    """What a question is answered."""
    async with client.get(path, params=parameters) as answer:
        assert answer.status == 200, await answer.text()
        body: Json = await answer.json()
        return body


async def all_pages(client: Client, path: str, member: str) -> list[list[Json]]:
    """Every page from this one on, by `Link`."""
    pages: list[list[Json]] = []
    following = URL(path, encoded=True)
    while True:
        async with client.get(following) as answer:
            assert answer.status == 200, await answer.text()
            pages.append((await answer.json())[member])
        if (link := next_page(answer)) is None:
            return pages
        following = link


def next_page(answer: ClientResponse) -> URL | None:
    """Where `Link` says that the next page is."""
    link = answer.links.get("next")
    return URL(str(link["url"])).relative() if link else None


def paths_of(events: list[Json]) -> list[str]:
    """What tells the tests' events apart."""
    return [each["data"]["path"] for each in events]


def at(path: str, **more: Any) -> Json:
    """An event that can be told apart by its path."""
    return event(data={**PAGE, "path": path}, **more)


# --- sending, and what comes back ---------------------------------------------------


async def test_events_come_back_as_they_were_sent(caller: Caller) -> None:
    """The three of one session, at one moment, come back whole and in their order."""
    client = await caller()
    sent = [
        event(data=PAGE),
        event(name="cta click", data={**PAGE, "element": "chat bubble"}),
        event(
            category="form interaction",
            name="submit",
            data={**PAGE, "form": {"first_name": "John", "last_name": "Doe"}},
        ),
    ]

    receipt = await send(client, *sent)
    told = await ask(client, "/events", session_id=SESSION)

    assert receipt["accepted"] == 3
    assert [each["id"] for each in told["events"]] == [
        each["id"] for each in receipt["results"]
    ]
    kept = [{name: each[name] for name in sent[0]} for each in told["events"]]
    assert kept == sent
    assert {each["application"] for each in told["events"]} == {"shop"}
    assert all(each["received_at"].endswith("Z") for each in told["events"])


@pytest.mark.parametrize("form", ["one", "list", "lines", "gzip"])
async def test_every_form_of_a_body_is_taken(caller: Caller, form: str) -> None:
    """One object, a list, lines, and each of them compressed, are the same event."""
    client = await caller()
    one = msgspec.json.encode(event())
    bodies = {"one": one, "list": b"[" + one + b"]", "lines": one + b"\n\n"}
    media = "application/x-ndjson" if form == "lines" else "application/json"
    headers = {"Content-Type": media}
    body = bodies.get(form, one)
    if form == "gzip":
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body)

    answer = await client.post("/events", data=body, headers=headers)

    assert answer.status == 202
    assert (await answer.json())["accepted"] == 1
    assert len((await ask(client, "/events"))["events"]) == 1


async def test_the_receipt_tells_of_each_event_in_the_order_sent(
    caller: Caller,
) -> None:
    """Accepted, duplicate, conflict and failed stand where the event stood."""
    client = await caller()

    receipt = await send(
        client,
        event(id="a"),
        event(id="a"),
        event(id="a", name="other"),
        event(session_id=""),
        event(id="b"),
    )

    statuses = [each["status"] for each in receipt["results"]]
    assert statuses == ["accepted", "duplicate", "conflict", "failed", "accepted"]
    assert [each["id"] for each in receipt["results"]] == ["a", "a", "a", None, "b"]
    counted = {key: receipt[key] for key in ("accepted", "duplicates", "failed")}
    assert counted == {"accepted": 2, "duplicates": 1, "failed": 2}
    _, _, conflict, failed, _ = receipt["results"]
    assert [each["code"] for each in conflict["errors"]] == ["conflict"]
    assert [each["path"] for each in failed["errors"]] == ["/session_id"]


async def test_the_same_event_sent_by_many_at_once_is_there_once(
    caller: Caller,
) -> None:
    """However concurrently it comes, one request is told that it was first."""
    client, other = await caller(), await caller()

    receipts = await asyncio.gather(
        *(send(each, event(id="a")) for each in [client, other] * 8)
    )

    assert sum(each["accepted"] for each in receipts) == 1
    assert sum(each["duplicates"] for each in receipts) == 15
    assert len((await ask(client, "/events"))["events"]) == 1


@on_sqlite
async def test_no_events_are_no_reason_to_store_any(caller: Caller) -> None:
    """An empty list is a receipt of nothing, an empty body is not JSON."""
    client = await caller()
    headers = {"Content-Type": "application/json"}

    for body, status in (("[]", 202), ("", 400), (" ", 400), ("\n", 400)):
        answer = await client.post("/events", data=body, headers=headers)
        assert answer.status == status

    assert (await ask(client, "/events"))["events"] == []


# --- asking -------------------------------------------------------------------------


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
    ({"session_id": "none"}, ""),
    ({"category": "other"}, "c"),
    ({"name": "scrolled"}, "b"),
    ({"from": "2024-05-02"}, "bcde"),
    ({"from": "2024-05-02T00:00:00.000001Z"}, "cde"),
    ({"to": "2024-05-04T00:00:00Z"}, "abc"),
    ({"to": "2024-05-04T00:00:00.000001Z"}, "abcd"),
    ({"from": "2024-05-04T02:00+02:00", "to": "2024-05-04T00:00:00.000001"}, "d"),
    ({"from": "2024-05-04", "to": "2024-05-01"}, ""),
    ({"category": "page interaction", "name": "pageview"}, "ade"),
    ({"session_id": "s2", "category": "page interaction"}, "de"),
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
    ({"from": "0001-01-01T00:00+23:59"}, "abcde"),
    ({"application": "shop"}, "abcde"),
]


async def test_filters_narrow_one_another(caller: Caller) -> None:
    """Each alone and all together; `from` is included, `to` is not."""
    client = await caller()
    await send(client, *reversed(TOLD_APART))

    for filters, found in FILTERS:
        told = await ask(client, "/events", **filters)

        assert "".join(paths_of(told["events"])) == found, filters


async def test_events_are_in_order_of_time_and_then_of_arrival(caller: Caller) -> None:
    """Whatever the offset says, instants are compared; of equal ones the first is."""
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
    """Each event once, in order, though many have one timestamp."""
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
    """What was there at the beginning comes once; what comes later, where it belongs.

    Before each page one event arrives that is earlier than all, one that is later, and
    one of the very moment.
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


async def test_a_page_ends_early_rather_than_grow_without_bound(
    caller: Caller,
) -> None:
    """Of large events fewer are on a page than were asked for; none is left out."""
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


# --- whose they are -----------------------------------------------------------------


async def test_applications_do_not_meet(caller: Caller) -> None:
    """The same session and id of two applications are two events, each its own."""
    shop, bank = await caller("shop"), await caller("bank")
    assert (await send(shop, event(id="a", data={**PAGE, "path": "shop"})))["accepted"]
    assert (await send(bank, event(id="a", data={**PAGE, "path": "bank"})))["accepted"]
    await send(shop, event(session_id=""))

    for client, name, failed in ((shop, "shop", 1), (bank, "bank", 0)):
        assert paths_of((await ask(client, "/events"))["events"]) == [name]
        session = await ask(client, f"/sessions/{SESSION}")
        assert paths_of(session["events"]) == [name]
        assert session["application"] == name
        assert len((await ask(client, "/events/failed"))["failed"]) == failed
        stats = await ask(client, "/events/stats")
        assert [each["events"] for each in stats["counts"]] == [1]


async def test_who_may_read_all_reads_one_at_a_time(caller: Caller) -> None:
    """`application` names whose; left out, it is one's own."""
    shop, auditor = await caller("shop"), await caller("audit", can_read_all=True)
    failed = await send(shop, event(id="a"), event(session_id=""))
    assert failed["failed"] == 1

    everywhere = ["/events", "/events/failed", "/events/stats", f"/sessions/{SESSION}"]
    for path in everywhere:
        mine = await auditor.get(path)
        theirs = await auditor.get(path, params={"application": "shop"})
        assert theirs.status == 200
        told = await theirs.text()
        assert "pageview" in told or "page interaction" in told
        assert mine.status == (404 if "sessions" in path else 200)
        assert "page" not in await mine.text() or mine.status == 404


async def test_others_events_are_forbidden(caller: Caller) -> None:
    """Without the right 403 says so, also for applications that do not exist."""
    client = await caller("shop")
    await send(await caller("bank"), event())
    for application in ("bank", "nobody"):
        for path in ("/events", "/events/failed", "/events/stats", "/sessions/s"):
            answer = await client.get(path, params={"application": application})
            assert (answer.status, (await answer.json())["code"]) == (403, "forbidden")
        replay = await client.post(f"/events/failed/x/replay?application={application}")
        assert replay.status == 403


# --- sessions -----------------------------------------------------------------------


async def test_a_session_is_what_its_events_say(caller: Caller) -> None:
    """First and last are the events' own timestamps, verbatim, however they arrived."""
    client = await caller()
    moments = ["2024-05-01T12:00:00+02:00", "2024-05-01 11:00", "2024-05-01T09:59:59Z"]
    await asyncio.gather(*(send(client, at(each, timestamp=each)) for each in moments))

    session = await ask(client, f"/sessions/{SESSION}")

    assert (session["first"], session["last"]) == (moments[2], moments[1])
    assert session["number_of_events"] == 3
    assert paths_of(session["events"]) == [moments[2], moments[0], moments[1]]


async def test_a_long_session_is_listed_to_a_bound(caller: Caller) -> None:
    """Of more than 10,000 events the first are listed; number and last are of all."""
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


async def test_any_session_id_can_be_asked_for(caller: Caller) -> None:
    """What an application may call a session, encoded, is a path."""
    client = await caller()
    for name in ("a b", "a/b", "ä€😀", "%", "..", "?", "x" * 200, "+"):
        await send(client, event(session_id=name))
        encoded = "".join(f"%{byte:02X}" for byte in name.encode())

        answer = await client.get(URL(f"/sessions/{encoded}", encoded=True))

        assert answer.status == 200, name
        assert (await answer.json())["session_id"] == name


async def test_a_session_that_is_none_is_not_found(caller: Caller) -> None:
    """It says so, also for what no database could hold."""
    client = await caller()
    await send(client, event())

    for name in ("none", "%00", "a%00b", "%FF", "x" * 2000):
        answer = await client.get(URL(f"/sessions/{name}", encoded=True))

        assert answer.status == 404, name
        assert (await answer.json())["code"] == "session_not_found"


# --- failed events ------------------------------------------------------------------


async def test_failed_events_are_kept_whole_with_their_errors(caller: Caller) -> None:
    """What was sent comes back as it was, by arrival, with all that is wrong."""
    client = await caller()
    broken: list[Any] = [
        event(session_id="", colour="red"),
        "not even an object",
        event(data={"host": 5}),
        event(timestamp="9999-01-01T00:00Z"),
    ]
    await send(client, *broken)

    failed = (await ask(client, "/events/failed"))["failed"]

    assert [each["event"] for each in failed] == broken
    codes = [sorted(error["code"] for error in each["errors"]) for each in failed]
    assert codes[0] == ["unknown_field", "wrong_length"]
    assert codes[1] == ["wrong_type"]
    assert set(codes[2]) == {"schema"}
    assert codes[3] == ["future_timestamp"]
    moments = [each["received_at"] for each in failed]
    assert moments == sorted(moments)
    assert {each["application"] for each in failed} == {"shop"}
    assert (await ask(client, "/events"))["events"] == []


FAILED_FILTERS: Final[list[tuple[dict[str, str], str]]] = [
    ({}, "abcd"),
    ({"session_id": "s1"}, "ab"),
    ({"category": "other"}, "c"),
    ({"name": "scrolled"}, "b"),
    ({"from": "2024-05-02T00:00:00Z"}, "bc"),
    ({"to": "2024-05-02T00:00:00Z"}, "a"),
    ({"session_id": "s1", "from": "2024-05-02", "to": "2024-05-03"}, "b"),
    ({"session_id": "s2", "name": "scrolled"}, ""),
]


async def test_failed_events_have_the_same_filters(caller: Caller) -> None:
    """As far as their fields could be read; who has no time is in no span of it."""
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
        told = (await ask(client, "/events/failed", **filters))["failed"]

        assert "".join(paths_of([each["event"] for each in told])) == found, filters


async def test_failed_events_come_in_pages(caller: Caller) -> None:
    """Each once and in order of arrival; the same failure is kept once."""
    client = await caller()
    broken = [at(f"{n}", session_id="") for n in range(5)]
    await send(client, *broken)
    await send(client, *broken)

    pages = await all_pages(client, "/events/failed?limit=2", "failed")

    assert [len(each) for each in pages] == [2, 2, 1]
    events = [each["event"] for page in pages for each in page]
    assert events == broken


# --- replay -------------------------------------------------------------------------

STRICT: Final = {"type": "object", "required": ["missing"]}
MENDED: Final = {"type": "object"}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A type's schema that no event of the tests keeps, until it is mended."""
    file = tmp_path / "types" / "page interaction" / "pageview.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(msgspec.json.encode(STRICT))
    return file


def mend(schema: Path) -> None:
    """Let any object pass."""
    schema.write_bytes(msgspec.json.encode(MENDED))


async def broken_then_mended(caller: Caller, schema: Path) -> tuple[Client, str]:
    """A client whose event failed by a schema that is mended since, and its id."""
    folder = str(schema.parents[1])
    before = await caller(types_folder=folder)
    receipt = await send(before, event(id="a"))
    assert receipt["results"][0]["status"] == "failed"
    mend(schema)
    after = await caller(types_folder=folder)
    (failed,) = (await ask(after, "/events/failed"))["failed"]
    return after, failed["id"]


async def test_a_replayed_event_is_accepted_and_failed_no_more(
    caller: Caller, schema: Path
) -> None:
    """After the schema was mended it is like any other event, under its own id."""
    client, failed_id = await broken_then_mended(caller, schema)

    answer = await client.post(f"/events/failed/{failed_id}/replay")

    assert answer.status == 200
    assert await answer.json() == {"id": "a", "status": "accepted"}
    assert (await ask(client, "/events/failed"))["failed"] == []
    (kept,) = (await ask(client, "/events"))["events"]
    assert kept["id"] == "a"


async def test_of_many_replays_at_once_one_accepts(
    caller: Caller, schema: Path
) -> None:
    """The others find no failed event any more, in another process too."""
    client, failed_id = await broken_then_mended(caller, schema)
    other = await caller(types_folder=str(schema.parents[1]))

    answers = await asyncio.gather(
        *(
            each.post(f"/events/failed/{failed_id}/replay")
            for each in [client, other] * 4
        )
    )

    assert sorted(each.status for each in answers) == [200] + [404] * 7
    codes = {(await each.json()).get("code") for each in answers}
    assert codes == {None, "failed_event_not_found"}
    assert len((await ask(client, "/events"))["events"]) == 1


async def test_a_replay_of_what_was_sent_again_is_a_duplicate(
    caller: Caller, schema: Path
) -> None:
    """Sent again after the schema was mended, it is there already, and stays once."""
    client, failed_id = await broken_then_mended(caller, schema)
    await send(client, event(id="a"))

    answer = await client.post(f"/events/failed/{failed_id}/replay")

    assert await answer.json() == {"id": "a", "status": "duplicate"}
    assert (await ask(client, "/events/failed"))["failed"] == []
    assert len((await ask(client, "/events"))["events"]) == 1


@pytest.mark.parametrize("kind", ["still failing", "conflict"])
async def test_a_replay_that_fails_changes_nothing(caller: Caller, kind: str) -> None:
    """409 says why, and the failed event stays as it is, errors included."""
    client = await caller()
    broken = event(session_id="")
    if kind == "conflict":
        broken = event(id="a", data={**PAGE, "path": "/other"})
        await send(client, event(id="a"))
    await send(client, broken)
    before = await ask(client, "/events/failed")
    failed_id = before["failed"][0]["id"]

    answer = await client.post(f"/events/failed/{failed_id}/replay")
    problem = await answer.json()

    assert (answer.status, problem["code"]) == (409, "replay_refused")
    said = {"still failing": "/session_id", "conflict": "another event has this id"}
    assert said[kind] in problem["detail"]
    assert await ask(client, "/events/failed") == before


async def test_only_its_own_application_replays_a_failed_event(
    caller: Caller, schema: Path
) -> None:
    """To another it does not exist; who may read all names the application."""
    client, failed_id = await broken_then_mended(caller, schema)
    folder = str(schema.parents[1])
    bank = await caller("bank", types_folder=folder)
    auditor = await caller("audit", can_read_all=True, types_folder=folder)
    path = f"/events/failed/{failed_id}/replay"

    assert (await bank.post(path)).status == 404
    assert (await auditor.post(path)).status == 404
    assert len((await ask(client, "/events/failed"))["failed"]) == 1
    assert (await auditor.post(f"{path}?application=shop")).status == 200
    (kept,) = (await ask(client, "/events"))["events"]
    assert kept["application"] == "shop"


async def test_a_failed_event_that_is_none_is_not_found(caller: Caller) -> None:
    """It says so, also for what no database could hold."""
    client = await caller()
    for failed_id in ("none", "%00", "x" * 2000):
        target = URL(f"/events/failed/{failed_id}/replay", encoded=True)

        answer = await client.post(target)

        assert answer.status == 404, failed_id
        assert (await answer.json())["code"] == "failed_event_not_found"


# --- counts -------------------------------------------------------------------------

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
    ({"by": "category"}, [("page interaction", 4), ("other", 1)]),
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
    ({"by": "category", "session_id": "s2"}, [("other", 1)]),
    (
        {"by": "hour", "from": "2024-05-01", "to": "2024-05-01T01:00:00Z"},
        [("2024-05-01T00:00Z", 2)],
    ),
    ({"by": "error", "from": "2024-05-02"}, [("wrong_length", 1)]),
    ({"by": "error", "category": "none"}, []),
    ({"by": "name", "session_id": "none"}, []),
]


async def test_events_are_counted(caller: Caller) -> None:
    """The most first, hours in their order; filters narrow what is counted."""
    client = await caller()
    await send(client, *COUNTED)

    for parameters, counts in COUNTS:
        stats = await ask(client, "/events/stats", **parameters)

        assert stats["by"] == parameters.get("by", "category")
        told = [(each["value"], each["events"]) for each in stats["counts"]]
        assert told == counts, parameters
