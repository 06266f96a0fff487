"""Repeated requests with small bodies, and everything that sends them to aiohttp."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from structlog.testing import capture_logs

from service.events.model import Receipt
from service.events.store import EventStore, ReceivedEvent, Stored
from service.keys.handlers import API_KEYS, DATABASE
from service.keys.store import add_key, list_keys, revoke_key
from service.server.connection_server import ConnectionServer
from service.server.post_path import PostClient, PostPath, split_post
from service.storage.errors import StorageUnavailable
from service.web.limits import LIMITS
from tests.conftest import MakeSettings
from tests.metric_samples import Read
from tests.patience import GIVE_UP_S
from tests.server.repeating import Peer, Repeating, repeating

Until = Callable[[Callable[[], bool]], Awaitable[None]]

EVENT: Final = {
    "session_id": "s",
    "category": "c",
    "name": "n",
    "data": {"a": 1},
    "timestamp": "2026-01-01T00:00:00Z",
}
VARYING: Final = (b"date:", b"x-request-id:", b"ratelimit:")
ID: Final = re.compile(rb'"request_id":"[0-9a-f]+"')


class Sender:
    """Makes requests with a key, and counts those that aiohttp has not parsed."""

    def __init__(self, service: Repeating, key: str) -> None:
        self.service = service
        self.key = key
        self.passed = 0
        self.number = 0
        server = service.runner.server
        assert isinstance(server, ConnectionServer)
        assert server.posts is not None
        self.posts: PostPath = server.posts
        accept = self.posts.accept

        def watch(data: bytes, client: PostClient) -> bool:
            is_accepted = accept(data, client)
            self.passed += is_accepted
            return is_accepted

        self.posts.accept = watch  # type: ignore[method-assign]

    def request(self, body: bytes | None = None, *lines: str) -> bytes:
        """Return a request, by default with an event that no other one has."""
        self.number += 1
        if body is None:
            body = json.dumps({**EVENT, "id": f"{self.number}"}).encode()
        head = [
            "POST /events HTTP/1.1",
            "Host: a.test",
            f"Authorization: Bearer {self.key}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *lines,
        ]
        return "\r\n".join([*head, "", ""]).encode() + body

    async def connect(self) -> Peer:
        """Open a connection, on which the head of the requests is remembered."""
        peer = await self.service.connect()
        passed = self.passed
        async with asyncio.timeout(GIVE_UP_S):
            while self.passed == passed:
                assert b" 202 " in await peer.ask(self.request())
        return peer


@pytest.fixture
def options() -> dict[str, Any]:
    """Sections of settings that a test adds to."""
    return {}


@pytest.fixture
async def sender(
    settings: MakeSettings, tmp_path: Path, options: dict[str, Any]
) -> AsyncIterator[Sender]:
    """The service with events, and a key that may send them."""
    sections: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "drain_s": 0.0},
        "storage": {"url": f"sqlite+aiosqlite:///{tmp_path}/events.db"},
        "events": {"enabled": True},
        "limits": {"rate_per_s": 1e6, "burst": 1_000_000},
    }
    named = sections.keys() | options.keys()
    made = {name: sections.get(name, {}) | options.get(name, {}) for name in named}
    async with repeating(settings(**made)) as service:
        key = await add_key(service.app[DATABASE], "app", ["events:write"])
        yield Sender(service, key)


class HeldStore:
    """Holds the writing of events until it is released, or fails it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_held = asyncio.Event()
        self.released = asyncio.Event()
        self.error: Exception | None = None
        store = EventStore.store

        async def hold(
            events: EventStore, received: list[ReceivedEvent]
        ) -> list[Stored]:
            self.is_held.set()
            await self.released.wait()
            if self.error is not None:
                raise self.error
            return await store(events, received)

        monkeypatch.setattr(EventStore, "store", hold)


