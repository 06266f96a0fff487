"""The client of an application: it buffers events and delivers them in batches."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self
from uuid import UUID

import aiohttp
import structlog
from aiohttp_retry import RetryClient
from yarl import URL

from service.events.client.buffer import (
    MAX_BATCH_BYTES,
    MAX_BATCH_EVENTS,
    BufferedEvent,
    EventBuffer,
)
from service.events.client.delivery import (
    SPLIT_STATUSES,
    RetryPolicy,
    Undelivered,
    give_up,
    post_batch,
    undelivered_of,
)
from service.events.parsing import NDJSON

LINGER_S: Final = 0.02
"""Time that an event waits for others to join its batch."""
YIELD_EVERY: Final = 64
"""Calls of `send` after which the event loop runs other tasks."""
TRY_TIMEOUT_S: Final = 10.0

# msgspec would write NaN as null and bytes as text, so the service would store values
# that the application did not send.
_encoder: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
)

log = structlog.get_logger()


class EventsClient:
    """Sends an application's events; use it as an async context manager.

    `on_undelivered` is called for each event that the service refuses, or does not
    confirm within `close_timeout_s` of closing. By default such events are logged.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        max_waiting_bytes: int = 16 * 1024 * 1024,
        close_timeout_s: float = 10.0,
        on_undelivered: Callable[[Undelivered], None] | None = None,
    ) -> None:
        self._url = _events_url(url)
        self._headers = _headers_for(key)
        self._close_timeout_s = close_timeout_s
        self._on_undelivered = on_undelivered or _log_undelivered
        self._buffer = EventBuffer(max_waiting_bytes)
        self._calls_since_yield = 0
        self._wake_up = asyncio.Event()
        self._is_closing = False
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._sender is not None:
            raise RuntimeError("a client is used once")
        self._sender = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @property
    def waiting_bytes(self) -> int:
        """Memory of the events in the buffer, in bytes; those in flight included."""
        return self._buffer.size

    async def send(  # noqa: PLR0913 - the fields of an event
        self,
        category: str,
        name: str,
        data: Mapping[str, Any],
        *,
        session_id: str,
        timestamp: datetime | None = None,
        event_id: str | None = None,
    ) -> str:
        """Put an event into the buffer, without waiting for the service; return its id.

        The default of `timestamp` is now. Raises `BufferFull`. Raises `TypeError` or
        `ValueError` for data that is not JSON, a time without a zone, and an event that
        exceeds a request. Raises `RuntimeError` if the client is not open.
        """
        await self._yield_sometimes()
        if self._sender is None or self._is_closing:
            raise RuntimeError("the client is not open")
        # Every event needs an id, by which the service recognises a retry.
        event_id = event_id or _make_id()
        fields = {
            "session_id": session_id,
            "category": category,
            "name": name,
            "data": dict(data),
            "timestamp": _format_timestamp(timestamp or datetime.now(UTC)),
            "id": event_id,
        }
        self._buffer.append(BufferedEvent(event_id, _encode(fields)))
        self._wake_up.set()
        return event_id

    async def close(self) -> None:
        """Deliver the buffer within `close_timeout_s`; report the rest."""
        self._is_closing = True
        self._wake_up.set()
        if self._sender is None:
            return
        try:
            await asyncio.wait([self._sender], timeout=self._close_timeout_s)
        finally:
            self._sender.cancel()
            await asyncio.wait([self._sender])
            # The buffer still has events in flight, which may have been stored.
            unconfirmed = self._buffer.remove(len(self._buffer))
            reason = "the client was closed before its answer"
            self._report(give_up(unconfirmed, "not_confirmed", reason))

    async def _yield_sometimes(self) -> None:
        """Let other tasks run: a loop that only sends would block the sender task."""
        self._calls_since_yield += 1
        if self._calls_since_yield >= YIELD_EVERY:
            self._calls_since_yield = 0
            await asyncio.sleep(0)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TRY_TIMEOUT_S),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            client = RetryClient(session, retry_options=RetryPolicy())
            while await self._wait_for_events():
                await self._deliver(client, self._buffer.next_batch())

    async def _wait_for_events(self) -> bool:
        """Wait for events and `LINGER_S` for more; return False when all are delivered.

        A client that is closing does not linger.
        """
        if not self._buffer and not self._is_closing:
            self._wake_up.clear()
        await self._wake_up.wait()
        if len(self._buffer) < MAX_BATCH_EVENTS and not self._is_closing:
            await asyncio.sleep(LINGER_S)
        return bool(self._buffer) or not self._is_closing

    async def _deliver(self, client: RetryClient, batch: list[BufferedEvent]) -> None:
        """Send the oldest events; halve the batch if one event may be to blame.

        Batches are sent one at a time, so events arrive in the order of `send`.
        """
        response = await post_batch(client, self._url, batch)
        if response.status in SPLIT_STATUSES and len(batch) > 1:
            middle = len(batch) // 2
            await self._deliver(client, batch[:middle])
            await self._deliver(client, batch[middle:])
            return
        self._report(undelivered_of(self._buffer.remove(len(batch)), response))

    def _report(self, undelivered: Iterable[Undelivered]) -> None:
        for each in undelivered:
            try:
                self._on_undelivered(each)
            except Exception as error:
                # The callback belongs to the application; delivery goes on.
                log.error("events.callback_failed", event_id=each.id, exc_info=error)


def _make_id() -> str:
    """Return a UUIDv7 (RFC 9562), because the service stores ordered ids fastest."""
    milliseconds = time.time_ns() // 1_000_000
    high, low = secrets.randbits(12), secrets.randbits(62)
    number = milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return str(UUID(int=number))


def _encode(event: dict[str, Any]) -> bytes:
    """Return the JSON text; raises `TypeError`, or `ValueError` if it is too large."""
    try:
        text = _encoder.encode(event).encode()
    except RecursionError:
        raise ValueError("the data is nested too deeply") from None
    if len(text) > MAX_BATCH_BYTES:
        raise ValueError(f"{len(text)} bytes are too many for one event")
    return text


def _format_timestamp(moment: datetime) -> str:
    # Python takes a time without a zone for local time, the service for UTC.
    if moment.tzinfo is None:
        raise ValueError("a timestamp needs a zone: datetime.now(UTC) has one")
    return moment.isoformat()


def _events_url(url: str) -> URL:
    parsed = URL(url.rstrip("/") + "/events")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"expected an http or https URL with a host, not {url!r}")
    return parsed


def _headers_for(key: str) -> dict[str, str]:
    # A key that was read from a file may end with a newline, which no header may have.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the key is empty, or has characters that no key has")
    return {"Authorization": f"Bearer {key}", "Content-Type": NDJSON}


def _log_undelivered(undelivered: Undelivered) -> None:
    log.error(
        "events.undelivered",
        event_id=undelivered.id,
        codes=[error.code for error in undelivered.errors],
    )
