"""Connection to the NATS servers: errors, identities, and connections that are lost."""

import asyncio
import inspect
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.js import errors as js_errors
from structlog.typing import EventDict

from service.app import check_storage
from service.events.errors import QueueUnavailable, StreamUnusable
from service.events.queue.connection import (
    connect,
    discard,
    open_connection,
    translated,
)
from service.settings import EventsSettings, Settings, SettingsError, StorageSettings
from service.settings import load as load_settings
from tests.conftest import MakeSettings
from tests.events.conftest import on_sqlite
from tests.nats_servers import NatsServer
from tests.patience import GIVE_UP_S
from tests.ports import free_port

LIBRARY_ERRORS: Final = [
    error
    for module in (nats_errors, js_errors)
    for _, error in inspect.getmembers(module, inspect.isclass)
    if issubclass(error, Exception) and error.__module__ == module.__name__
]

Until = Callable[[Callable[[], bool]], Awaitable[None]]


def settings_for(url: str, **more: Any) -> EventsSettings:
    """Return settings with a queue."""
    settings = load_settings().settings.events
    return replace(settings, queue_url=url, queue_replicas=1, **more)


@pytest.mark.parametrize("error", LIBRARY_ERRORS, ids=lambda each: each.__name__)
def test_every_error_of_the_library_is_translated(error: type[Exception]) -> None:
    """A new version of the library may have further ones."""
    # Their arguments differ, and matter to their texts only.
    made: Any = type(error.__name__, (error,), {"__str__": lambda _: "nats: a reason"})
    with pytest.raises(QueueUnavailable, match=r"^a reason$"), translated():
        raise made.__new__(made)


async def test_a_killed_server_is_connected_again(
    nats_server: NatsServer, until: Until, log_entries: list[EventDict]
) -> None:
    """The loss has a reason; users see that there is no connection meanwhile."""
    async with open_connection(settings_for(nats_server.url), "test") as connection:
        first = await connection.connected()
        nats_server.kill()
        await until(lambda: not connection.is_open)
        with pytest.raises(QueueUnavailable):
            _ = connection.client
        await until(lambda: bool(_reasons(log_entries, "events.queue_unreachable")))
        await asyncio.to_thread(nats_server.start)
        assert await connection.connected() is not first
    (lost,) = _reasons(log_entries, "events.queue_lost")
    assert lost
    unreachable = _reasons(log_entries, "events.queue_unreachable")
    assert len(unreachable) == len(set(unreachable))


