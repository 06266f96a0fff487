"""Endpoints of events over HTTP on each database: send, list, replay."""

import gzip
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pytest
from msgspec.structs import replace
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict
from yarl import URL

from service.app import create_app
from service.events.feed_handlers import FOLLOWER
from service.events.receiving import COLLECTOR
from service.keys.store import add_key
from service.settings import Settings
from service.storage.database import open_database
from tests.conftest import Client
from tests.events.conftest import (
    OWN_EVENTS,
    PAGE,
    SESSION,
    Caller,
    ask,
    event,
    on_sqlite,
    paths_of,
    send,
)
from tests.metric_samples import Read


async def test_events_come_back_as_they_were_sent(caller: Caller) -> None:
    """Events of one session and one timestamp come back whole and in order."""
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
    found = await ask(client, "/events", session_id=SESSION)

    assert receipt["accepted"] == 3
    assert [each["id"] for each in found["events"]] == [
        each["id"] for each in receipt["results"]
    ]
    stored = [{name: each[name] for name in sent[0]} for each in found["events"]]
    assert stored == sent
    assert {each["application"] for each in found["events"]} == {"shop"}
    assert all(each["received_at"].endswith("Z") for each in found["events"])


@pytest.mark.parametrize("form", ["one", "list", "lines", "gzip", "text"])
async def test_every_form_of_a_body_is_accepted(caller: Caller, form: str) -> None:
    """An object, a list, lines, a compressed body and text give the same event."""
    client = await caller()
    one = msgspec.json.encode(event())
    bodies = {"one": one, "list": b"[" + one + b"]", "lines": one + b"\n\n"}
    media = "application/x-ndjson" if form == "lines" else "application/json"
    headers = {"Content-Type": "text/plain" if form == "text" else media}
    body = bodies.get(form, one)
    if form == "gzip":
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body)

    answer = await client.post("/events", data=body, headers=headers)

    assert answer.status == 202
    assert (await answer.json())["accepted"] == 1
    assert len((await ask(client, "/events"))["events"]) == 1


async def test_the_receipt_has_a_result_for_each_event(
    caller: Caller, added: Read, log_entries: list[EventDict]
) -> None:
    """The results are in the order of the events; they are counted and logged."""
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
    results = {"accepted": 2, "duplicate": 1, "conflict": 1, "failed": 1}
    for result, number in results.items():
        assert added("copilot_usage_events_total", result=result) == number
    for code in ("wrong_length", "conflict"):
        assert added("copilot_usage_events_errors_total", code=code) == 1
    (entry,) = [each for each in log_entries if each["event"] == "events.received"]
    assert {name: entry[name] for name in ("application", *counted)} == {
        "application": "shop",
        **counted,
    }


@on_sqlite
@pytest.mark.parametrize("limits", [{}, {"rate_per_s": 1_000.0, "burst": 1_000}])
async def test_a_receipt_has_the_headers_of_every_answer(
    events_settings: Callable[..., Settings],
    aiohttp_client: AiohttpClient,
    limits: dict[str, Any],
) -> None:
    """It has them also where it is sent in one write, as on an open connection."""
    settings = events_settings()
    settings = replace(settings, limits=replace(settings.limits, **limits))
    async with open_database(settings.storage) as database:
        key = await add_key(database, "shop", OWN_EVENTS)
    client = await aiohttp_client(create_app(settings))
    seen = []
    for connection in ("keep-alive", "close"):
        headers = {
            "Authorization": f"Bearer {key}",
            "Connection": connection,
            "X-Request-ID": "id",
        }
        answer = await client.post("/events", json=event(id="a"), headers=headers)
        assert answer.status == 202
        assert answer.reason == "Accepted"
        assert len(await answer.read()) == int(answer.headers["Content-Length"])
        seen.append(dict(answer.headers))

    block, ordinary = seen
    assert ordinary.pop("Connection") == "close"
    # The server of the tests adds its name, and lets browsers guess the type.
    del ordinary["Server"], block["X-Content-Type-Options"]
    assert block.keys() == ordinary.keys()
    for changing in ("Content-Length", "Date", "RateLimit"):
        block.pop(changing, None)
        ordinary.pop(changing, None)
    assert block == ordinary


@on_sqlite
async def test_a_body_without_events_stores_nothing(caller: Caller) -> None:
    """An empty list gets an empty receipt; a bad or too large body stores nothing."""
    client = await caller(max_events=2)
    headers = {"Content-Type": "application/json"}
    too_many = msgspec.json.encode([event()] * 3).decode()

    for body, status in (
        ("[]", 202),
        ("", 400),
        (" ", 400),
        ("[", 400),
        (too_many, 413),
    ):
        answer = await client.post("/events", data=body, headers=headers)
        assert answer.status == status

    assert (await ask(client, "/events"))["events"] == []
    assert (await ask(client, "/events/failed"))["failed"] == []


