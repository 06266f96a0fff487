"""The connection to the NATS servers, which is opened again whenever it is lost.

The client library does not reconnect: after an error of the server it closes for good,
and after a partition it waits for a socket that never takes its bytes. So each loss is
followed by a new client of the library. Its users begin anew, too: they wait for
`connected`, use the client, and stop when it raises `QueueUnavailable`.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client

from service.events.errors import QueueUnavailable, StreamUnusable
from service.settings import EventsSettings
from service.storage.maintenance import in_background

CONNECT_S: Final = 2
"""Time limit of one server's answer to a new connection."""
RETRY_S: Final = 0.5
"""Pause between two attempts to connect."""
HEARTBEAT_S: Final = 1.0
ANSWER_S: Final = 3
"""Time limit of the answer to a heartbeat, behind all that is being sent."""
CLOSE_S: Final = 1.0
NEVER_S: Final = 86_400
"""The library's own heartbeat, which would only repeat ours."""
MAX_PENDING_BYTES: Final = 8 * 1024 * 1024
"""Bytes that may wait for the socket; a publisher waits for room above them."""
NO_NKEYS: Final = "events.queue_credentials_file needs: pip install 'nats-py[nkeys]'"

log = structlog.get_logger()

Prepare = Callable[[Client], Awaitable[None]]
"""Subscribes to what its user needs; raises `QueueUnavailable`."""


class QueueConnection:
    """A connection that is always opened again; `open_connection` opens one."""

    def __init__(self, settings: EventsSettings, name: str) -> None:
        self.on_open: list[Prepare] = []
        """Called with each new client, before others may use it."""
        self.on_loss: list[Callable[[], None]] = []
        self._settings = settings
        self._name = name
        self._client: Client | None = None
        self._opened = asyncio.Event()
        self._is_stopped = False
        self.reason = "not connected yet"
        """The reason why there is no connection."""

    @property
    def is_open(self) -> bool:
        """True while the servers answer."""
        return self._client is not None

    @property
    def client(self) -> Client:
        """The present client of the library; raises `QueueUnavailable` without one."""
        if self._client is None:
            raise QueueUnavailable(self.reason)
        return self._client

    async def connected(self) -> Client:
        """Wait for a connection; return the client of the library."""
        while self._client is None:
            await self._opened.wait()
        return self._client

    async def run(self) -> None:
        """Keep the connection open until `stop`."""
        try:
            while not self._is_stopped:
                try:
                    await self._open_and_watch()
                except Exception as error:  # a defect must not end the task
                    log.error("events.queue_connection_failed", exc_info=error)
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._drop_client()

    def stop(self) -> None:
        """End `run`, which the library may keep from being cancelled."""
        self._is_stopped = True

    async def _open_and_watch(self) -> None:
        closed = asyncio.Event()
        try:
            client = await self._open(closed)
        except QueueUnavailable as error:
            if str(error) != self.reason:
                self.reason = str(error)
                log.warning("events.queue_unreachable", reason=self.reason)
            await asyncio.sleep(RETRY_S)
            return
        log.info("events.queue_connected", server=_address(client))
        self._client, self.reason = client, ""
        self._opened.set()
        self.reason = await self._loss_of(client, closed)
        if not self._is_stopped:
            log.warning("events.queue_lost", reason=self.reason)
        await self._drop_client()

    async def _open(self, closed: asyncio.Event) -> Client:
        client = await connect(self._settings, self._name, closed)
        try:
            for prepare in self.on_open:
                await prepare(client)
        except BaseException:
            await discard(client)
            raise
        return client

    async def _loss_of(self, client: Client, closed: asyncio.Event) -> str:
        """Return the reason when the servers do not answer any more."""
        while not self._is_stopped:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await closed.wait()
            try:
                with translated():
                    await client.flush(timeout=ANSWER_S)
            except QueueUnavailable as error:
                last = client.last_error
                return str(error) if last is None else describe(last)
        return "the service has stopped"

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        self._opened.clear()
        for each in self.on_loss:
            each()
        if client is not None:
            await discard(client)


@asynccontextmanager
async def open_connection(
    settings: EventsSettings, name: str
) -> AsyncIterator[QueueConnection]:
    """Open a connection; `name` is shown by the servers."""
    connection = QueueConnection(settings, name)
    async with in_background(connection.run()):
        try:
            yield connection
        finally:
            connection.stop()


class _Client(Client):
    """A client that sends nothing in plain text to a server with a `tls` URL.

    The library encrypts if the server asks for it, and only then. A server without TLS,
    or someone in between, would get the password.
    """

    def _connect_command(self) -> bytes:
        server = self._current_server
        is_encrypted = self._server_info.get("tls_required", False)
        if server is None or (server.uri.scheme == "tls" and not is_encrypted):
            raise nats_errors.Error("the server has no TLS, which its URL requires")
        return super()._connect_command()


async def connect(
    settings: EventsSettings, name: str, closed: asyncio.Event | None = None
) -> Client:
    """Return a new client that is connected; raises `QueueUnavailable`.

    `closed` is set when the connection ends.
    """
    client, failures = _Client(), [""]

    async def note(error: Exception) -> None:
        failures.append(describe(error))

    async def end() -> None:
        if closed is not None:
            closed.set()

    try:
        with translated():
            await client.connect(
                list(settings.queue_servers),
                name=name,
                error_cb=note,
                closed_cb=end,
                allow_reconnect=False,
                # With 1, the library tries each server twice. Without a maximum, it
                # would never give up.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_S,
                ping_interval=NEVER_S,
                pending_size=MAX_PENDING_BYTES,
                flush_timeout=ANSWER_S,
                **_identity(settings),
            )
    except asyncio.CancelledError:
        await discard(client)
        raise
    except QueueUnavailable as error:
        await discard(client)
        if isinstance(error.__cause__, nats_errors.NoServersError) and failures[-1]:
            raise QueueUnavailable(failures[-1]) from error
        raise
    return client


def _identity(settings: EventsSettings) -> dict[str, Any]:
    """Return the options of the library that identify both sides."""
    options: dict[str, Any] = {}
    if settings.queue_token:
        options["token"] = settings.queue_token
    if settings.queue_credentials_file:
        options["user_credentials"] = settings.queue_credentials_file
    if settings.queue_ca_file:
        authorities = settings.queue_ca_file
        try:
            options["tls"] = ssl.create_default_context(cafile=authorities)
        except OSError as error:
            # The error of `ssl` does not name the file.
            reason = f"events.queue_ca_file {authorities}: {error}"
            raise QueueUnavailable(reason) from error
    return options


async def discard(client: Client) -> None:
    """Close a client, whatever state it is in."""
    try:
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await client.close()
    finally:
        # A socket that takes no bytes would stay open until the kernel gives up.
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the library and of the network as `QueueUnavailable`.

    Raises `StreamUnusable` if a package of the library is missing.
    """
    try:
        yield
    except (nats_errors.Error, OSError, TimeoutError) as error:
        raise QueueUnavailable(describe(error)) from error
    except ModuleNotFoundError as error:
        # The library loads it for a file of credentials only.
        if error.name != "nkeys":
            raise
        raise StreamUnusable(NO_NKEYS) from error


def describe(error: Exception) -> str:
    """Return the reason of a failure in one line."""
    text = " ".join(str(error).split()).removeprefix("nats: ")
    return text or type(error).__name__


def _address(client: Client) -> str:
    """Return host and port of a client's server, without its password."""
    url = client.connected_url
    return "" if url is None else f"{url.hostname}:{url.port}"
