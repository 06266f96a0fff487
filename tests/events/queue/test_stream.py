"""The stream on real servers: created, compared, and refused with one clear line."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from nats.aio.client import Client
from structlog.typing import EventDict

from service.events.errors import QueueUnavailable, StreamUnusable
from service.events.queue import stream as stream_module
from service.events.queue.connection import connect, discard
from service.events.queue.stream import (
    check_server,
    config_of,
    create_stream,
    differences,
    ensure_stream,
)
from service.events.queue.stream_api import (
    HINTS,
    PERMANENT,
    StreamConfig,
    StreamInfo,
    call,
    config_in,
    read_stream,
)
from service.settings import EventsSettings
from tests.conftest import MakeSettings
from tests.nats_servers import NatsServer

NAME: Final = "qo"
OLD_SERVER: Final = "events.queue_server_old"
OLD: Final = (
    b'INFO {"server_id":"a","server_name":"a","version":"2.8.4","proto":1,'
    b'"headers":true,"max_payload":1048576,"jetstream":true}\r\n'
)

MakeQueue = Callable[..., EventsSettings]


@pytest.fixture
def queue(settings: MakeSettings) -> MakeQueue:
    """A factory of settings of a queue with one replica."""

    def make(url: str, **more: Any) -> EventsSettings:
        chosen = {"queue_url": url, "queue_stream": NAME, "queue_replicas": 1, **more}
        return settings(events=chosen).events

    return make


@pytest.fixture(autouse=True)
def nothing_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the differences that other tests have logged."""
    monkeypatch.setattr(stream_module, "_logged", {})
    monkeypatch.setattr(stream_module, "_old_servers", set())


@asynccontextmanager
async def connected(settings: EventsSettings) -> AsyncIterator[Client]:
    """Connect, as a service does."""
    client = await connect(settings, "test")
    try:
        yield client
    finally:
        await discard(client)


def server_with(folder: Path, config: str) -> NatsServer:
    """Return a server with a configuration of its own, which runs."""
    server = NatsServer(folder, config=config)
    server.start()
    return server


async def test_a_stream_is_created_with_the_limits_of_the_settings(
    nats_server: NatsServer, queue: MakeQueue, log_entries: list[EventDict]
) -> None:
    """It keeps files, refuses what is too much, and forgets what is acknowledged."""
    settings = queue(nats_server.url, queue_max_bytes=1_000_000, queue_partitions=4)
    async with connected(settings) as client:
        made = await ensure_stream(client, settings)
        again = await ensure_stream(client, settings)

    config = config_in(made)
    assert (config.retention, config.storage, config.discard) == (
        "workqueue",
        "file",
        "new",
    )
    assert config.subjects == (f"{NAME}.*",)
    assert (config.max_bytes, config.max_age) == (1_000_000, 0)
    assert config.description == "partitions=4"
    assert again.config == made.config
    created = [each for each in log_entries if each["event"] != OLD_SERVER]
    assert created == [
        {
            "event": "events.queue_stream_created",
            "stream": NAME,
            "replicas": 1,
            "max_bytes": 1_000_000,
            "log_level": "info",
        }
    ]


async def test_processes_may_create_it_at_once(
    nats_server: NatsServer, queue: MakeQueue
) -> None:
    """All of them get the stream of the first one, also with other limits."""
    one, other = queue(nats_server.url), queue(nats_server.url, queue_max_bytes=70_000)
    async with connected(one) as client:
        made = await asyncio.gather(
            *(create_stream(client, each) for each in (one, other, one, other))
        )

    assert len({each.config for each in map(bytes_of, made)}) == 1


def bytes_of(info: StreamInfo) -> StreamInfo:
    """Return a stream with a configuration that can be compared."""
    return msgspec.structs.replace(info, config=bytes(info.config))


