"""The client: against the real service, and against servers that fail on purpose."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer, unused_port
from structlog.typing import EventDict

from service.app import create_app
from service.events import client as client_module
from service.events.client import BufferFull, EventsClient, Undelivered
from service.events.keys import add_key
from service.settings import Settings
from service.storage.database import open_database
from tests.clock import LoopTime
from tests.events.conftest import SESSION
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Fail = Callable[[web.Request], Awaitable[web.StreamResponse]]
EventsSettings = Callable[..., Settings]

TRY_S: Final = GIVE_UP_S / 4
PAGE = {"host": "www.example.com", "path": "/"}


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for more events, or longer than it is asked to."""
    monkeypatch.setattr(client_module, "LINGER_S", 0.0)
    monkeypatch.setattr(client_module, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(client_module, "TRY_TIMEOUT_S", TRY_S)
    defaults = EventsClient.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "close_timeout_s", GIVE_UP_S)


async def view_pages(
    events: EventsClient, paths: range, session_id: str = SESSION
) -> list[str]:
    """Send a view of each page, by its number; gives their ids."""
    return [
        await events.send(
            "page interaction",
            "pageview",
            {**PAGE, "path": f"/{path}"},
            session_id=session_id,
        )
        for path in paths
    ]


def codes_of(undelivered: list[Undelivered]) -> set[str]:
    return {error.code for each in undelivered for error in each.errors}


# --- the real service ---------------------------------------------------------------


class Service:
    """The application on a port of its own, as often as it is started."""

    def __init__(self, settings: Settings, key: str) -> None:
        self.settings = settings
        self.key = key
        self.port = unused_port()
        self.middlewares: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = create_app(self.settings)
        app.middlewares.extend(self.middlewares)
        async with TestServer(app, host="127.0.0.1", port=self.port):
            yield

    async def kept(self, **filters: str) -> list[dict[str, Any]]:
        """All events that are kept, in order; the service has to run."""
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
    events_settings: EventsSettings,
) -> Callable[..., Awaitable[Service]]:
    """A factory of services with a key, not running yet."""

    async def make(**events: Any) -> Service:
        settings = events_settings(**events)
        async with open_database(settings.storage) as database:
            return Service(settings, await add_key(database, "shop"))

    return make


async def test_events_arrive_whole_and_in_order(
    service_with: Callable[..., Awaitable[Service]],
) -> None:
    """What was sent is kept when the client has closed: more than a batch, in order."""
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
        kept = await service.kept()

    assert [each["id"] for each in kept] == ids
    first, *others = kept
    assert {name: first[name] for name in ("session_id", "data", "timestamp")} == {
        "session_id": "another",
        "data": {**PAGE, **form},
        "timestamp": "2021-01-01T09:15:27.243860-05:00",
    }
    assert [each["data"]["path"] for each in others] == [f"/{n}" for n in range(1_200)]


async def test_many_send_at_once(
    service_with: Callable[..., Awaitable[Service]],
) -> None:
    """Each of many concurrent senders has all of its events kept, in its order."""
    service = await service_with()
    sessions = [f"session {number}" for number in range(50)]
    async with service.running():
        async with EventsClient(service.url, service.key) as events:
            sent = await asyncio.gather(
                *(view_pages(events, range(40), session) for session in sessions)
            )
        kept = await service.kept()

    assert len(kept) == 50 * 40
    for session, ids in zip(sessions, sent, strict=True):
        assert [each["id"] for each in kept if each["session_id"] == session] == ids


async def test_lost_answers_double_nothing(
    service_with: Callable[..., Awaitable[Service]],
) -> None:
    """Events whose answer never came are sent again, and kept once."""
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
    undelivered: list[Undelivered] = []
    async with service.running():
        async with EventsClient(
            service.url, service.key, on_undelivered=undelivered.append
        ) as events:
            ids = await view_pages(events, range(2_000))
        kept = await service.kept()

    assert next(tries) > 4
    assert [each["id"] for each in kept] == ids
    assert undelivered == []


async def test_the_services_own_errors_are_told(
    service_with: Callable[..., Awaitable[Service]],
) -> None:
    """A failed and a conflicting event are told with what the service says of them."""
    service = await service_with()
    undelivered: list[Undelivered] = []
    async with (
        service.running(),
        EventsClient(
            service.url, service.key, on_undelivered=undelivered.append
        ) as events,
    ):

        async def send(event_id: str, data: dict[str, Any]) -> None:
            await events.send(
                *("page interaction", "pageview"),
                data,
                session_id=SESSION,
                timestamp=datetime(2021, 1, 1, tzinfo=UTC),
                event_id=event_id,
            )

        await send("taken", PAGE)
        await send("without a path", {"host": "www.example.com"})
        await send("taken", PAGE)
        await send("taken", {**PAGE, "path": "/other"})
        await send("large", {**PAGE, "title": "x" * 40_000})

    told = [
        (each.id, [(error.code, error.path) for error in each.errors])
        for each in undelivered
    ]
    assert told == [
        ("without a path", [("schema", "/data")]),
        ("taken", [("conflict", "/id")]),
        ("large", [("data_too_large", "/data")]),
    ]
    assert msgspec.json.decode(undelivered[1].event)["data"]["path"] == "/other"