def comparable(answer: bytes) -> tuple[bytes, set[bytes], bytes]:
    """Return status line, header lines and body, without what always differs."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    kept = {each for each in lines if not each.lower().startswith(VARYING)}
    return status, kept, ID.sub(b"", body)


BODIES: Final = {
    "event": json.dumps({**EVENT, "id": "one"}).encode(),
    "list": json.dumps([{**EVENT, "name": f"{n}"} for n in range(3)]).encode(),
    "empty list": b"[]",
    "other content": json.dumps({**EVENT, "id": "one", "name": "x"}).encode(),
    "without id": json.dumps(EVENT).encode(),
    "missing": b'{"session_id":"s"}',
    "no object": b"[1,{}]",
    "no JSON": b"{",
    "no UTF-8": b'{"session_id":"\xff"}',
    "nul": json.dumps({**EVENT, "name": "\0"}).encode(),
    "too many": b"[" + b",".join([b"{}"] * 1001) + b"]",
}


@pytest.mark.parametrize(
    "options",
    [{}, {"events": {"cors_origins": ["https://a.test"]}}],
    ids=["no pages", "pages"],
)
async def test_answers_are_those_of_the_ordinary_way(sender: Sender) -> None:
    """Status, headers and body are equal, for valid events and for all others."""
    peer = await sender.connect()
    ordinary = await sender.service.connect(is_ordinary=True)
    for name, body in BODIES.items():
        # Sent twice by both, as the first of two equal events gets another answer.
        await ordinary.ask(sender.request(body))
        passed = sender.passed
        ours = await peer.ask(sender.request(body))
        theirs = await ordinary.ask(sender.request(body))
        assert comparable(ours) == comparable(theirs), name
        assert sender.passed == passed + 1, name


async def test_an_event_is_stored_when_it_is_answered(sender: Sender) -> None:
    """The receipt of a new event says accepted, and a second one duplicate."""
    peer = await sender.connect()
    request = sender.request()
    first, second = await peer.ask(request), await peer.ask(request)
    assert b'"accepted":1' in first
    assert b'"duplicates":1' in second


@pytest.mark.parametrize(
    "lines",
    [
        ["Origin: http://a.test"],
        [f"traceparent: 00-{'1' * 32}-{'2' * 16}-01"],
        ["Content-Encoding: identity"],
        ["Expect: 100-continue"],
        ["X-Sent-At: 2026-01-01T00:00:00Z"],
        ["Connection: close"],
        ["X-Request-ID: one", "X-Request-ID: two"],
        ["If-Match: *"],
    ],
    ids=lambda lines: str(lines[0].partition(":")[0]),
)
async def test_other_heads_are_parsed(sender: Sender, lines: list[str]) -> None:
    """Requests whose head means more than key, type and length are not remembered."""
    for _ in range(3):
        peer = await sender.service.connect()
        assert await peer.ask(sender.request(None, *lines))
    assert not sender.passed


@pytest.mark.parametrize("path", [b"/events/", b"/events?key=none"])
async def test_other_paths_are_parsed(sender: Sender, path: bytes) -> None:
    """Only the path of the endpoint itself is remembered."""
    for _ in range(3):
        peer = await sender.service.connect()
        request = sender.request().replace(b"/events", path, 1)
        assert (await peer.ask(request)).startswith(b"HTTP/1.1 202")
    assert not sender.passed


async def test_the_id_of_a_request_is_used(sender: Sender) -> None:
    """Requests that differ in their id have one head, and get their id back."""
    peer = await sender.service.connect()
    for number in range(5):
        answer = await peer.ask(sender.request(None, f"X-Request-ID: id-{number}"))
        assert f"X-Request-ID: id-{number}\r\n".encode() in answer
    assert sender.passed
    passed = sender.passed
    assert b"a b" not in await peer.ask(sender.request(None, "X-Request-ID: a b"))
    assert sender.passed == passed


async def test_requests_in_parts_and_together_are_parsed(sender: Sender) -> None:
    """A body of its own read, and two requests in one, are answered in order."""
    peer = await sender.connect()
    first, second, third = [sender.request() for _ in range(3)]
    passed = sender.passed
    head, end, body = first.partition(b"\r\n\r\n")
    peer.writer.write(head + end)
    await asyncio.sleep(0)
    peer.writer.write(body)
    assert b'"accepted":1' in await peer.receive()
    peer.writer.write(second + third)
    assert b'"accepted":1' in await peer.receive()
    assert b'"accepted":1' in await peer.receive()
    assert sender.passed - passed <= 1


async def test_a_connection_returns_from_large_bodies(sender: Sender) -> None:
    """After a body of several reads, a small one is passed on again."""
    peer = await sender.connect()
    events = [
        {**EVENT, "data": {"text": "x" * 30_000}, "id": f"large {n}"} for n in range(9)
    ]
    answer = await peer.ask(sender.request(json.dumps(events).encode()))
    assert b'"accepted":9' in answer
    passed = sender.passed
    assert b'"accepted":1' in await peer.ask(sender.request())
    assert sender.passed == passed + 1


async def test_a_request_behind_one_in_progress_waits(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client sends before it has the answer is answered afterwards."""
    peer = await sender.connect()
    store = HeldStore(monkeypatch)
    peer.writer.write(sender.request())
    await store.is_held.wait()
    peer.writer.write(sender.request(b"{"))
    peer.writer.write(sender.request())
    await peer.writer.drain()
    store.released.set()
    answers = [await peer.receive() for _ in range(3)]
    assert [each[9:12] for each in answers] == [b"202", b"400", b"202"]


