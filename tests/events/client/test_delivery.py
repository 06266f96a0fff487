"""Delivery to servers that fail: retries, halved batches, refused events."""

import itertools

import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port
from structlog.typing import EventDict

from service.events.client import EventsClient, Undelivered, delivery
from tests.clock import LoopTime
from tests.events.client.conftest import (
    TRY_S,
    Fail,
    FailingServer,
    Until,
    answer,
    client_of,
    codes_of,
    hang,
    serving,
    view_pages,
)


async def reset(request: web.Request) -> web.StreamResponse:
    """Break the connection before an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_off(request: web.Request) -> web.StreamResponse:
    """Break the connection in the middle of a receipt."""
    response = web.StreamResponse(status=202, headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"results":[{"id":"x","status":"acc')
    return await reset(request)


RETRIED = (408, 425, 429, 500, 503, 599)


@pytest.mark.parametrize(
    "fail",
    [
        *map(answer, RETRIED),
        *(reset, hang, cut_off),
        answer(202, b'{"results":[{"id":"x","sta'),
        answer(202),
    ],
    ids=[
        *map(str, RETRIED),
        *("reset", "hang", "cut off", "truncated", "empty"),
    ],
)
async def test_a_temporary_failure_is_retried(fail: Fail, loop_time: LoopTime) -> None:
    """The same bytes are sent until they are accepted, then the following events."""
    server = FailingServer()
    server.failures = iter([fail, fail])
    async with (
        loop_time.passing(TRY_S, at_each=lambda: server.hangs),
        client_of(server) as events,
    ):
        ids = await view_pages(events, range(700))

    assert server.undelivered == []
    assert server.accepted == ids
    assert len(server.bodies) > 3
    assert server.bodies[0] == server.bodies[1] == server.bodies[2]


async def test_refused_connections_are_retried(
    until: Until, log_entries: list[EventDict]
) -> None:
    """A service that starts later gets all events."""
    server, port = FailingServer(), unused_port()
    async with EventsClient(f"http://127.0.0.1:{port}", "key") as events:
        ids = await view_pages(events, range(10))
        await until(lambda: len(log_entries) >= 3)
        async with serving(server, port):
            await until(lambda: not events.waiting_bytes)

    assert server.accepted == ids
    assert log_entries[0] == {
        "event": "events.delayed",
        "log_level": "warning",
        "wait_s": 0.0,
        "reason": "no answer",
    }


@pytest.mark.parametrize(
    "retry_after, wait_s",
    [
        ("30", 0.0625),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 0.0625),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("-1", 0.0),
        ("soon", 0.0),
    ],
)
async def test_retry_after_is_honoured_up_to_a_maximum(
    retry_after: str,
    wait_s: float,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """Seconds and dates are honoured; other values are ignored."""
    monkeypatch.setattr(delivery, "MAX_RETRY_AFTER_S", 0.0625)
    server = FailingServer()
    server.failures = iter([answer(503, Retry_After=retry_after)])
    async with client_of(server) as events:
        ids = await view_pages(events, range(1))

    assert server.accepted == ids
    assert log_entries == [
        {
            "event": "events.delayed",
            "log_level": "warning",
            "wait_s": wait_s,
            "reason": "503",
        }
    ]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("bad", [0, 7, 499])
async def test_a_refused_batch_is_halved(status: int, bad: int) -> None:
    """Only the event that the service refuses on its own is reported."""
    server = FailingServer()

    async def refuse_bad(request: web.Request) -> web.StreamResponse:
        if f'"/{bad}"'.encode() in await request.read():
            return web.Response(status=status)
        return await server.accept(request)

    server.failures = itertools.repeat(refuse_bad)
    async with client_of(server) as events:
        ids = await view_pages(events, range(500))

    assert [each.id for each in server.undelivered] == [ids.pop(bad)]
    assert codes_of(server.undelivered) == {f"http_{status}"}
    assert server.accepted == ids
    assert len(server.bodies) < 25


RECEIPT_OF_ONE = b'{"results":[{"id":"x","status":"accepted"}]}'


@pytest.mark.parametrize(
    "fail, code",
    [
        *((answer(status), f"http_{status}") for status in (401, 403, 404, 415)),
        *(
            (answer(status, Location="/elsewhere"), f"http_{status}")
            for status in (301, 302, 303, 307, 308)
        ),
        (answer(200, RECEIPT_OF_ONE), "http_200"),
        (answer(202, RECEIPT_OF_ONE), "unknown_answer"),
        (answer(202, b'{"results":[7,7,7]}'), "unknown_answer"),
        (answer(202, b"[" * 100_000 + b"]" * 100_000), "unknown_answer"),
        (answer(202, b'{"results":[{"status":"\xff"}]}'), "unknown_answer"),
    ],
)
async def test_a_final_answer_is_not_retried(fail: Fail, code: str) -> None:
    """Each event of the batch is reported; the following batches are delivered."""
    server = FailingServer()
    server.failures = iter([fail])
    async with client_of(server) as events:
        ids = await view_pages(events, range(503))

    reported = server.bodies[0].count(b"\n") + 1
    assert [each.id for each in server.undelivered] == ids[:reported]
    assert codes_of(server.undelivered) == {code}
    assert server.accepted == ids[reported:]


async def test_a_callback_that_raises_stops_nothing(
    log_entries: list[EventDict],
) -> None:
    """It is called for every undelivered event; the following events are sent."""
    server, reported_ids = FailingServer(), list[str]()
    server.failures = iter([answer(403)])

    def fail(undelivered: Undelivered) -> None:
        reported_ids.append(undelivered.id)
        raise ZeroDivisionError

    async with client_of(server, on_undelivered=fail) as events:
        ids = await view_pages(events, range(501))

    reported = server.bodies[0].count(b"\n") + 1
    assert reported_ids == ids[:reported]
    assert server.accepted == ids[reported:]
    failures = [
        each for each in log_entries if each["event"] == "events.callback_failed"
    ]
    assert [each["event_id"] for each in failures] == reported_ids