async def test_a_batch_too_large_for_the_service(
    service_with: Callable[..., Awaitable[Service]],
) -> None:
    """It is sent in parts; only an event that is too large by itself is refused."""
    service = await service_with(max_events=7, max_body_bytes=20_000)
    undelivered: list[Undelivered] = []
    async with service.running():
        async with EventsClient(
            service.url, service.key, on_undelivered=undelivered.append
        ) as events:
            ids = await view_pages(events, range(30))
            large = await events.send(
                *("page interaction", "pageview"),
                {**PAGE, "title": "x" * 20_000},
                session_id=SESSION,
            )
            ids += await view_pages(events, range(30, 60))
        kept = await service.kept()

    assert [each["id"] for each in kept] == ids
    assert [(each.id, codes_of([each])) for each in undelivered] == [
        (large, {"http_413"})
    ]


async def test_a_key_that_is_not_known(
    service_with: Callable[..., Awaitable[Service]], log_entries: list[EventDict]
) -> None:
    """Every event is refused, logged by default, and asked about only once."""
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


# --- servers that fail --------------------------------------------------------------


class Failing:
    """A server that fails as it is told, request by request, and then takes all."""

    def __init__(self) -> None:
        self.failures: Iterator[Fail] = iter(())
        self.bodies: list[bytes] = []
        self.taken: list[str] = []
        self.hangs = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        fail = next(self.failures, self.take)
        return await fail(request)

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Accept what was sent."""
        lines = (await request.read()).split(b"\n")
        ids = [msgspec.json.decode(line)["id"] for line in lines]
        self.taken += ids
        return receipt(len(ids))


FAILING: Final = web.AppKey("FAILING", Failing)


def receipt(number: int) -> web.Response:
    """That many events were accepted."""
    results = [{"id": "x", "status": "accepted"}] * number
    return web.json_response({"results": results}, status=202)


@asynccontextmanager
async def serving(server: Failing, port: int = 0) -> AsyncIterator[str]:
    """Serve; gives the URL."""
    app = web.Application(client_max_size=10**8)
    app[FAILING] = server
    app.router.add_post("/events", server.handle)
    app.router.add_route("*", "/elsewhere", server.handle)
    test_server = TestServer(app, host="127.0.0.1", port=port)
    async with test_server:
        yield f"http://127.0.0.1:{test_server.port}"


def answer(status: int, body: bytes = b"", **headers: str) -> Fail:
    """Answer this."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}

    async def fail(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=sent)

    return fail