async def test_errors_of_the_storage_are_problems(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, added: Read
) -> None:
    """An error after the request has begun gets the answer of the ordinary way."""
    peer = await sender.connect()
    ordinary = await sender.service.connect(is_ordinary=True)
    store = HeldStore(monkeypatch)
    store.released.set()
    for error in (StorageUnavailable("away"), RuntimeError("a defect")):
        store.error = error
        ours = await peer.ask(sender.request())
        theirs = await ordinary.ask(sender.request())
        assert comparable(ours) == comparable(theirs)
        assert ours[9:12] in {b"503", b"500"}
    assert added("http_server_active_requests", http_request_method="POST") == 0


async def test_a_defect_of_an_answer_is_a_problem(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets 500, and its connection goes on."""
    peer = await sender.connect()
    with monkeypatch.context() as patched:
        patched.setattr("msgspec.json.encode", _fail_for_receipts)
        answer = await peer.ask(sender.request())
    assert answer.startswith(b"HTTP/1.1 500")
    assert b" 202 " in await peer.ask(sender.request())


def _fail_for_receipts(value: object) -> bytes:
    if isinstance(value, Receipt):
        raise ValueError("a defect")
    return msgspec.json.Encoder().encode(value)


@pytest.mark.parametrize("options", [{"server": {"request_timeout_s": 1.0}}])
async def test_a_request_has_a_time_limit(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow commit is answered with 503 in time; its outcome is then ignored."""
    peer = await sender.connect()
    store = HeldStore(monkeypatch)
    answer = await peer.ask(sender.request())
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"request_timeout" in answer
    store.released.set()
    assert await peer.ask(sender.request())


async def test_a_client_that_leaves_is_logged(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """Its events are stored, and its request is not in flight any more."""
    peer = await sender.connect()
    store = HeldStore(monkeypatch)
    request = sender.request()
    peer.writer.write(request)
    await store.is_held.wait()
    server = sender.service.runner.server
    assert server is not None
    before = len(server.connections)
    connection = peer.writer.get_extra_info("socket")
    # A reset, as a client may end its half and still read.
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    peer.writer.transport.abort()
    with capture_logs() as logs:
        await until(lambda: len(server.connections) < before)
        store.released.set()
        await until(lambda: any(each["event"] == "http.request" for each in logs))
    (line,) = [each for each in logs if each["event"] == "http.request"]
    assert line["http.response.status_code"] == 499
    assert line["outcome"] == "client_disconnected"
    assert not sender.service.app[LIMITS].in_flight["events"]
    again = await sender.service.connect()
    assert b'"duplicates":1' in await again.ask(request)


async def test_a_half_closed_connection_gets_its_answer(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may end its half after its last request; then the connection ends."""
    peer = await sender.connect()
    store = HeldStore(monkeypatch)
    peer.writer.write(sender.request())
    peer.writer.write_eof()
    await store.is_held.wait()
    store.released.set()
    assert b'"accepted":1' in await peer.receive()
    assert not await peer.reader.read()


@pytest.mark.parametrize("options", [{"server": {"keepalive_s": 0.05}}])
async def test_a_request_in_progress_is_not_idle(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection outlives its idle timeout while a commit is slow."""
    peer = await sender.connect()
    store = HeldStore(monkeypatch)
    peer.writer.write(sender.request())
    await store.is_held.wait()
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(0.2, passed.set_result, None)
    await passed
    store.released.set()
    assert b'"accepted":1' in await peer.receive()


async def test_a_request_in_progress_is_answered_at_the_end(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service does not stop before the request is answered."""
    peer = await sender.connect()
    store = HeldStore(monkeypatch)
    peer.writer.write(sender.request())
    await store.is_held.wait()
    ending = asyncio.create_task(sender.service.runner.cleanup())
    await asyncio.sleep(0)
    store.released.set()
    assert b'"accepted":1' in await peer.receive()
    await ending


async def test_a_revoked_key_is_refused(sender: Sender) -> None:
    """A remembered head permits nothing: its key is looked for each time."""
    peer = await sender.connect()
    database = sender.service.app[DATABASE]
    (key,) = await list_keys(database)
    await revoke_key(database, key.id)
    await sender.service.app[API_KEYS].read_again()
    answer = await peer.ask(sender.request())
    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "options",
    [{"events": {"key_rate_per_s": 4.0}}, {"limits": {"rate_per_s": 0.1, "burst": 4}}],
    ids=["key", "client"],
)
async def test_rates_are_those_of_the_ordinary_way(sender: Sender) -> None:
    """The requests of both ways are charged together, and refused alike."""
    peer = await sender.connect()
    ordinary = await sender.service.connect(is_ordinary=True)
    async with asyncio.timeout(GIVE_UP_S):
        while b" 202 " in (ours := await peer.ask(sender.request())):
            pass
    theirs = await ordinary.ask(sender.request())
    assert ours.startswith(b"HTTP/1.1 429")
    assert comparable(ours) == comparable(theirs)


@pytest.mark.parametrize(
    "options",
    [
        {
            "events": {"key_rate_per_s": 12.0},
            "limits": {"rate_per_s": 0.001, "burst": 6, "by_credentials": False},
        }
    ],
)
async def test_a_client_over_its_rate_costs_its_key_nothing(sender: Sender) -> None:
    """The other clients with the same key are answered."""
    peer = await sender.connect()
    answers = [await peer.ask(sender.request()) for _ in range(30)]
    assert answers[-1].startswith(b"HTTP/1.1 429")
    other = await sender.service.connect(host="127.0.0.2")
    assert b" 202 " in await other.ask(sender.request())


async def test_requests_are_logged_with_their_id(sender: Sender) -> None:
    """Both lines of a request name it, as those of the ordinary way do."""
    peer = await sender.connect()
    ordinary = await sender.service.connect(is_ordinary=True)
    lines: list[list[dict[str, Any]]] = []
    for each in (peer, ordinary):
        with capture_logs() as logs:
            answer = await each.ask(sender.request())
        found = re.search(rb"X-Request-ID: (\w+)", answer)
        assert found is not None
        events = [dict(each) for each in logs if each["log_level"] == "info"]
        lines.append([_without_id(each, found[1].decode()) for each in events])
    assert lines[0] == lines[1]
    assert [each["event"] for each in lines[0]] == ["events.received", "http.request"]


def _without_id(line: dict[str, Any], request_id: str) -> dict[str, Any]:
    # The ordinary way has it in the context, which captured lines lack.
    assert line.pop("request_id", request_id) == request_id
    line.pop("duration_s", None)
    return line


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nContent-Length: 02\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nContent-Length: +2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nContent-Length: 2 \r\n\r\n{}",
        b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nA: " + b"a" * 5_000 + b"\r\nContent-Length: 1\r\n\r\n{",
        b"POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n" + b"a" * 70_000,
    ],
)
def test_only_whole_requests_with_a_plain_length_are_split(data: bytes) -> None:
    """All others are parsed."""
    assert split_post(data) is None


def test_the_length_and_the_id_are_no_part_of_the_head() -> None:
    """Requests that differ in these alone have one head."""
    pattern = "POST / HTTP/1.1\r\ncontent-length: {}\r\nX-Request-ID: {}\r\n\r\n{}"
    first = split_post(pattern.format(1, "a", "x").encode())
    second = split_post(pattern.format(2, "bc", "yz").encode())
    assert first is not None
    assert second is not None
    assert first.head == second.head
    assert (second.request_id, second.body) == ("bc", b"yz")
