"""Formats of stock clients: CloudEvents, Segment's HTTP API and OpenMeter's ingest."""

import base64
import gzip
import json
from http import HTTPStatus
from typing import Any, Final

import pytest

from service.instants import US_PER_S, format_instant, now_us, read_instant
from tests.conftest import Client
from tests.events.conftest import Caller, Json, ask, on_sqlite

TIME: Final = "2021-01-01T09:15:27.243Z"
BATCH: Final = "application/cloudevents-batch+json"
STRUCTURED: Final = "application/cloudevents+json"

pytestmark = on_sqlite


def cloudevent(**more: Any) -> Json:
    """Return a CloudEvent; None removes an attribute."""
    found = {
        "specversion": "1.0",
        "id": "a",
        "source": "/shop",
        "type": "order.created",
        "subject": "order 1",
        "time": TIME,
        "data": {"total": 12.5},
        **more,
    }
    return {name: value for name, value in found.items() if value is not None}


def call(kind: str | None = "track", **more: Any) -> Json:
    """Return a call of Segment's API; None removes a member."""
    found = {
        "type": kind,
        "messageId": "a",
        "anonymousId": "s",
        "event": "Order Completed",
        "properties": {"total": 12.5},
        "timestamp": TIME,
        **more,
    }
    return {name: value for name, value in found.items() if value is not None}


