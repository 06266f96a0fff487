"""The client against the real service: batches, bounds, opening and closing."""

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer, unused_port
from structlog.typing import EventDict

from service.app import create_app
from service.events.client import BufferFull, EventsClient, Undelivered
from service.keys.store import add_key
from service.settings import SCOPES, Settings
from service.storage.database import open_database
from tests.events.client.conftest import (
    FailingServer,
    Until,
    client_of,
    codes_of,
    hang,
    serving,
    view_pages,
)
from tests.events.conftest import PAGE, SESSION

MakeService = Callable[..., Awaitable["Service"]]


class Service:
    """The service on a fixed port; it may be started several times."""

    def __init__(self, settings: Settings, key: str) -> None:
        self.settings = settings
        self.key = key
        self.port = unused_port()
        self.middlewares: list[Any] = []
        self.undelivered: list[Undelivered] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = create_app(self.settings)
        app.middlewares.extend(self.middlewares)
        async with TestServer(app, host="127.0.0.1", port=self.port):
            yield

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[EventsClient]:
        """Open a client that reports to `undelivered`, while the service runs."""
        async with EventsClient(
            self.url, self.key, on_undelivered=self.undelivered.append
        ) as events:
            yield events

    async def stored(self, **filters: str) -> list[dict[str, Any]]:
        """Return all stored events in order, while the service is running."""
        found: list[dict[str, Any]] = []
        path: str | None = "/events?limit=1000"
        headers = {"Authorization": f"Bearer {self.key}"}
        async with ClientSession(self.url, headers=headers) as session:
            while path is not None:
                async with session.get(path, params=filters) as response:
                    found += (await response.json())["events"]
                    link = re.match("<(.+)>", response.headers.get("Link", ""))
                    path, filters = link[1] if link else None, {}
        return found


@pytest.fixture
def service_with(
    events_settings: Callable[..., Settings],
) -> MakeService:
    """A factory of services with a key, which are not running yet."""

    async def make(**events: Any) -> Service:
        settings = events_settings(**events)
        async with open_database(settings.storage) as database:
            return Service(settings, await add_key(database, "shop", SCOPES))

    return make


async def test_events_arrive_whole_and_in_order(service_with: MakeService) -> None:
    """After the client closes, all events of several batches are stored in order."""
    service = await service_with()
    moment = datetime(2021, 1, 1, 9, 15, 27, 243860, timezone(timedelta(hours=-5)))
    async with service.running():
        async with EventsClient(f"{service.url}/", service.key) as events:
            ids = await view_pages(events, range(1_200))
            form = {"form": {"name": "Zoë", "age": 10**18, "tags": ["\n", None, 0.1]}}
            ids[:0] = [
                await events.send(
                    "form interaction",
                    "submit",
                    {**PAGE, **form},
                    session_id="another",
                    timestamp=moment,
                    event_id="my own",
                )
            ]
        stored = await service.stored()

    assert [each["id"] for each in stored] == ids
    first, *others = stored
    assert {name: first[name] for name in ("session_id", "data", "timestamp")} == {
        "session_id": "another",
        "data": {**PAGE, **form},
        "timestamp": "2021-01-01T09:15:27.243860-05:00",
    }
    assert [each["data"]["path"] for each in others] == [f"/{n}" for n in range(1_200)]


async def test_ids_are_in_the_order_of_time(service_with: MakeService) -> None:
    """An event without an id gets a UUIDv7, which begins with the time."""
    service = await service_with()
    before_ms = time.time_ns() // 1_000_000
    async with service.running(), service.sending() as events:
        sent = [
            await events.send("page interaction", "pageview", PAGE, session_id=SESSION)
            for _ in range(100)
        ]
        after_ms = time.time_ns() // 1_000_000

    ids = list(map(UUID, sent))
    assert {each.version for each in ids} == {7}
    assert len(set(ids)) == len(ids)
    assert before_ms <= ids[0].int >> 80 <= ids[-1].int >> 80 <= after_ms


async def test_concurrent_senders_keep_their_order(service_with: MakeService) -> None:
    """All events of each concurrent sender are stored in its order."""
    service = await service_with()
    sessions = [f"session {number}" for number in range(50)]
    async with service.running():
        async with service.sending() as events:
            sent = await asyncio.gather(
                *(view_pages(events, range(40), session) for session in sessions)
            )
        stored = await service.stored()

    assert len(stored) == 50 * 40
    for session, ids in zip(sessions, sent, strict=True):
        assert [each["id"] for each in stored if each["session_id"] == session] == ids