async def test_a_frozen_server_is_left(
    nats_server: NatsServer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers no heartbeat is left, though its socket is open."""
    monkeypatch.setattr("service.events.queue.connection.ANSWER_S", 0.2)
    monkeypatch.setattr("service.events.queue.connection.HEARTBEAT_S", 0.05)
    async with open_connection(settings_for(nats_server.url), "test") as connection:
        await connection.connected()
        nats_server.freeze()
        try:
            await until(lambda: not connection.is_open)
        finally:
            nats_server.thaw()
        async with asyncio.timeout(GIVE_UP_S):
            await connection.connected()


async def test_a_token_identifies_the_service(tmp_path: Path) -> None:
    """A server that refuses it gives a reason without the token."""
    server = NatsServer(tmp_path, "--auth", "right")
    server.start()
    try:
        await discard(await connect(settings_for(server.url, queue_token="right"), "t"))
        for more in ({"queue_token": "wrong"}, {}):
            with pytest.raises(QueueUnavailable, match="uthorization") as raised:
                await connect(settings_for(server.url, **more), "t")
            assert "wrong" not in str(raised.value)
    finally:
        server.kill()


async def test_a_server_that_ends_with_the_service_ends_both(
    nats_server: NatsServer,
) -> None:
    """A loss at the same moment does not keep the connection from being closed."""
    async with asyncio.timeout(GIVE_UP_S):
        for _ in range(3):
            settings = settings_for(nats_server.url)
            async with open_connection(settings, "test") as connection:
                await connection.connected()
                nats_server.kill()
            await asyncio.to_thread(nats_server.start)


async def test_a_user_and_one_server_of_several_are_found(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """A server that is down leaves the others; the URL has user and password."""
    server = NatsServer(tmp_path, "--user", "us", "--pass", "secret")
    server.start()
    try:
        url = server.url.replace("//", "//us:secret@")
        down = f"nats://127.0.0.1:{free_port()}"
        client = await connect(settings_for(f"{down}, {url}"), "test")
        assert client.is_connected
        await discard(client)
    finally:
        server.kill()


async def test_a_missing_package_for_credentials_is_named(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library needs it for a file of credentials, and only then."""
    monkeypatch.setitem(sys.modules, "nkeys", None)
    file = tmp_path / "user.creds"
    file.write_text("-----BEGIN NATS USER JWT-----")
    settings = settings_for(nats_server.url, queue_credentials_file=str(file))
    with pytest.raises(StreamUnusable, match=r"nats-py\[nkeys\]"):
        await connect(settings, "test")


async def test_a_client_that_cannot_be_prepared_is_closed(
    nats_server: NatsServer,
) -> None:
    """Whatever fails, no connection is left behind by each attempt."""
    clients: list[Client] = []

    async def prepare(client: Client) -> None:
        clients.append(client)
        if len(clients) == 1:
            raise ValueError("a defect")

    async with open_connection(settings_for(nats_server.url), "test") as connection:
        connection.on_open.append(prepare)
        assert await connection.connected() is clients[1]
    assert clients[0].is_closed


async def test_a_missing_file_of_authorities_is_named() -> None:
    """The reason is that of the file, and no attempt is made."""
    settings = settings_for("tls://127.0.0.1:1", queue_ca_file="/nowhere/ca.pem")
    with pytest.raises(
        QueueUnavailable, match=r"queue_ca_file /nowhere/ca.pem: .*No such file"
    ):
        await connect(settings, "test")


async def test_a_server_without_tls_gets_no_password() -> None:
    """A `tls` URL never sends credentials in plain text, whatever the server says."""
    received = bytearray()

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.9.10","auth_required":true}\r\n')
        while some := await reader.read(1_000):
            received.extend(some)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = settings_for(f"tls://us:secret@127.0.0.1:{port}")
        with pytest.raises(QueueUnavailable, match="has no TLS"):
            await connect(settings, "test")
    assert received == b""


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://a.test", "nats or tls"),
        ("nats://", "nats or tls"),
        ("nats://a.test/stream", "without a path"),
        ("nats://token@a.test", "queue_token"),
        ("nats://a.test:port", "queue_url"),
        (" , ", "at least one URL"),
        ("nats://a.test,ftp://b.test", "nats or tls"),
    ],
)
def test_a_wrong_url_is_refused(url: str, reason: str) -> None:
    """The error names the setting and shows no password."""
    with pytest.raises(SettingsError, match=reason):
        load_settings(options={"events": {"queue_url": url}})


@pytest.fixture
def queued(settings: MakeSettings, storage: StorageSettings) -> Callable[..., Settings]:
    """A factory of settings with a queue and an empty database."""

    def make(url: str, **more: Any) -> Settings:
        events = {"enabled": True, "queue_url": url, **more}
        return settings(events=events, storage={"url": storage.url})

    return make


@on_sqlite
async def test_a_start_without_a_server_is_one_clear_line(
    queued: Callable[..., Settings],
) -> None:
    """The line names the setting and the reason."""
    url = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(
        QueueUnavailable, match=r"events\.queue_url: .*Connect"
    ) as raised:
        await check_storage(queued(url))
    assert "\n" not in str(raised.value)


@on_sqlite
async def test_a_start_without_jetstream_is_one_clear_line(
    queued: Callable[..., Settings], tmp_path: Path
) -> None:
    """A server may run without JetStream."""
    server = NatsServer(tmp_path, config="max_payload: 1MB")
    server.start()
    try:
        with pytest.raises(QueueUnavailable, match=r"events\.queue_url: ") as raised:
            await check_storage(queued(server.url, queue_replicas=1))
        assert "\n" not in str(raised.value)
    finally:
        server.kill()


@on_sqlite
async def test_a_check_creates_the_stream(
    queued: Callable[..., Settings], nats_server: NatsServer
) -> None:
    """The workers find it; a second check compares it."""
    settings = queued(nats_server.url, queue_replicas=1)
    await check_storage(settings)
    await check_storage(settings)
    with pytest.raises(QueueUnavailable, match="partitions is 16"):
        await check_storage(
            queued(nats_server.url, queue_replicas=1, queue_partitions=8)
        )


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install."""
    monkeypatch.setattr("service.settings.model.is_installed", lambda _name: False)
    with pytest.raises(SettingsError, match=r"copilot-usage\[nats\]"):
        load_settings(options={"events": {"queue_url": "nats://a.test"}})


def _reasons(entries: list[EventDict], name: str) -> list[str]:
    return [each["reason"] for each in entries if each["event"] == name]