async def post(
    client: Client, path: str, body: object, **headers: str
) -> tuple[int, bytes]:
    """Send a body; return status and body of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual = {"Content-Type": "application/json"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(path, data=data, headers=usual | named) as answer:
        return answer.status, await answer.read()


async def events_of(client: Client) -> list[Json]:
    """Return all events without the members that every event has."""
    usual = {"received_at", "application"}
    listed: list[Json] = (await ask(client, "/events"))["events"]
    return [{n: v for n, v in each.items() if n not in usual} for each in listed]


async def failures_of(client: Client) -> list[tuple[Any, list[str]]]:
    """Return the failed events, and code and path of their errors."""
    listed = (await ask(client, "/events/failed"))["failed"]
    return [
        (each["event"], [f"{e['code']} {e['path']}" for e in each["errors"]])
        for each in listed
    ]


ORDER: Final = {
    "id": "a",
    "session_id": "order 1",
    "category": "cloudevents",
    "name": "order.created",
    "data": {"total": 12.5},
    "timestamp": TIME,
    "context": {
        "specversion": "1.0",
        "source": "/shop",
        "type": "order.created",
        "subject": "order 1",
    },
}


@pytest.mark.parametrize("content_type", [STRUCTURED, f"{STRUCTURED}; charset=UTF-8"])
async def test_a_structured_cloudevent(caller: Caller, content_type: str) -> None:
    """All that was sent is returned: data as data, attributes as context."""
    client = await caller()

    sent = cloudevent()
    status, body = await post(client, "/events", sent, Content_Type=content_type)

    assert status == HTTPStatus.ACCEPTED
    assert json.loads(body)["results"] == [{"id": "a", "status": "accepted"}]
    assert await events_of(client) == [ORDER]


async def test_a_binary_cloudevent(caller: Caller) -> None:
    """Attributes are in headers, encoded with percent signs or in quotes."""
    client = await caller()
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "a",
        "ce-source": "/shop",
        "CE-Type": '"order.created"',
        "ce-subject": "%C3%A9 %22order%22",
        "ce-time": TIME,
    }

    status, _ = await post(client, "/events", {"total": 12.5}, **headers)

    assert status == HTTPStatus.ACCEPTED
    (found,) = await events_of(client)
    assert found["session_id"] == 'é "order"'
    assert found["context"]["datacontenttype"] == "application/json"
    assert found | {"session_id": "order 1", "context": ORDER["context"]} == ORDER


async def test_the_modes_of_cloudevents_are_one_event(caller: Caller) -> None:
    """The same event in another content mode is a duplicate."""
    client = await caller()
    sent = cloudevent(datacontenttype="application/json")
    headers = {f"ce-{name}": sent[name] for name in list(sent)[:6]}

    results = [
        await post(client, "/events", sent["data"], **headers),
        await post(client, "/events", sent, Content_Type=STRUCTURED),
        await post(client, "/events", [sent], Content_Type=BATCH),
    ]

    receipts = [json.loads(body) for _, body in results]
    assert [each["duplicates"] for each in receipts] == [0, 1, 1]
    assert await post(client, "/api/v1/events", sent) == (204, b"")
    assert len(await events_of(client)) == 1


@pytest.mark.parametrize(
    "sent, errors",
    [
        (cloudevent(id=None), ["missing /id"]),
        (cloudevent(source=None, subject=None), ["missing /source"]),
        (cloudevent(type=None), ["missing /type"]),
        (cloudevent(type=5), ["wrong_type /type"]),
        (cloudevent(type="a" * 201), ["wrong_length /type"]),
        (cloudevent(subject="a" * 201), ["wrong_length /subject"]),
        (cloudevent(sessionid=""), ["wrong_length /sessionid"]),
        (cloudevent(time="yesterday"), ["unreadable_timestamp /time"]),
        (cloudevent(time="2921-01-01T00:00:00Z"), ["future_timestamp /time"]),
        (cloudevent(specversion="0.3"), ["unsupported_version /specversion"]),
        (cloudevent(data="text"), ["wrong_type /data"]),
        (cloudevent(data=[1]), ["wrong_type /data"]),
        (cloudevent(data={"a": "b" * 40_000}), ["data_too_large /data"]),
        (cloudevent(trace="b" * 40_000), ["data_too_large "]),
        (cloudevent(data=None, data_base64="AAE="), ["wrong_type /data_base64"]),
        (cloudevent(trace="\ud800"), ["unreadable "]),
        (5, ["wrong_type "]),
        ([], ["wrong_type "]),
    ],
)
async def test_a_cloudevent_that_does_not_fit(
    caller: Caller, sent: object, errors: list[str]
) -> None:
    """It is a failed event, kept as it was sent, and the others are stored."""
    client = await caller()

    batch = [sent, cloudevent(id="b")]
    status, _ = await post(client, "/events", batch, Content_Type=BATCH)

    assert status == HTTPStatus.ACCEPTED
    assert [each["id"] for each in await events_of(client)] == ["b"]
    ((kept, found),) = await failures_of(client)
    assert found == errors
    if errors != ["unreadable "]:
        assert kept == sent


@pytest.mark.parametrize(
    "content_type, body, kept",
    [
        ("application/octet-stream", b"\x00\xff", {"data_base64": "AP8="}),
        ("image/png", b"1", {"data_base64": "MQ=="}),
        ("application/json", b"{", {"data_base64": "ew=="}),
        ("application/vnd.a+json", b"5", {"data": 5}),
    ],
)
async def test_binary_data_that_is_no_object(
    caller: Caller, content_type: str, body: bytes, kept: Json
) -> None:
    """It becomes a failed event in the JSON format, which loses no byte."""
    client = await caller()
    sent = cloudevent(data=None, datacontenttype=content_type)
    headers = {
        f"ce-{name}": value for name, value in sent.items() if name != "datacontenttype"
    }

    status, _ = await post(
        client, "/events", body, **headers, Content_Type=content_type
    )

    assert status == HTTPStatus.ACCEPTED
    ((event, errors),) = await failures_of(client)
    assert event == sent | kept
    assert errors == [f"wrong_type /{next(iter(kept))}"]


async def test_an_event_without_data_or_time(caller: Caller) -> None:
    """It has no data, and the time of its arrival; a repeated one is a duplicate."""
    client = await caller()
    sent = cloudevent(time=None, data=None)
    before = now_us()

    first = await post(client, "/events", sent, Content_Type=STRUCTURED)
    again = await post(client, "/events", sent, Content_Type=STRUCTURED)

    assert json.loads(first[1])["accepted"] == 1
    assert json.loads(again[1])["duplicates"] == 1
    (found,) = await events_of(client)
    assert before <= read_instant(found.pop("timestamp")) <= now_us()
    assert found.pop("sent_timestamp") is None
    expected = {name: each for name, each in ORDER.items() if name != "timestamp"}
    assert found == expected | {"data": {}}


async def test_a_type_with_a_slash_addresses_a_schema(caller: Caller) -> None:
    """`category/name` is the type of an event; its schema is checked."""
    client = await caller()
    good = cloudevent(id="a", type="copilot/message", data={"text": "hello"})
    bad = cloudevent(id="b", type="copilot/message")

    await post(client, "/events", [good, bad], Content_Type=BATCH)

    (found,) = await events_of(client)
    assert (found["category"], found["name"]) == ("copilot", "message")
    assert await failures_of(client) == [(bad, ["schema /data"])]


async def test_a_failed_cloudevent_is_replayed(caller: Caller) -> None:
    """A replay reads the event as its client sent it, at the time of its arrival."""
    strict = await caller(unknown_types="fail")
    await post(strict, "/events", cloudevent(time=None), Content_Type=STRUCTURED)
    (failed,) = (await ask(strict, "/events/failed"))["failed"]
    assert failed["format"] == "cloudevents"

    client = await caller()
    async with client.post(f"/events/failed/{failed['id']}/replay") as answer:
        assert await answer.json() == {"id": "a", "status": "accepted"}

    (found,) = await events_of(client)
    assert found["timestamp"] == failed["received_at"]
    assert found["context"] == ORDER["context"]


async def test_events_of_another_source_are_no_duplicates(caller: Caller) -> None:
    """The context is content: an id that two sources use is a conflict, not a loss."""
    client = await caller()

    batch = [cloudevent(), cloudevent(source="/other")]
    _, body = await post(client, "/events", batch, Content_Type=BATCH)

    receipt = json.loads(body)
    assert [each["status"] for each in receipt["results"]] == ["accepted", "conflict"]
    ((kept, errors),) = await failures_of(client)
    assert (kept, errors) == (batch[1], ["conflict /id"])


@pytest.mark.parametrize("kind", ["track", "page", "screen", "identify", "group"])
async def test_a_call_of_segment(caller: Caller, kind: str) -> None:
    """The path has the type of a single call; the answer is that of Segment."""
    client = await caller()
    data = "traits" if kind in {"identify", "group"} else "properties"
    sent = call(
        None,
        event="E" if kind == "track" else None,
        name="N" if kind in {"page", "screen"} else None,
        userId="u",
        context={"ip": "::1"},
        writeKey="cu_secret",
        **{"properties": None, data: {"a": 1}},
    )

    assert await post(client, f"/v1/{kind}", sent) == (200, b'{"success":true}')

    assert await events_of(client) == [
        {
            "id": "a",
            "session_id": "s",
            "category": kind,
            "name": {"track": "E", "page": "N", "screen": "N"}.get(kind, kind),
            "data": {"a": 1},
            "timestamp": TIME,
            "context": {
                "type": kind,
                "anonymousId": "s",
                "userId": "u",
                "context": {"ip": "::1"},
            },
        }
    ]


@pytest.mark.parametrize(
    "number", [b"007", b"1 2", b"1-2", b"-", b"1e", b'1","session_id":"other']
)
async def test_what_only_begins_like_a_number_is_no_name(
    caller: Caller, number: bytes
) -> None:
    """A call that is not JSON fails, and adds no member to its event."""
    client = await caller()
    body = json.dumps(call(messageId="NUMBER")).encode()

    await post(client, "/v1/track", body.replace(b'"NUMBER"', number))
    await post(client, "/v1/batch", b'{"batch":[' + body + b"]}")

    assert [each["id"] for each in await events_of(client)] == ["NUMBER"]
    [(_, errors)] = await failures_of(client)
    assert errors[0].startswith("not_json")


HUGE: Final = b"1e-" + b"9" * 5_000


@pytest.mark.parametrize(
    "path, valid, broken",
    [
        ("/v1/batch", call(messageId="b"), call(extra="HUGE")),
        ("/api/v1/events", cloudevent(id="b"), cloudevent(extra="HUGE")),
    ],
    ids=["segment", "cloudevents"],
)
async def test_a_number_of_the_context_with_a_huge_exponent(
    caller: Caller, path: str, valid: Json, broken: Json
) -> None:
    """Its event fails alone, and a replay of it fails again."""
    client = await caller()
    items = [broken, valid]
    text = json.dumps({"batch": items} if path == "/v1/batch" else items).encode()

    status, _ = await post(client, path, text.replace(b'"HUGE"', HUGE))

    assert status in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}
    assert [each["id"] for each in await events_of(client)] == ["b"]
    [(_, errors)] = await failures_of(client)
    assert errors == ["unreadable "]
    async with client.post("/events/failed/replay") as answer:
        assert (await answer.json())["failed"] == 1


async def test_a_batch_of_segment(caller: Caller) -> None:
    """Calls get the context of their batch, and fail one by one."""
    client = await caller()
    calls = [
        call(messageId="a", anonymousId=None, userId=5),
        call(messageId="b", context={"sessionId": 1700000000123}),
        call("page", messageId="c", event=None, category="Docs"),
        call("alias", messageId="d", event=None, anonymousId=None, previousId="p"),
        call("unknown", messageId="e"),
        call(messageId="f", event=None),
        call(messageId="g", anonymousId=None),
        call(messageId="h", properties={"a": "\ud800"}),
        7,
    ]
    body = {"batch": calls, "context": {"app": "x"}, "writeKey": "cu_secret"}

    data = gzip.compress(json.dumps(body).encode())
    status, _ = await post(client, "/v1/batch", data, Content_Encoding="gzip")

    assert status == HTTPStatus.OK
    found = {each["id"]: each for each in await events_of(client)}
    assert {name: each["session_id"] for name, each in found.items()} == {
        "a": "5",
        "b": "1700000000123",
        "c": "s",
        "d": "p",
    }
    assert found["a"]["context"]["context"] == {"app": "x"}
    assert found["b"]["context"]["context"] == {"sessionId": 1700000000123}
    assert (found["c"]["name"], found["c"]["context"]["category"]) == ("page", "Docs")
    failed = [errors for _, errors in await failures_of(client)]
    assert failed == [
        ["unknown_type /type"],
        ["missing /event"],
        ["missing /anonymousId"],
        ["unreadable /properties"],
        ["wrong_type "],
    ]
    assert "cu_secret" not in json.dumps(await ask(client, "/events/failed"))


async def test_the_time_of_a_batch_corrects_a_clock(caller: Caller) -> None:
    """`sentAt` is the sender's clock; another one in each attempt is no new event."""
    client = await caller()
    ahead_us = 200 * US_PER_S
    sent = format_instant(now_us() + ahead_us)

    for delay_s in (0, 1):
        sent_at = format_instant(now_us() + ahead_us + delay_s * US_PER_S)
        body = {"batch": [call(messageId=None, timestamp=sent)], "sentAt": sent_at}
        assert (await post(client, "/v1/batch", body))[0] == HTTPStatus.OK

    (found,) = await events_of(client)
    assert found["sent_timestamp"] == sent
    assert abs(read_instant(found["timestamp"]) - now_us()) < 60 * US_PER_S
    assert await failures_of(client) == []


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/track", "/api/v1/events"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"batch": 5', b"[" * 100_000])
async def test_a_body_that_cannot_be_split(
    caller: Caller, path: str, body: bytes
) -> None:
    """It gets 400 with a `message`, by which stock clients give it up at once."""
    client = await caller()

    status, answer = await post(client, path, body)

    assert status == HTTPStatus.BAD_REQUEST
    problem = json.loads(answer)
    assert problem["code"] == "not_json"
    assert problem["message"] == problem["detail"]


@pytest.mark.parametrize(
    "path", ["/events", "/v1/batch", "/v1/track", "/api/v1/events"]
)
@pytest.mark.parametrize("body", [b"", b" \n", b"\xef\xbb\xbf"], ids=repr)
async def test_an_empty_body_is_named_so(
    caller: Caller, path: str, body: bytes
) -> None:
    """The detail does not say that something is cut off."""
    client = await caller()
    headers = {"Content-Type": "application/json"}

    async with client.post(path, data=body, headers=headers) as answer:
        problem = await answer.json()

    assert (answer.status, problem["code"]) == (HTTPStatus.BAD_REQUEST, "not_json")
    assert problem["detail"] == "the body is empty"


@pytest.mark.parametrize("body", [{}, {"batch": 5}, {"batch": {}}, {"batch": None}])
async def test_a_batch_without_calls_is_refused(caller: Caller, body: Json) -> None:
    """A batch has a list of calls."""
    assert (await post(await caller(), "/v1/batch", body))[0] == HTTPStatus.BAD_REQUEST


async def test_too_many_items(caller: Caller) -> None:
    """A request may have `events.max_events` items in every format."""
    client = await caller(max_events=2)
    many = [cloudevent(id=str(n)) for n in range(3)]

    answers = [
        await post(client, "/events", many, Content_Type=BATCH),
        await post(client, "/api/v1/events", many),
        await post(client, "/v1/batch", {"batch": [call()] * 3}),
    ]

    assert [status for status, _ in answers] == [413] * 3
    assert await events_of(client) == []


@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch", "/api/v1/events"])
async def test_an_unknown_write_key(caller: Caller, path: str) -> None:
    """A stock client with a wrong key gets 401, with a `message` too."""
    client = await caller()
    wrong = "Basic " + base64.b64encode(b"cu_wrong:").decode()

    status, body = await post(client, path, {}, Authorization=wrong)

    assert status == HTTPStatus.UNAUTHORIZED
    assert json.loads(body)["message"]


async def test_a_byte_order_mark_is_skipped(caller: Caller) -> None:
    """Bodies of all formats may begin with one."""
    client = await caller()
    mark = b"\xef\xbb\xbf"
    headers = {"ce-specversion": "1.0", "ce-type": "order.created", "ce-source": "s"}

    sent = mark + json.dumps({"batch": [call(messageId="batch")]}).encode()
    await post(client, "/v1/batch", sent)
    sent = mark + json.dumps(call(messageId="call")).encode()
    await post(client, "/v1/track", sent)
    await post(client, "/events", mark + b"{}", **{"ce-id": "binary"}, **headers)

    found = {each["id"] for each in await events_of(client)}
    assert found == {"batch", "call", "binary"}


UNNAMED: Final = rb'{"type":"track","event":"E","userId":"u","\ud800":1}'


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/track", UNNAMED),
        ("/v1/batch", b'{"batch":[%s]}' % UNNAMED),
        ("/api/v1/events", UNNAMED),
    ],
)
async def test_a_member_whose_name_is_unreadable(
    caller: Caller, path: str, body: bytes
) -> None:
    """Its item becomes a failed event as it is, so that nothing of it is lost."""
    client = await caller()

    assert (await post(client, path, body))[0] in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}

    assert await failures_of(client) == [(UNNAMED.decode(), ["unreadable "])]
    assert await events_of(client) == []