async def test_lost_answers_duplicate_no_event(service_with: MakeService) -> None:
    """Events without an answer are sent again, and stored once."""
    service = await service_with()
    tries = itertools.count()

    @web.middleware
    async def lose_answers(request: web.Request, handler: Any) -> web.StreamResponse:
        answer: web.StreamResponse = await handler(request)
        if request.method == "POST" and next(tries) % 3:
            assert request.transport is not None
            request.transport.abort()
        return answer

    service.middlewares.append(lose_answers)
    async with service.running():
        async with service.sending() as events:
            ids = await view_pages(events, range(2_000))
        stored = await service.stored()

    assert next(tries) > 4
    assert [each["id"] for each in stored] == ids
    assert service.undelivered == []


async def test_errors_of_the_service_are_reported(service_with: MakeService) -> None:
    """Failed and conflicting events are reported with the errors of the service."""
    service = await service_with()
    async with service.running(), service.sending() as events:

        async def send(event_id: str, data: dict[str, Any]) -> None:
            await events.send(
                *("page interaction", "pageview"),
                data,
                session_id=SESSION,
                timestamp=datetime(2021, 1, 1, tzinfo=UTC),
                event_id=event_id,
            )

        await send("used", PAGE)
        await send("without a path", {"host": "www.example.com"})
        await send("used", PAGE)
        await send("used", {**PAGE, "path": "/other"})
        await send("large", {**PAGE, "title": "x" * 40_000})

    reported = [
        (each.id, [(error.code, error.path) for error in each.errors])
        for each in service.undelivered
    ]
    assert reported == [
        ("without a path", [("schema", "/data")]),
        ("used", [("conflict", "/id")]),
        ("large", [("data_too_large", "/data")]),
    ]
    assert msgspec.json.decode(service.undelivered[1].event)["data"]["path"] == "/other"


async def test_a_batch_beyond_the_limits_is_split(service_with: MakeService) -> None:
    """Only an event that exceeds a limit on its own is refused."""
    service = await service_with(max_events=7, max_body_bytes=20_000)
    async with service.running():
        async with service.sending() as events:
            ids = await view_pages(events, range(30))
            large = await events.send(
                *("page interaction", "pageview"),
                {**PAGE, "title": "x" * 20_000},
                session_id=SESSION,
            )
            ids += await view_pages(events, range(30, 60))
        stored = await service.stored()

    assert [each["id"] for each in stored] == ids
    assert [(each.id, codes_of([each])) for each in service.undelivered] == [
        (large, {"http_413"})
    ]


async def test_an_unknown_key_refuses_every_event(
    service_with: MakeService, log_entries: list[EventDict]
) -> None:
    """The events are logged by default, after a single request."""
    service = await service_with()
    async with (
        service.running(),
        EventsClient(service.url, "cu_unknown") as events,
    ):
        ids = await view_pages(events, range(100))

    assert [each for each in log_entries if each["event"] == "events.undelivered"] == [
        {
            "event": "events.undelivered",
            "log_level": "error",
            "event_id": event_id,
            "codes": ["http_401"],
        }
        for event_id in ids
    ]
    requests = [each for each in log_entries if each["event"] == "http.request"]
    assert [each["http.response.status_code"] for each in requests] == [401]


async def test_memory_is_bounded_while_the_service_is_away(until: Until) -> None:
    """Events beyond the bound are refused; the accepted ones are delivered later."""
    server, port, ids = FailingServer(), unused_port(), list[str]()
    async with EventsClient(
        f"http://127.0.0.1:{port}", "key", max_waiting_bytes=200_000
    ) as events:
        while events.waiting_bytes < 199_000:
            ids += await view_pages(events, range(1))
        with pytest.raises(BufferFull):
            await view_pages(events, range(10))
        assert 0.99 * 200_000 < events.waiting_bytes <= 200_000
        async with serving(server, port):
            await until(lambda: not events.waiting_bytes)
            ids += await view_pages(events, range(1))
            await until(lambda: not events.waiting_bytes)

    # `view_pages` raised before it returned the ids of its accepted events.
    assert [each for each in server.accepted if each in ids] == ids
    assert len(server.accepted) < len(ids) + 10


async def test_large_events_go_in_several_requests() -> None:
    """A batch is bounded in bytes as well as in events."""
    server = FailingServer()
    async with client_of(server) as events:
        for _ in range(100):
            await events.send("a", "b", {"text": "x" * 30_000}, session_id=SESSION)

    assert len(server.accepted) == 100
    assert max(map(len, server.bodies)) <= 900_000


async def test_a_loop_of_sending_yields() -> None:
    """A task that only sends blocks neither other tasks nor the delivery."""
    server, turns = FailingServer(), 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with client_of(server) as events:
        counting = asyncio.create_task(count())
        await view_pages(events, range(6_400))
        counting.cancel()

    assert turns >= 100
    assert len(server.accepted) == 6_400