async def test_applications_are_isolated(caller: Caller) -> None:
    """The same session and id in two applications are two separate events."""
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


async def test_a_read_all_key_reads_one_application_at_a_time(caller: Caller) -> None:
    """`application` selects whose events; the default is the key's own."""
    shop, auditor = await caller("shop"), await caller("audit", can_read_all=True)
    failed = await send(shop, event(id="a"), event(session_id=""))
    assert failed["failed"] == 1

    everywhere = ["/events", "/events/failed", "/events/stats", f"/sessions/{SESSION}"]
    for path in everywhere:
        mine = await auditor.get(path)
        theirs = await auditor.get(path, params={"application": "shop"})
        assert theirs.status == 200
        body = await theirs.text()
        assert "pageview" in body or "page interaction" in body
        assert mine.status == (404 if "sessions" in path else 200)
        assert "page" not in await mine.text() or mine.status == 404


async def test_events_of_other_applications_are_forbidden(caller: Caller) -> None:
    """A key without the right gets 403, also for unknown applications."""
    client = await caller("shop")
    await send(await caller("bank"), event())
    for application in ("bank", "nobody"):
        for path in ("/events", "/events/failed", "/events/stats", "/sessions/s"):
            answer = await client.get(path, params={"application": application})
            assert (answer.status, (await answer.json())["code"]) == (403, "forbidden")
        replay = await client.post(f"/events/failed/x/replay?application={application}")
        assert replay.status == 403


async def test_failed_events_are_stored_unchanged_with_their_errors(
    caller: Caller,
) -> None:
    """Failed events come back as sent, by arrival, with all their errors."""
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