async def test_an_item_that_is_not_json(caller: Caller) -> None:
    """Its only error says so; no member counts as missing."""
    client = await caller()
    item = b'{"type":"track" "event":1}'

    await post(client, "/v1/batch", b'{"batch":[%s]}' % item)

    assert await failures_of(client) == [(item.decode(), ["not_json "])]


async def test_the_same_text_in_two_formats(caller: Caller) -> None:
    """A failed event of each format is kept, so that each is replayed in its own."""
    client = await caller()
    sent = cloudevent(type=None)

    await post(client, "/events", sent)
    await post(client, "/events", sent, Content_Type=STRUCTURED)
    await post(client, "/v1/batch", {"batch": [sent]})

    failed = (await ask(client, "/events/failed"))["failed"]
    assert [each.get("format") for each in failed] == [None, "cloudevents", "segment"]


async def test_a_slow_body_has_no_message(caller: Caller) -> None:
    """RudderStack's client drops a batch that gets 408 with a `message`."""
    client = await caller(body_timeout_s=0.05)
    headers = {"Content-Type": "application/json", "Content-Length": "10"}

    async with client.post("/v1/batch", data=b"", headers=headers) as answer:
        problem = await answer.json()

    assert (answer.status, problem["code"]) == (408, "body_too_slow")
    assert "message" not in problem


@pytest.mark.parametrize("number, status", [(2, 200), (4, 413)])
async def test_what_a_batch_shares_is_bounded(
    caller: Caller, number: int, status: int
) -> None:
    """Each call has a copy of it: a small body could become a thousand large ones."""
    client = await caller(max_body_bytes=1_000)
    calls = [call(messageId=str(n), properties=None) for n in range(number)]
    body = json.dumps({"context": {"x": "x" * 250}, "batch": calls}).encode()
    assert len(body) < 1_000

    assert (await post(client, "/v1/batch", body))[0] == status

    assert len(await events_of(client)) == (number if status == HTTPStatus.OK else 0)
