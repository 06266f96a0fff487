"""Overload of the event loop: what arrives too late is refused at once, and counted."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
from aiohttp import web
from msgspec.structs import replace
from structlog.typing import EventDict

from service.server import load_shedding
from service.server.load_shedding import MIN_WAITING, LoopQueue
from service.server.runner import ServiceRunner
from service.settings import load
from service.web.problems import Problem
from service.web.request_context import Reports, request_context
from tests.metric_samples import growth

CLIENTS: Final = 4 * MIN_WAITING
WORK_S: Final = 0.002
"""Time for which each request blocks the event loop."""
PATH: Final = "/vehicles"
GET: Final = b"GET /vehicles HTTP/1.1\r\nHost: test\r\n\r\n"
ID: Final = re.compile(rb"X-Request-ID: (\w+)\r\n")


async def work(_request: web.Request) -> web.Response:
    """Block the event loop, as the work of many requests does."""
    time.sleep(WORK_S)  # noqa: ASYNC251
    return web.Response(text="done")


@pytest.fixture
def no_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any overload for a lasting one."""
    monkeypatch.setattr(load_shedding, "BURST_S", 0.0)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server whose requests take `WORK_S` of the event loop each."""
    app = web.Application(middlewares=[request_context(Reports(access_log=True))])
    app.add_routes([web.get(path, work) for path in (PATH, "/health/live", "/metrics")])
    app.add_routes([web.post("/", work)])
    bounds = {"port": 0, "drain_s": 0.0, "max_loop_wait_s": 0.01}
    runner = ServiceRunner(app, replace(load().settings.server, **bounds))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield site.port
    await runner.cleanup()


@pytest.fixture
async def connections(
    port: int,
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """Idle connections, each of which has had one answer."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(CLIENTS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(GET)
            await answer_of(reader)
            opened.append((reader, writer))
        yield opened


Connections = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Return status, head and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None
    return int(head.split()[1]), head, await reader.readexactly(int(length[1]))


async def send_all(
    connections: Connections, request: bytes
) -> list[tuple[int, bytes, bytes]]:
    """Send a request on all connections at once, and return the answers."""
    for _, writer in connections:
        writer.write(request)
    return [await answer_of(reader) for reader, _ in connections]


async def overload(
    connections: Connections, request: bytes = GET
) -> list[tuple[int, bytes, bytes]]:
    """Send requests at once until some are refused; return the last answers."""
    for _ in range(3):
        answers = await send_all(connections, request)
        if any(status != 200 for status, *_ in answers):
            return answers
    return answers


@pytest.mark.usefixtures("no_bursts")
async def test_requests_that_would_wait_too_long_are_refused(
    connections: Connections, log_entries: list[EventDict]
) -> None:
    """They get a problem document on an open connection, and count as any answer."""
    read = growth()

    answers = await overload(connections)

    refused = [(head, body) for status, head, body in answers if status == 503]
    assert refused
    assert len(refused) <= len(answers) - MIN_WAITING + 1
    for head, body in refused:
        problem = json.loads(body)
        found = ID.search(head)
        assert found is not None
        assert set(problem) == set(Problem.__struct_fields__) - {"message"}
        assert problem["code"] == "overloaded"
        assert problem["request_id"] == found[1].decode()
        assert b"\r\nRetry-After: " in head
        assert b"\r\nX-Content-Type-Options: nosniff" in head
        assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert len({body for _, body in refused}) == len(refused)
    assert read(
        "copilot_usage_lane_refused_total", lane="event_loop", reason="expected_wait"
    ) == len(refused)
    assert read(
        "http_server_request_duration_seconds_count",
        http_request_method="GET",
        http_route="_OTHER",
        http_response_status_code="503",
    ) == len(refused)
    assert read(
        "copilot_usage_answers_total", domain="vehicles", outcome="overloaded"
    ) == len(refused)
    logged = [entry for entry in log_entries if entry["event"] == "http.shed"]
    assert logged
    assert "request_id" not in logged[0]

    assert {status for status, *_ in await send_all(connections[:8], GET)} == {200}


@pytest.mark.usefixtures("no_bursts")
@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /vehicles HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /vehicles HTTP/1.0\r\nConnection: keep-alive\r\nA: b HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["health", "metrics", "HTTP/1.0", "HTTP/1.0 with a field", "POST"],
)
async def test_other_requests_are_not_refused(
    connections: Connections, request_: bytes
) -> None:
    """Monitoring, and requests that are more than one GET of HTTP/1.1, are answered."""
    answers = await overload(connections, request_)

    assert {status for status, *_ in answers} == {200}


@pytest.mark.usefixtures("no_bursts")
async def test_a_body_is_never_read_as_a_request(connections: Connections) -> None:
    """A refusal of its head alone would leave it as the next one of the connection."""
    hidden = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
    head = GET[:-2] + b"Content-Length: %d\r\n\r\n" % len(hidden)
    last = b"GET /health/live HTTP/1.1\r\nHost: test\r\nX-Request-ID: last\r\n\r\n"
    await overload(connections)
    for _, writer in connections:
        writer.write(head)
    await asyncio.sleep(10 * WORK_S)  # the server reads the heads alone
    for _, writer in connections:
        writer.write(hidden + last)
    for reader, _ in connections:
        _, first, _ = await answer_of(reader)
        _, second, _ = await answer_of(reader)
        assert b"X-Request-ID: last\r\n" not in first
        assert b"X-Request-ID: last\r\n" in second