async def test_closing_has_a_time_limit() -> None:
    """Events that the service does not confirm in time are reported."""
    server = FailingServer()
    server.failures = itertools.repeat(hang)
    async with client_of(server, close_timeout_s=0.01) as events:
        ids = await view_pages(events, range(600))
    await events.close()

    assert [each.id for each in server.undelivered] == ids
    assert codes_of(server.undelivered) == {"not_confirmed"}
    assert events.waiting_bytes == 0


async def test_closing_can_be_cancelled(until: Until) -> None:
    """A cancelled close leaves no task, and reports the undelivered events."""
    server = FailingServer()
    server.failures = itertools.repeat(hang)
    async with serving(server) as url:
        events = EventsClient(url, "key", on_undelivered=server.undelivered.append)
        await events.__aenter__()
        ids = await view_pages(events, range(10))
        await until(lambda: bool(server.bodies))
        closing = asyncio.create_task(events.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])

    assert closing.cancelled()
    assert [each.id for each in server.undelivered] == ids
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_only_an_open_client_accepts_events() -> None:
    """A client raises before it is opened and after it is closed, and is used once."""
    server = FailingServer()
    async with serving(server) as url:
        events = EventsClient(url, "key")
        await events.close()
        with pytest.raises(RuntimeError):
            await view_pages(events, range(1))
        events = EventsClient(url, "key")
        with pytest.raises(RuntimeError):
            await view_pages(events, range(1))
        async with events:
            with pytest.raises(RuntimeError):
                await events.__aenter__()
        with pytest.raises(RuntimeError):
            await view_pages(events, range(1))
        with pytest.raises(RuntimeError):
            await events.__aenter__()

    assert server.bodies == []


async def test_sending_can_be_cancelled() -> None:
    """A cancelled task has sent exactly the events whose ids it received."""
    server, ids = FailingServer(), list[str]()

    async def send_on(events: EventsClient) -> None:
        while True:
            ids.extend(await view_pages(events, range(1)))

    async with client_of(server) as events:
        sending = asyncio.create_task(send_on(events))
        for _ in range(5):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])

    assert server.accepted == ids
    assert len(ids) > 100


CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE
DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"deeper": DEEP}


@pytest.mark.parametrize(
    "error, data",
    [
        (ValueError, {"x": float("nan")}),
        (ValueError, CIRCLE),
        (ValueError, DEEP),
        (ValueError, {"x": "\ud800"}),
        (ValueError, {"x": "x" * 1_000_000}),
        (TypeError, {"x": b"bytes"}),
        (TypeError, {(1, 2): "x"}),
        (TypeError, None),
        (ValueError, "text"),
    ],
    ids=[
        *("NaN", "circular", "deep", "lone surrogate", "huge"),
        *("bytes", "key", "nothing", "text"),
    ],
)
async def test_data_that_is_not_json_is_refused(
    error: type[Exception], data: Any
) -> None:
    """`send` raises at once instead of sending other data."""
    server = FailingServer()
    async with client_of(server) as events:
        with pytest.raises(error):
            await events.send("a", "b", data, session_id=SESSION)
        assert events.waiting_bytes == 0

    assert server.bodies == []


async def test_a_time_without_a_zone_is_refused() -> None:
    """Such a time is ambiguous: Python takes it for local time, the service for UTC."""
    server = FailingServer()
    moment = datetime(2021, 1, 1)  # noqa: DTZ001 - it is tested
    async with client_of(server) as events:
        with pytest.raises(ValueError, match="zone"):
            await events.send("a", "b", {}, session_id=SESSION, timestamp=moment)

    assert server.bodies == []


async def test_later_changes_of_data_have_no_effect() -> None:
    """`send` encodes the data at once."""
    server, data = FailingServer(), {"x": 1}
    async with client_of(server) as events:
        await events.send("a", "b", data, session_id=SESSION)
        data["x"] = 2

    (body,) = server.bodies
    assert msgspec.json.decode(body)["data"] == {"x": 1}


@pytest.mark.parametrize("url", ["", "shop.test", "ftp://shop.test", "http://", "/x"])
def test_an_invalid_url_is_refused(url: str) -> None:
    """The constructor raises, instead of retrying for ever."""
    with pytest.raises(ValueError, match="URL"):
        EventsClient(url, "key")


@pytest.mark.parametrize("key", ["", "key\n", "k y", "schlüssel"])
def test_an_invalid_key_is_refused(key: str) -> None:
    """The constructor raises for a key no header can have, without repeating it."""
    with pytest.raises(ValueError, match=r"^the key is empty, or has") as refused:
        EventsClient("http://shop.test", key)
    assert not key or key not in str(refused.value)
