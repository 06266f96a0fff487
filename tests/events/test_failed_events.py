"""Failed events as a work list: filters, superseded events, replays and discards."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from service.app import create_app
from service.events import failed_events
from service.events.receiving import COLLECTOR
from service.events.schemas import EventTypes
from service.keys.store import add_key
from service.settings import Settings
from service.storage.database import open_database
from tests.conftest import Client
from tests.events.conftest import (
    OWN_EVENTS,
    Caller,
    Json,
    all_pages,
    ask,
    event,
    on_sqlite,
    send,
)

LATER: Final = "2999-01-01T00:00:00Z"
WRONG: Final = {"host": 1, "path": "/"}
"""Data that the schema of its type refuses."""


def mend_schemas(client: Client) -> None:
    """Accept any data from now on."""
    collector = client.server.app[COLLECTOR]  # type: ignore[attr-defined]
    collector.failed._parser.types = EventTypes({}, refuses_unknown=False)


async def failed(client: Client, **parameters: str | int) -> list[Any]:
    """Return the failed events."""
    found: list[Any] = (await ask(client, "/events/failed", **parameters))["failed"]
    return found


async def steps(client: Client, path: str, **parameters: str | int) -> list[Json]:
    """Repeat a call with its cursor until it is done; return the answers."""
    answers: list[Json] = []
    more: dict[str, str] = {}
    while True:
        async with client.post(path, params={**parameters, **more}) as answer:
            assert answer.status == 200, await answer.text()
            answers.append(await answer.json())
        if answers[-1]["next"] is None:
            return answers
        more = {"cursor": answers[-1]["next"]}


async def test_a_receipt_names_the_failed_event(caller: Caller) -> None:
    """Its `failed_id` selects one event of the list, also for a conflict."""
    client = await caller()
    sent = [event(id="a"), event(id="a", name="other"), event(id="b", name="")]

    results = (await send(client, *sent))["results"]

    assert "failed_id" not in results[0]
    for result, each in zip(results[1:], sent[1:], strict=True):
        (found,) = await failed(client, id=result["failed_id"])
        assert found["event"] == each
        assert found["id"] == result["failed_id"]
        assert found["status"] == "failed"
    assert await failed(client, id="none") == []


async def test_failed_events_are_selected(caller: Caller) -> None:
    """Filters are those of events, one error among several, and the arrival."""
    client = await caller()
    no_time = {**event(id="a"), "timestamp": "soon", "data": 1}
    await send(client, no_time, event(id="b", session_id="s", category="c", data=1))
    first, second = await failed(client)
    await send(client, {"name": "n"})

    for query, ids in {
        ("code", "wrong_type"): ["a", "b"],
        ("code", "unreadable_timestamp"): ["a"],
        ("code", "unreadable"): [],
        ("code", "%"): [],
        ("session_id", "s"): ["b"],
        ("category", "c"): ["b"],
        ("name", "n"): [None],
        ("from", second["received_at"]): ["b", None],
        ("to", second["received_at"]): ["a"],
    }.items():
        found = await failed(client, **dict([query]))
        assert [each["event"].get("id") for each in found] == ids, query
    since = {"from": first["received_at"], "to": second["received_at"]}
    stats = await ask(client, "/events/stats", by="error", **since)
    assert stats["counts"] == [
        {"value": "unreadable_timestamp", "events": 1},
        {"value": "wrong_type", "events": 1},
    ]


async def test_failed_events_are_grouped_by_error_and_type(caller: Caller) -> None:
    """The largest group comes first, and an event is in a group of each error."""
    client = await caller()
    soon = {**event(id="c"), "timestamp": "soon", "data": 1}
    wrong = [event(id="a", data=1), event(id="b", data=1), soon]
    await send(client, *wrong, {"name": "pageview"})
    arrivals = [each["received_at"] for each in await failed(client)]

    answer = await ask(client, "/events/failed/groups")

    kind = {"category": "page interaction", "name": "pageview"}
    assert answer["groups"][0] == {
        "code": "wrong_type",
        **kind,
        "events": 3,
        "first": arrivals[0],
        "last": arrivals[2],
    }
    others = [(each["code"], each["category"]) for each in answer["groups"][1:]]
    assert others == [("missing", None), ("unreadable_timestamp", kind["category"])]
    assert answer["more"] is False
    first = await ask(client, "/events/failed/groups", limit=1)
    assert (first["groups"], first["more"]) == (answer["groups"][:1], True)
    since = {"from": arrivals[3]}
    (last,) = (await ask(client, "/events/failed/groups", **since))["groups"]
    assert (last["code"], last["name"], last["events"]) == ("missing", None, 1)


async def test_events_of_an_unreadable_type_are_selected(caller: Caller) -> None:
    """`untyped` selects the events of a group without a type, and discards no other."""
    client = await caller()
    await send(client, {"name": "n"}, {"category": "c", "name": "n"}, {"category": "c"})

    found = await failed(client, code="missing", untyped="true")
    assert [each["event"] for each in found] == [{"name": "n"}, {"category": "c"}]
    await steps(client, "/events/failed/discard", code="missing", untyped="true")

    (rest,) = await failed(client)
    assert rest["event"] == {"category": "c", "name": "n"}


async def test_an_event_that_is_accepted_later_supersedes_its_failures(
    caller: Caller,
) -> None:
    """They leave the list and the counts, and remain in a list of their own."""
    client = await caller()
    wrong = [event(id="a", name=""), event(id="a", data=1), event(id="b", data=1)]
    await send(client, *wrong)

    await send(client, event(id="a"))

    assert [each["event"] for each in await failed(client)] == wrong[2:]
    superseded = await failed(client, status="superseded")
    assert [each["event"] for each in superseded] == wrong[:2]
    assert {each["status"] for each in superseded} == {"superseded"}
    counts = (await ask(client, "/events/stats", by="error"))["counts"]
    assert counts == [{"value": "wrong_type", "events": 1}]


async def test_a_failure_after_its_event_stays(caller: Caller) -> None:
    """Its id was accepted before, so it is a conflict, or a mistake of its own."""
    client = await caller()
    await send(client, event(id="a"))

    await send(client, event(id="a", name="other"), event(id="a", data=1))

    codes = [each["errors"][0]["code"] for each in await failed(client)]
    assert codes == ["conflict", "wrong_type"]
    other = {**event(id="a"), "session_id": "other"}
    await send(client, other)  # a conflict supersedes nothing
    assert len(await failed(client)) == 3


async def test_the_same_content_supersedes_an_event_without_id(caller: Caller) -> None:
    """An event that was too early, or had no schema, is found by its content."""
    client = await caller(future_skew_s=0.0)
    await send(client, event(timestamp=LATER), event(data=WRONG))
    collector = client.server.app[COLLECTOR]  # type: ignore[attr-defined]
    collector.failed._parser._skew_us = 2**62
    mend_schemas(client)

    await send(client, event(timestamp=LATER))
    assert [each["event"] for each in await failed(client)] == [event(data=WRONG)]
    await send(client, event(data=WRONG))

    assert await failed(client) == []
    assert len(await failed(client, status="superseded")) == 2


async def test_failed_events_are_replayed_in_steps(caller: Caller) -> None:
    """Valid ones become events, once; the others stay, and do not stop the steps."""
    client = await caller()
    mendable = [event(id=str(number), data=WRONG) for number in range(5)]
    await send(client, *mendable, event(name=""), event(id="c", data=WRONG, name="x"))
    await send(client, event(id="5", data=WRONG))
    mend_schemas(client)

    answers = await steps(client, "/events/failed/replay", limit=2, code="schema")

    assert [each["remaining"] for each in answers] == [4, 2, 0]
    assert sum(each["accepted"] for each in answers) == 6
    assert len((await ask(client, "/events"))["events"]) == 7
    assert [each["event"] for each in await failed(client)] == [event(name="")]
    (again,) = await steps(client, "/events/failed/replay")
    assert (again["accepted"], again["failed"], again["remaining"]) == (0, 1, 0)


async def test_a_replay_resolves_duplicates_and_conflicts(caller: Caller) -> None:
    """A stored event is a duplicate; one with another content stays failed."""
    client = await caller()
    await send(client, event(id="a"), event(id="b", data=WRONG))
    await send(client, {**event(id="a"), "name": "other"}, event(id="c", data=WRONG))
    mend_schemas(client)
    await send(client, event(id="b", data=WRONG), event(id="c", data={}))

    (replayed,) = await steps(client, "/events/failed/replay", status="superseded")
    assert (replayed["duplicates"], replayed["failed"]) == (1, 1)
    (replayed,) = await steps(client, "/events/failed/replay")
    assert (replayed["accepted"], replayed["failed"]) == (0, 1)
    assert len((await ask(client, "/events"))["events"]) == 3


async def test_concurrent_replays_share_the_work(
    caller: Caller,
    events_settings: Callable[..., Settings],
    aiohttp_client: AiohttpClient,
) -> None:
    """Each failed event is accepted by one of several calls in two processes."""
    first = await caller()
    headers = {"Authorization": first.session.headers["Authorization"]}
    other: Client = await aiohttp_client(create_app(events_settings()), headers=headers)
    sent = [event(id=f"e{number}", data=WRONG) for number in range(300)]
    await send(first, *sent)
    mend_schemas(first)
    mend_schemas(other)

    answers = await asyncio.gather(
        *(
            steps(client, "/events/failed/replay", limit=50)
            for client in (first, other, first, other)
        )
    )
    every = [each for each_call in answers for each in each_call]
    # What a call has locked is left out by the others, and is its own part.
    assert sum(each["accepted"] for each in every) == 300
    assert sum(each["duplicates"] + each["failed"] for each in every) == 0
    assert await failed(first) == []
    pages = await all_pages(first, "/events?limit=1000", "events")
    assert len(pages[0]) == 300


async def test_the_list_of_all_applications(
    caller: Caller,
    events_settings: Callable[..., Settings],
) -> None:
    """A key that may read all lists, counts and discards the failures of each."""
    client = await caller(can_read_all=True)
    async with open_database(events_settings().storage) as database:
        other = await add_key(database, "bank", ("events:write",))
    await send(client, event(id="a", data=1), event(id="c", data=1))
    headers = {"Authorization": f"Bearer {other}"}
    body = event(id="b", name="")
    async with client.post("/events", json=body, headers=headers) as answer:
        assert answer.status == 202
    await send(client, event(id="a"))

    found = await failed(client, application="*")

    assert [each["event"]["id"] for each in found] == ["c", "b"]
    query = {"application": "*", "by": "error"}
    counts = (await ask(client, "/events/stats", **query))["counts"]
    assert sum(each["events"] for each in counts) == 2
    path = f"/events/failed/{found[1]['id']}/replay?application=*"
    async with client.post(path) as answer:
        assert answer.status == 409
        assert (await answer.json())["code"] == "replay_refused"
    (done,) = await steps(client, "/events/failed/discard", application="*")
    assert done["discarded"] == 2


@on_sqlite
async def test_a_client_that_leaves_loses_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was replayed is stored, and another call replays the rest."""
    client = await caller()
    await send(client, *(event(id=str(number), data=WRONG) for number in range(4)))
    mend_schemas(client)
    monkeypatch.setattr(failed_events, "BATCH_ROWS", 1)
    process = failed_events.FailedEvents._process
    began = asyncio.Event()
    batches: list[int] = []

    async def process_slowly(*arguments: Any) -> Any:
        if batches:
            began.set()
            await asyncio.Event().wait()
        batches.append(1)
        return await process(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(failed_events.FailedEvents, "_process", process_slowly)
        call = asyncio.create_task(client.post("/events/failed/replay"))
        await began.wait()
        call.cancel()
        await asyncio.wait([call])

    assert len(await failed(client)) == 3
    (replayed,) = await steps(client, "/events/failed/replay")
    assert replayed["accepted"] == 3
    assert len((await ask(client, "/events"))["events"]) == 4


async def test_failed_events_are_discarded_in_steps(caller: Caller) -> None:
    """Only those that the filter selects are deleted, and nothing is accepted."""
    client = await caller()
    await send(client, *(event(id=str(number), data=1) for number in range(5)))
    await send(client, event(name=""))

    answers = await steps(client, "/events/failed/discard", limit=2, code="wrong_type")

    assert [each["discarded"] for each in answers] == [2, 2, 1]
    assert [each["remaining"] for each in answers] == [3, 1, 0]
    assert [each["event"] for each in await failed(client)] == [event(name="")]
    assert (await ask(client, "/events"))["events"] == []


@on_sqlite
async def test_failures_that_arrive_meanwhile_are_not_part_of_it(
    caller: Caller,
) -> None:
    """A replay or a discard ends, though new failures arrive all the time."""
    client = await caller()
    await send(client, event(id="a", data=1), event(id="b", data=1))
    path = "/events/failed/discard"
    async with client.post(path, params={"limit": 1}) as answer:
        cursor = (await answer.json())["next"]
    await send(client, event(id="c", data=1))

    async with client.post(path, params={"cursor": cursor}) as answer:
        assert await answer.json() == {"discarded": 1, "remaining": 0, "next": None}

    assert [each["event"]["id"] for each in await failed(client)] == ["c"]


@on_sqlite
@pytest.mark.parametrize("action", ["replay", "discard"])
async def test_a_body_may_have_the_filter(caller: Caller, action: str) -> None:
    """It is never ignored: a body that is not understood changes nothing."""
    client = await caller()
    await send(client, event(id="a", data=1), event(id="b", name=""))
    path = f"/events/failed/{action}"
    for body, status in {
        "{": 400,
        '{"colour": "red"}': 422,
        '{"code": 5}': 422,
        '{"code": null}': 422,
        '{"id": null, "limit": 5}': 422,
        '{"from": "soon"}': 400,
    }.items():
        headers = {"Content-Type": "application/json"}
        async with client.post(path, data=body, headers=headers) as answer:
            assert answer.status == status, body
    query = {"code": "missing"}
    async with client.post(path, params=query, json={}) as answer:
        assert answer.status == 400
    assert len(await failed(client)) == 2

    selection = {"code": "wrong_type", "limit": 5, "cursor": None}
    async with client.post(path, json=selection) as answer:
        assert answer.status == 200
        result = await answer.json()

    assert result["failed" if action == "replay" else "discarded"] == 1
    assert len(await failed(client)) == (2 if action == "replay" else 1)


@on_sqlite
@pytest.mark.parametrize("action", ["replay", "discard", "1/replay"])
async def test_only_a_key_that_manages_events_may_change_the_list(
    events_settings: Callable[..., Settings],
    aiohttp_client: AiohttpClient,
    action: str,
) -> None:
    """Others get 403; another application needs the right to read all as well."""
    settings = events_settings()
    async with open_database(settings.storage) as database:
        reader = await add_key(database, "shop", ("events:write", "events:read-all"))
        owner = await add_key(database, "shop", OWN_EVENTS)
    client: Client = await aiohttp_client(create_app(settings))

    path = f"/events/failed/{action}"
    for key, query in ((reader, {}), (owner, {"application": "bank"})):
        headers = {"X-API-Key": key}
        async with client.post(path, params=query, headers=headers) as answer:
            assert answer.status == 403
            assert (await answer.json())["code"] == "forbidden"