@pytest.mark.usefixtures("no_bursts")
async def test_a_refusal_closes_if_the_client_asked_for_that(
    connections: Connections,
) -> None:
    """A client of one request reads to the end of its connection."""
    await overload(connections)
    request = GET[:-2] + b"Connection: close\r\n\r\n"
    for _, writer in connections:
        writer.write(request)

    received = [await reader.read() for reader, _ in connections]

    assert any(b"HTTP/1.1 503" in each for each in received)


async def test_a_burst_is_answered(connections: Connections) -> None:
    """Many requests at once, after a calm time, are no overload."""
    answers = await send_all(connections, GET)

    assert {status for status, *_ in answers} == {200}


def test_an_overload_is_over_after_a_turn_without_a_long_wait(now: list[float]) -> None:
    """The next burst is accepted again, once no request was refused for a while."""
    queue = queue_with(2 * MIN_WAITING, now)
    assert queue.shed(GET) is not None
    for _ in range(2 * MIN_WAITING):
        queue.start()
    queue.add()
    assert queue.shed(GET) is None
    queue.start()

    now[0] += 2 * load_shedding.CALM_S
    assert queue.shed(GET) is None
    for _ in range(2 * MIN_WAITING):
        queue.add()
    assert queue.shed(GET) is None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test sets."""
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def queue_with(
    waiting: int, now: list[float], *, max_wait_s: float = 10.0
) -> LoopQueue:
    """Return a queue whose requests take a second each."""
    queue = LoopQueue(max_wait_s)
    for _ in range(200):
        queue.add()
    for _ in range(200):
        now[0] += 1.0
        queue.start()
    for _ in range(waiting):
        queue.add()
    return queue


def test_an_overload_begins_after_a_burst_and_ends_with_a_calm_time(
    now: list[float],
) -> None:
    """A burst is accepted; after that, what exceeds the bound is refused."""
    queue = queue_with(5, now)
    assert queue.shed(GET) is None
    for _ in range(MIN_WAITING):
        queue.add()
    queue._calm_at = now[0]
    assert queue.shed(GET) is None

    now[0] += 2 * load_shedding.BURST_S
    assert queue.shed(GET) is not None
    queue._calm_at = now[0]
    assert queue.shed(GET) is not None

    now[0] += 2 * load_shedding.CALM_S
    queue._calm_at = now[0]
    assert queue.shed(GET) is None


def test_requests_that_the_loop_receives_in_one_turn_are_an_overload(
    now: list[float],
) -> None:
    """The first ones of each turn need not wait long, but the last ones do."""
    queue = queue_with(0, now, max_wait_s=MIN_WAITING + 8.0)

    refused = [receive_in_one_turn(queue, 3 * MIN_WAITING, now) for _ in range(3)]

    accepted = MIN_WAITING + 9
    assert refused == [0, *[3 * MIN_WAITING - accepted] * 2]


def receive_in_one_turn(queue: LoopQueue, requests: int, now: list[float]) -> int:
    """Receive requests at the same time, then start them; return those refused."""
    refused = 0
    for _ in range(requests):
        if queue.shed(GET) is None:
            queue.add()
        else:
            refused += 1
    for _ in range(requests - refused):
        now[0] += 1.0
        queue.start()
    return refused


def test_a_draining_server_refuses_nothing_early(now: list[float]) -> None:
    """Its answers have to close their connections, which a refusal does not."""
    queue = queue_with(2 * MIN_WAITING, now)
    assert queue.shed(GET) is not None

    queue.is_draining = True

    assert queue.shed(GET) is None


@pytest.mark.parametrize(
    "target, refused",
    [
        (b"/events?order=arrival&wait_s=30", 0),
        (b"/events?wait_s=30&order=arrival", 0),
        (b"/events/?order=arrival&wait_s=30", 0),
        (b"/events?order=arrival", 1),
        (b"/usage?wait_s=30", 1),
    ],
)
def test_requests_that_wait_are_not_refused_early(
    now: list[float], target: bytes, refused: int
) -> None:
    """Their number has a bound of its own, and they come together after an event."""
    queue = queue_with(2 * MIN_WAITING, now)
    request = b"GET " + target + b" HTTP/1.1\r\nHost: test\r\n\r\n"
    assert (queue.shed(request) is not None) == bool(refused)


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 45",
        b"content-length:45",
        b"TRANSFER-ENCODING: chunked",
        b"Connection: upgrade\r\nUpgrade: h2c",
    ],
)
def test_a_request_that_is_not_over_is_not_refused_early(
    now: list[float], field: bytes
) -> None:
    """What follows its head would be read as the next request."""
    queue = queue_with(2 * MIN_WAITING, now)
    assert queue.shed(GET[:-2] + field + b"\r\n\r\n") is None
    assert queue.shed(GET) is not None