async def reset(request: web.Request) -> web.StreamResponse:
    """Break the connection instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    request.app[FAILING].hangs += 1
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that")


async def cut_off(request: web.Request) -> web.StreamResponse:
    """Begin a receipt, and break the connection in its middle."""
    response = web.StreamResponse(status=202, headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"results":[{"id":"x","status":"acc')
    return await reset(request)


@pytest.mark.parametrize(
    "fail",
    [
        *map(answer, (408, 425, 429, 500, 502, 503, 504, 507, 599)),
        *(reset, hang, cut_off),
        answer(202, b'{"results":[{"id":"x","sta'),
        answer(202),
    ],
    ids=[
        *map(str, (408, 425, 429, 500, 502, 503, 504, 507, 599)),
        *("reset", "hang", "cut off", "truncated", "empty"),
    ],
)
async def test_failures_that_pass(fail: Fail, loop_time: LoopTime) -> None:
    """The very same batch is sent until it is taken; then what came after it."""
    server, undelivered = Failing(), list[Undelivered]()
    server.failures = iter([fail, fail])
    async with (
        loop_time.passing(TRY_S, at_each=lambda: server.hangs),
        serving(server) as url,
        EventsClient(url, "key", on_undelivered=undelivered.append) as events,
    ):
        ids = await view_pages(events, range(700))

    assert undelivered == []
    assert server.taken == ids
    assert len(server.bodies) > 3
    assert server.bodies[0] == server.bodies[1] == server.bodies[2]


async def test_a_service_that_is_not_there_yet(
    until: Until, log_entries: list[EventDict]
) -> None:
    """Connections are refused until there is a service; it gets everything."""
    server, port = Failing(), unused_port()
    async with EventsClient(f"http://127.0.0.1:{port}", "key") as events:
        ids = await view_pages(events, range(10))
        await until(lambda: len(log_entries) >= 3)
        async with serving(server, port):
            await until(lambda: not events.waiting_bytes)

    assert server.taken == ids
    assert log_entries[0] == {
        "event": "events.delayed",
        "log_level": "warning",
        "wait_s": 0.0,
        "reason": "no answer",
    }


@pytest.mark.parametrize(
    "asked, wait_s",
    [
        ("30", 0.0625),
        ("9" * 400, 0.0625),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 0.0625),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("0", 0.0),
        ("-1", 0.0),
        ("soon", 0.0),
    ],
)
async def test_waits_that_the_service_asks_for(
    asked: str,
    wait_s: float,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """Seconds and dates are heeded up to a bound, and nonsense is not."""
    monkeypatch.setattr(client_module, "LONGEST_ASKED_WAIT_S", 0.0625)
    server = Failing()
    server.failures = iter([answer(503, Retry_After=asked)])
    async with serving(server) as url, EventsClient(url, "key") as events:
        ids = await view_pages(events, range(1))

    assert server.taken == ids
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
async def test_one_bad_event_takes_no_others_with_it(status: int, bad: int) -> None:
    """A refused batch is sent in ever smaller parts, until only the bad one is left."""
    server, undelivered = Failing(), list[Undelivered]()

    async def refuse_bad(request: web.Request) -> web.StreamResponse:
        if f'"/{bad}"'.encode() in await request.read():
            return web.Response(status=status)
        return await server.take(request)

    server.failures = itertools.repeat(refuse_bad)
    async with (
        serving(server) as url,
        EventsClient(url, "key", on_undelivered=undelivered.append) as events,
    ):
        ids = await view_pages(events, range(500))

    assert [each.id for each in undelivered] == [ids.pop(bad)]
    assert codes_of(undelivered) == {f"http_{status}"}
    assert server.taken == ids
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
        (answer(204), "http_204"),
        (answer(202, b"[]"), "unknown_answer"),
        (answer(202, RECEIPT_OF_ONE), "unknown_answer"),
        (answer(202, b'{"results":[7,7,7]}'), "unknown_answer"),
        (answer(202, b"[" * 100_000 + b"]" * 100_000), "unknown_answer"),
        (answer(202, b'{"results":[{"status":"\xff"}]}'), "unknown_answer"),
    ],
)
async def test_answers_that_settle_a_batch(fail: Fail, code: str) -> None:
    """They are told of each event, asked for once, and do not stop what comes next."""
    server, undelivered = Failing(), list[Undelivered]()
    server.failures = iter([fail])
    async with (
        serving(server) as url,
        EventsClient(url, "key", on_undelivered=undelivered.append) as events,
    ):
        ids = await view_pages(events, range(503))

    settled = server.bodies[0].count(b"\n") + 1
    assert [each.id for each in undelivered] == ids[:settled]
    assert codes_of(undelivered) == {code}
    assert server.taken == ids[settled:]


async def test_a_callback_that_raises(log_entries: list[EventDict]) -> None:
    """It is told of every event all the same, and the others are sent."""
    server, told = Failing(), list[str]()
    server.failures = iter([answer(403)])

    def fail(undelivered: Undelivered) -> None:
        told.append(undelivered.id)
        raise ZeroDivisionError

    async with (
        serving(server) as url,
        EventsClient(url, "key", on_undelivered=fail) as events,
    ):
        ids = await view_pages(events, range(501))

    settled = server.bodies[0].count(b"\n") + 1
    assert told == ids[:settled]
    assert server.taken == ids[settled:]
    failures = [
        each for each in log_entries if each["event"] == "events.callback_failed"
    ]
    assert [each["event_id"] for each in failures] == told


# --- bounds -------------------------------------------------------------------------


async def test_memory_is_bounded_while_the_service_is_away(until: Until) -> None:
    """Events beyond the bound are not taken; those before it are delivered later."""
    server, port, ids = Failing(), unused_port(), list[str]()
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

    # Those that were taken before the last was not: their ids were not returned.
    assert [each for each in server.taken if each in ids] == ids
    assert len(server.taken) < len(ids) + 10


async def test_large_events_go_in_several_requests() -> None:
    """A batch stays within what a request may hold, not only in number."""
    server = Failing()
    async with serving(server) as url, EventsClient(url, "key") as events:
        for _ in range(100):
            await events.send("a", "b", {"text": "x" * 30_000}, session_id=SESSION)

    assert len(server.taken) == 100
    assert max(map(len, server.bodies)) <= 900_000


async def test_a_loop_of_sending_lets_others_run() -> None:
    """One who sends without a pause keeps neither the loop nor the sender."""
    server, turns = Failing(), 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with serving(server) as url, EventsClient(url, "key") as events:
        counting = asyncio.create_task(count())
        await view_pages(events, range(6_400))
        counting.cancel()

    assert turns >= 100
    assert len(server.taken) == 6_400


# --- beginning and end --------------------------------------------------------------


async def test_closing_has_a_bound() -> None:
    """What the service never answers is told, together with what waits behind it."""
    server, undelivered = Failing(), list[Undelivered]()
    server.failures = itertools.repeat(hang)
    async with serving(server) as url:
        async with EventsClient(
            url, "key", close_timeout_s=0.01, on_undelivered=undelivered.append
        ) as events:
            ids = await view_pages(events, range(600))
        await events.close()

    assert [each.id for each in undelivered] == ids
    assert codes_of(undelivered) == {"not_confirmed"}
    assert events.waiting_bytes == 0


async def test_closing_is_cancelled(until: Until) -> None:
    """Whoever cannot wait for the end leaves no sender behind, and is told the rest."""
    server, undelivered = Failing(), list[Undelivered]()
    server.failures = itertools.repeat(hang)
    async with serving(server) as url:
        events = EventsClient(url, "key", on_undelivered=undelivered.append)
        await events.__aenter__()
        ids = await view_pages(events, range(10))
        await until(lambda: bool(server.bodies))
        closing = asyncio.create_task(events.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])

    assert closing.cancelled()
    assert [each.id for each in undelivered] == ids
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_a_client_that_is_not_open() -> None:
    """Before it is entered and after its end it takes nothing; it cannot be reused."""
    server = Failing()
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


async def test_sending_is_cancelled() -> None:
    """A cancelled sender has sent exactly the events whose ids it was given."""
    server, ids = Failing(), list[str]()

    async def send_on(events: EventsClient) -> None:
        while True:
            ids.extend(await view_pages(events, range(1)))

    async with serving(server) as url, EventsClient(url, "key") as events:
        sending = asyncio.create_task(send_on(events))
        for _ in range(5):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])

    assert server.taken == ids
    assert len(ids) > 100


# --- what cannot be sent ------------------------------------------------------------

CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE
DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"deeper": DEEP}


@pytest.mark.parametrize(
    "error, data",
    [
        (ValueError, {"x": float("nan")}),
        (ValueError, {"x": [float("-inf")]}),
        (ValueError, CIRCLE),
        (ValueError, DEEP),
        (ValueError, {"x": "\ud800"}),
        (ValueError, {"x": "x" * 1_000_000}),
        (TypeError, {"x": b"bytes"}),
        (TypeError, {"x": {1, 2}}),
        (TypeError, {"x": datetime(2021, 1, 1, tzinfo=UTC)}),
        (TypeError, {(1, 2): "x"}),
        (TypeError, None),
        (ValueError, "text"),
    ],
    ids=[
        *("NaN", "infinity", "circular", "deep", "lone surrogate", "huge"),
        *("bytes", "set", "datetime", "key", "nothing", "text"),
    ],
)
async def test_data_that_is_not_json(error: type[Exception], data: Any) -> None:
    """It is refused at once, rather than sent as something else."""
    server = Failing()
    async with serving(server) as url, EventsClient(url, "key") as events:
        with pytest.raises(error):
            await events.send("a", "b", data, session_id=SESSION)
        assert events.waiting_bytes == 0

    assert server.bodies == []


async def test_a_time_without_a_zone() -> None:
    """It is refused: the service would take it for UTC, and who sent it may not."""
    server = Failing()
    moment = datetime(2021, 1, 1)  # noqa: DTZ001 - that is the point
    async with serving(server) as url, EventsClient(url, "key") as events:
        with pytest.raises(ValueError, match="zone"):
            await events.send("a", "b", {}, session_id=SESSION, timestamp=moment)

    assert server.bodies == []


async def test_data_that_changes_later() -> None:
    """An event is what it was when it was handed over."""
    server, data = Failing(), {"x": 1}
    async with serving(server) as url, EventsClient(url, "key") as events:
        await events.send("a", "b", data, session_id=SESSION)
        data["x"] = 2

    (body,) = server.bodies
    assert msgspec.json.decode(body)["data"] == {"x": 1}


@pytest.mark.parametrize("url", ["", "shop.test", "ftp://shop.test", "http://", "/x"])
def test_impossible_urls(url: str) -> None:
    """They are refused when the client is made, and not tried for ever."""
    with pytest.raises(ValueError, match="URL"):
        EventsClient(url, "key")


@pytest.mark.parametrize("key", ["", "key\n", "k y", "schlüssel"])
def test_impossible_keys(key: str) -> None:
    """So are keys that no header could carry; none is repeated in the error."""
    with pytest.raises(ValueError, match=r"^the key is empty, or has") as refused:
        EventsClient("http://shop.test", key)
    assert not key or key not in str(refused.value)