STRICT: Final = {"type": "object", "required": ["missing"]}
CORRECTED: Final = {"type": "object"}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A schema that no event of the tests matches, until it is corrected."""
    file = tmp_path / "types" / "page interaction" / "pageview.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(msgspec.json.encode(STRICT))
    return file


def correct(schema: Path) -> None:
    """Accept any object."""
    schema.write_bytes(msgspec.json.encode(CORRECTED))


async def failed_then_corrected(caller: Caller, schema: Path) -> tuple[Client, str]:
    """Return a client whose event failed by a schema corrected since, and its id."""
    folder = str(schema.parents[1])
    before = await caller(types_folder=folder)
    receipt = await send(before, event(id="a"))
    assert receipt["results"][0]["status"] == "failed"
    correct(schema)
    after = await caller(types_folder=folder)
    (failed,) = (await ask(after, "/events/failed"))["failed"]
    return after, failed["id"]


async def test_a_replayed_event_is_accepted(
    caller: Caller, schema: Path, added: Read, log_entries: list[EventDict]
) -> None:
    """After a correction of the schema the failed event becomes an event, once."""
    client, failed_id = await failed_then_corrected(caller, schema)

    answer = await client.post(f"/events/failed/{failed_id}/replay")

    assert answer.status == 200
    assert await answer.json() == {"id": "a", "status": "accepted"}
    assert (await ask(client, "/events/failed"))["failed"] == []
    (stored,) = (await ask(client, "/events"))["events"]
    assert stored["id"] == "a"
    again = await client.post(f"/events/failed/{failed_id}/replay")
    assert again.status == 404
    assert added("copilot_usage_events_replayed_total", result="accepted") == 1
    (entry,) = [each for each in log_entries if each["event"] == "events.replayed"]
    assert (entry["failed_id"], entry["status"]) == (failed_id, "accepted")


@pytest.mark.parametrize("kind", ["still failing", "conflict"])
async def test_a_replay_that_fails_changes_nothing(caller: Caller, kind: str) -> None:
    """The answer is 409 with the reason, and the failed event stays unchanged."""
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
    reasons = {"still failing": "/session_id", "conflict": "another event has this id"}
    assert reasons[kind] in problem["detail"]
    assert await ask(client, "/events/failed") == before


async def test_only_its_own_application_replays_a_failed_event(
    caller: Caller, schema: Path
) -> None:
    """Another key gets 404; a read-all key names the application."""
    client, failed_id = await failed_then_corrected(caller, schema)
    folder = str(schema.parents[1])
    bank = await caller("bank", types_folder=folder)
    auditor = await caller("audit", can_read_all=True, types_folder=folder)
    path = f"/events/failed/{failed_id}/replay"

    assert (await bank.post(path)).status == 404
    assert (await auditor.post(path)).status == 404
    assert len((await ask(client, "/events/failed"))["failed"]) == 1
    assert (await auditor.post(f"{path}?application=shop")).status == 200
    (stored,) = (await ask(client, "/events"))["events"]
    assert stored["application"] == "shop"


async def test_an_unknown_failed_event_is_not_found(caller: Caller) -> None:
    """The answer is 404, also for an id that no database can store."""
    client = await caller()
    for failed_id in ("none", "%00", "x" * 2000):
        target = URL(f"/events/failed/{failed_id}/replay", encoded=True)

        answer = await client.post(target)

        assert answer.status == 404, failed_id
        assert (await answer.json())["code"] == "failed_event_not_found"


@on_sqlite
async def test_a_body_without_a_known_size_reserves_the_maximum(caller: Caller) -> None:
    """A chunked or compressed body finds room only where the largest one does."""
    client = await caller(max_body_bytes=900, max_backlog_bytes=1_000)
    collector = client.server.app[COLLECTOR]  # type: ignore[attr-defined]
    body = msgspec.json.encode(event())
    headers = {"Content-Type": "application/json"}

    async def post_chunked() -> int:
        async def chunks() -> AsyncIterator[bytes]:
            yield body

        return (await client.post("/events", data=chunks(), headers=headers)).status

    async def post_compressed() -> int:
        coding = {**headers, "Content-Encoding": "gzip"}
        sent = gzip.compress(body)
        return (await client.post("/events", data=sent, headers=coding)).status

    assert (await client.get("/events")).status == 200
    with collector.reserve("other", 200):
        plain = (await client.post("/events", data=body, headers=headers)).status
        assert (plain, await post_chunked(), await post_compressed()) == (202, 503, 503)
    assert (await post_chunked(), await post_compressed()) == (202, 202)


@on_sqlite
async def test_without_a_queue_a_request_takes_no_place_to_wait(caller: Caller) -> None:
    """`wait=stored` changes nothing there, also while all places are taken."""
    client = await caller()
    assert client.app is not None
    client.app[FOLLOWER].waits._max_waits = 0

    answer = await client.post("/events", json=event(), params={"wait": "stored"})

    assert answer.status == 202, await answer.text()


@pytest.mark.parametrize("word", ["null", "NULL", "true", "0", "1e1", "(other)"])
async def test_any_word_that_is_stored_can_be_asked_for(
    caller: Caller, word: str
) -> None:
    """No session, category, name or application is a value of another type."""
    client = await caller(word)
    stored = event(session_id=word, category=word, name=word)
    await send(client, stored, {**stored, "data": 1}, event())

    for name in ("session_id", "category", "name"):
        query = {name: word, "application": word}
        (found,) = (await ask(client, "/events", **query))["events"]
        assert found[name] == found["application"] == word
        (failed,) = (await ask(client, "/events/failed", **query))["failed"]
        assert failed["event"] == {**stored, "data": 1}
        for by in ("category", "name", "hour"):
            (count,) = (await ask(client, "/events/stats", by=by, **query))["counts"]
            assert count["events"] == 1
    assert (await ask(client, f"/sessions/{word}"))["number_of_events"] == 1


@on_sqlite
@pytest.mark.parametrize("session_id", ["{}", "a{b", "a}b", "a/b", "%7B", "\n"])
async def test_any_session_that_is_stored_can_be_read(
    caller: Caller, session_id: str
) -> None:
    """Its id may have any characters, escaped in the path."""
    client = await caller()
    await send(client, event(session_id=session_id))

    path = URL.build(path=f"/sessions/{quote(session_id, safe='')}", encoded=True)
    async with client.get(path) as answer:
        assert answer.status == 200
        assert (await answer.json())["session_id"] == session_id


@on_sqlite
@pytest.mark.parametrize("path", ["/events", "/events/"])
@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/ndjson"])
async def test_lines_that_are_not_json_fail_alone(
    caller: Caller, path: str, content_type: str
) -> None:
    """The others are accepted; a failed line is listed as the text that was sent."""
    client = await caller()
    lines = [
        b'{"a',
        json.dumps(event()).encode(),
        b'"\xff"',
        b'{"id": "\\ud800"}',
        b"1",
    ]
    body = b"\xef\xbb\xbf" + b"\n\n".join(lines)

    headers = {"Content-Type": content_type}
    async with client.post(path, data=body, headers=headers) as answer:
        assert answer.status == 202
        receipt = await answer.json()

    assert (receipt["accepted"], receipt["failed"]) == (1, 4)
    errors = [each["errors"][-1] for each in receipt["results"] if "errors" in each]
    codes = ["not_json", "not_json", "unreadable", "wrong_type"]
    assert [each["code"] for each in errors] == codes
    assert errors[1]["message"] == "line 5: not UTF-8"
    failed = (await ask(client, "/events/failed"))["failed"]
    texts = ['{"a', '"\\xff"', '{"id": "\\ud800"}', 1]
    assert [each["event"] for each in failed] == texts
    assert len((await ask(client, path))["events"]) == 1