async def test_other_limits_are_logged_once_and_never_changed(
    nats_server: NatsServer, queue: MakeQueue, log_entries: list[EventDict]
) -> None:
    """The stream stays as it is; each value that differs has a line."""
    first = queue(nats_server.url)
    later = queue(nats_server.url, queue_max_bytes=70_000, queue_max_age_s=60.0)
    async with connected(first) as client:
        await ensure_stream(client, first)
        log_entries.clear()
        for _ in range(2):
            found = await ensure_stream(client, later)

    assert config_in(found) == msgspec.structs.replace(
        config_of(first), max_bytes=first.queue_max_bytes
    )
    assert [each["event"] for each in log_entries] == [
        "events.queue_stream_differs"
    ] * 3
    assert [
        (each["setting"], each["actual"], each["expected"]) for each in log_entries
    ] == [
        ("events.queue_max_bytes", first.queue_max_bytes, 70_000),
        ("events.queue_max_age_s", 0.0, 60.0),
        ("events.queue_duplicate_window_s", 120.0, 60.0),
    ]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"retention": "limits"}, "retention is limits and not workqueue"),
        ({"storage": "memory"}, "storage is memory and not file"),
        ({"discard": "old"}, "discard is old and not new"),
        ({"subjects": ("qo.>",)}, "subjects is qo.> and not qo.*"),
        ({"no_ack": True}, "no_ack is True and not False"),
        (
            {"description": "partitions=8"},
            "events.queue_partitions is 8 and not 16",
        ),
        (
            {"description": "orders"},
            "events.queue_partitions is unknown and not 16",
        ),
    ],
    ids=[
        "retention",
        "storage",
        "discard",
        "subjects",
        "no_ack",
        "partitions",
        "foreign",
    ],
)
async def test_a_stream_that_would_lose_events_is_refused(
    nats_server: NatsServer, queue: MakeQueue, changes: dict[str, Any], reason: str
) -> None:
    """One line names what differs, and the stream stays as it is."""
    settings = queue(nats_server.url)
    config = msgspec.structs.replace(config_of(settings), **changes)
    async with connected(settings) as client:
        await call(client, f"STREAM.CREATE.{NAME}", StreamInfo, config)
        with pytest.raises(StreamUnusable, match=r"^stream qo: ") as refused:
            await ensure_stream(client, settings)
        after = config_in(await read_stream(client, NAME))

    assert reason in str(refused.value)
    assert after == config


async def test_more_replicas_than_a_single_server_has_are_refused(
    nats_server: NatsServer, queue: MakeQueue
) -> None:
    """The line says what to do."""
    settings = queue(nats_server.url, queue_replicas=3)
    async with connected(settings) as client:
        with pytest.raises(StreamUnusable, match=r"set events.queue_replicas = 1"):
            await ensure_stream(client, settings)


async def test_a_single_server_with_three_replicas_is_no_cluster(
    nats_server: NatsServer, queue: MakeQueue
) -> None:
    """It accepts such an update, though it keeps one copy."""
    one, three = queue(nats_server.url), queue(nats_server.url, queue_replicas=3)
    async with connected(one) as client:
        await ensure_stream(client, one)
        await call(client, f"STREAM.UPDATE.{NAME}", StreamInfo, config_of(three))
        assert config_in(await read_stream(client, NAME)).num_replicas == 3
        with pytest.raises(StreamUnusable, match="the server has no cluster"):
            await ensure_stream(client, three)


async def test_fewer_replicas_than_set_are_refused_and_more_are_not(
    settings: MakeSettings,
) -> None:
    """A stream with more copies is as safe as expected."""
    made = settings(events={"queue_replicas": 3}).events
    found = {
        number: [
            each.effect
            for each in differences(
                msgspec.structs.replace(config_of(made), num_replicas=number), made
            )
        ]
        for number in (1, 3, 5)
    }

    assert found == {1: ["unusable"], 3: [], 5: ["warning"]}


async def test_jetstream_that_is_off_is_named(tmp_path: Path, queue: MakeQueue) -> None:
    """A server without it has no stream, and will have none."""
    server = server_with(tmp_path, "max_payload: 1MB\n")
    settings = queue(server.url)
    try:
        async with connected(settings) as client:
            with pytest.raises(StreamUnusable, match="no reachable NATS server has"):
                await ensure_stream(client, settings)
    finally:
        server.kill()


ACCOUNTS: Final = """
jetstream {{ store_dir: "{folder}", max_file_store: 10MB }}
accounts {{
  WITHOUT {{ users: [{{ user: a, password: b }}] }}
  SMALL {{ jetstream: {{ max_file: 1MB }}, users: [{{ user: c, password: d }}] }}
  CLOSED {{
    jetstream: enabled
    users: [{{ user: e, password: f, permissions: {{ publish: ["qo.*"] }} }}]
  }}
}}
"""


@pytest.mark.parametrize(
    "case",
    [
        ("a:b", StreamUnusable, "enable JetStream for the account"),
        ("c:d", StreamUnusable, "lower events.queue_max_bytes"),
        (
            "e:f",
            StreamUnusable,
            "the NATS user needs more permissions: .*publish",
        ),
        ("a:wrong", QueueUnavailable, "Authorization Violation"),
        ("", QueueUnavailable, "Authorization Violation"),
    ],
    ids=["no JetStream", "no room", "no permission", "wrong password", "no password"],
)
async def test_accounts_that_cannot_have_the_stream_are_told_why(
    tmp_path: Path,
    queue: MakeQueue,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, type[QueueUnavailable], str],
) -> None:
    """The line says what an operator of NATS has to change."""
    user, error, reason = case
    monkeypatch.setattr("service.events.queue.stream_api.API_S", 1.0)
    server = server_with(tmp_path, ACCOUNTS.format(folder=tmp_path / "jetstream"))
    url = server.url.replace("//", f"//{user}@") if user else server.url
    settings = queue(url)
    try:
        with pytest.raises(QueueUnavailable, match=reason) as refused:
            async with connected(settings) as client:
                await ensure_stream(client, settings)
    finally:
        server.kill()

    assert type(refused.value) is error
    assert "wrong" not in str(refused.value)


@asynccontextmanager
async def serving(greeting: bytes) -> AsyncIterator[str]:
    """Serve the begin of a conversation on a free port; yield the URL."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(greeting)
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"nats://127.0.0.1:{port}"


async def test_a_server_that_is_too_old_is_named(queue: MakeQueue) -> None:
    """2.9 is the oldest version that the service works with."""
    async with serving(OLD) as url, connected(queue(url)) as client:
        with pytest.raises(StreamUnusable, match=r"is 2.8.4; 2.9 is the oldest"):
            check_server(client)


@pytest.mark.parametrize("version", ["2.9.0", "2.10.22", "2.12.0-RC.1", "3.0.1"])
async def test_newer_servers_are_used(queue: MakeQueue, version: str) -> None:
    """So are versions with two digits, and of later major numbers."""
    greeting = OLD.replace(b"2.8.4", version.encode())
    async with serving(greeting) as url, connected(queue(url)) as client:
        check_server(client)


@pytest.mark.parametrize(
    "version, lines",
    [
        ("2.9.10", 1),
        ("2.11.8", 1),
        ("2.12.2", 1),
        ("2.12.3", 0),
        ("2.15.1", 0),
        ("3.0.0", 0),
    ],
)
async def test_a_server_that_may_lose_events_is_logged_once(
    queue: MakeQueue, log_entries: list[EventDict], version: str, lines: int
) -> None:
    """It is used nevertheless."""
    greeting = OLD.replace(b"2.8.4", version.encode())
    async with serving(greeting) as url, connected(queue(url)) as client:
        check_server(client)
        check_server(client)

    expected = {
        "event": OLD_SERVER,
        "version": version,
        "safe_version": "2.12.3",
        "log_level": "warning",
    }
    assert log_entries == [expected] * lines


async def test_a_server_for_small_messages_is_refused(
    tmp_path: Path, queue: MakeQueue
) -> None:
    """Its limit is named."""
    server = server_with(tmp_path, "max_payload: 1024\njetstream {}\n")
    settings = queue(server.url)
    try:
        async with connected(settings) as client:
            with pytest.raises(StreamUnusable, match=r"max_payload .* is 1024"):
                await ensure_stream(client, settings)
    finally:
        server.kill()


async def test_subjects_of_another_stream_are_named(
    nats_server: NatsServer, queue: MakeQueue
) -> None:
    """A stream of another application has the same subjects."""
    settings = queue(nats_server.url)
    other = msgspec.structs.replace(config_of(settings), name="other")
    async with connected(settings) as client:
        await call(client, "STREAM.CREATE.other", StreamInfo, other)
        with pytest.raises(StreamUnusable, match=r"choose another events.queue_stream"):
            await ensure_stream(client, settings)


async def test_an_answer_that_is_no_answer_is_an_outage(
    nats_server: NatsServer, queue: MakeQueue
) -> None:
    """Whoever answers on the subject of the administration, it must not end a task."""

    async def answer(message: Any) -> None:
        await message.respond(b"x")

    async with connected(queue(nats_server.url)) as client:
        await client.subscribe("$JS.API.TEST", cb=answer)
        with pytest.raises(QueueUnavailable, match="unexpected answer"):
            await call(client, "TEST", StreamInfo)


def test_what_repeats_for_ever_has_a_hint() -> None:
    """Each code that stops a start says what an operator can do."""
    assert PERMANENT <= HINTS.keys()


def test_a_short_maximum_age_bounds_the_duplicate_window(
    settings: MakeSettings,
) -> None:
    """The servers refuse a window that is longer."""
    made = settings(events={"queue_max_age_s": 30.0}).events

    config = config_of(made)
    assert config.duplicate_window == config.max_age == 30_000_000_000
    assert isinstance(config, StreamConfig)
