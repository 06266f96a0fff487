"""A client for applications that send events: it never blocks, loses or doubles.

    async with EventsClient("https://usage.example.com", key) as events:
        await events.send("page interaction", "pageview", data, session_id=session)

Events are handed over in memory and sent in batches beside whatever the application
does. A batch is sent again, with the same ids, until the service has it: an answer that
was lost on the way never doubles an event. What waits is bounded; where the service is
away for so long that the bound is reached, `send` says so at once.
"""

import asyncio
import json
import random
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, NamedTuple, Self

import aiohttp
import msgspec
import structlog
from aiohttp_retry import RetryClient, RetryOptionsBase
from yarl import URL

from service.events.model import EventError
from service.events.reading import NDJSON
from service.upstream.retries import parse_retry_after

MAX_BATCH_EVENTS: Final = 1_000
MAX_BATCH_BYTES: Final = 900_000
"""Both are what the service takes of one request; of less it is sent in parts."""
LINGER_S: Final = 0.02
"""How long an event waits for others."""
TURN_EVENTS: Final = 64
"""So many events are taken before whatever else the loop has to do gets its turn."""
EVENT_OVERHEAD_BYTES: Final = 200
"""What an event that waits takes in memory, besides its JSON text."""

TRY_TIMEOUT_S: Final = 10.0
FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 10.0
LONGEST_ASKED_WAIT_S: Final = 60.0
"""A `Retry-After` is heeded up to here."""
RETRIED_STATUSES: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
"""Besides all that blame the server: 500 and more."""
RETRIED_ERRORS: Final = {aiohttp.ClientError, TimeoutError, OSError}
SPLIT_STATUSES: Final = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""They blame what was sent, which may be one event out of many."""
DELIVERED: Final = {"accepted", "duplicate"}

# msgspec would write NaN as null and bytes as text: the service would keep, as if it
# were true, what nobody has sent.
_encoder: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
)

log = structlog.get_logger()


class BufferFull(Exception):
    """So much waits to be sent that this event was not taken."""


class Undelivered(NamedTuple):
    """An event that the service is not known to have accepted, and why.

    `event` is its JSON text. Sent once more with this id it is not doubled, should the
    service have it after all.
    """

    id: str
    event: bytes
    errors: tuple[EventError, ...]


class _Result(msgspec.Struct, frozen=True):
    status: str
    errors: tuple[EventError, ...] = ()


class _Receipt(msgspec.Struct, frozen=True):
    results: list[_Result]


class _Answer(NamedTuple):
    status: int
    body: bytes


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    """Not tracked by the garbage collector: a full buffer costs it no time."""

    id: str
    event: bytes

    @property
    def size(self) -> int:
        return len(self.event) + EVENT_OVERHEAD_BYTES


class EventsClient:
    """Sends an application's events; use it as a context.

    `on_undelivered` is called for each event that the service refuses, or whose
    delivery is not confirmed within `close_timeout_s` of the end. By default they are
    logged.
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
        self._headers = {
            "Authorization": f"Bearer {_checked_key(key)}",
            "Content-Type": NDJSON,
        }
        self._max_waiting_bytes = max_waiting_bytes
        self._close_timeout_s = close_timeout_s
        self._on_undelivered = on_undelivered or _log_undelivered
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._taken_in_turn = 0
        self._has_some = asyncio.Event()
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
        """The memory of what waits to be sent, or is on its way."""
        return self._waiting_bytes

    async def send(  # noqa: PLR0913 - what an event consists of
        self,
        category: str,
        name: str,
        data: Mapping[str, Any],
        *,
        session_id: str,
        timestamp: datetime | None = None,
        event_id: str | None = None,
    ) -> str:
        """Hand an event over, without waiting for the service; gives its id.

        `timestamp` is now by default. Raises `BufferFull`; `TypeError` and `ValueError`
        for what cannot be sent: data that is not JSON, a time without a zone, more
        than any request may hold; `RuntimeError` where the client is not open. An
        event is taken if and only if its id is returned.
        """
        await self._give_turn()
        if self._sender is None or self._is_closing:
            raise RuntimeError("the client is not open")
        event_id = event_id or secrets.token_hex(16)
        event = _encode(
            {
                "session_id": session_id,
                "category": category,
                "name": name,
                "data": dict(data),
                "timestamp": _written(timestamp or datetime.now(UTC)),
                "id": event_id,
            }
        )
        if len(event) > MAX_BATCH_BYTES:
            raise ValueError(f"{len(event)} bytes are too many for one event")
        self._take(_Waiting(event_id, event))
        return event_id

    async def close(self) -> None:
        """Send what waits, for a while; what then still waits is undelivered."""
        self._is_closing = True
        self._has_some.set()
        if self._sender is None:
            return
        try:
            await asyncio.wait([self._sender], timeout=self._close_timeout_s)
        finally:
            self._sender.cancel()
            await asyncio.wait([self._sender])
            left = self._drop(len(self._waiting))
            self._give_up(
                left, "not_confirmed", "the client was closed before its answer"
            )

    async def _give_turn(self) -> None:
        """Let others run, now and then: one who sends in a loop would keep them all."""
        self._taken_in_turn += 1
        if self._taken_in_turn >= TURN_EVENTS:
            self._taken_in_turn = 0
            await asyncio.sleep(0)

    def _take(self, event: _Waiting) -> None:
        if self._waiting_bytes + event.size > self._max_waiting_bytes:
            raise BufferFull(f"{self._waiting_bytes} bytes wait to be sent")
        self._waiting.append(event)
        self._waiting_bytes += event.size
        self._has_some.set()

    async def _run(self) -> None:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TRY_TIMEOUT_S),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            client = RetryClient(session, retry_options=_Backoff())
            while await self._gather():
                await self._deliver(client, self._next_batch())

    async def _gather(self) -> bool:
        """Wait for events, and a moment for more; False at the end, when all are sent.

        A client that closes no longer waits for more.
        """
        if not self._waiting and not self._is_closing:
            self._has_some.clear()
        await self._has_some.wait()
        if len(self._waiting) < MAX_BATCH_EVENTS and not self._is_closing:
            await asyncio.sleep(LINGER_S)
        return bool(self._waiting) or not self._is_closing

    def _next_batch(self) -> list[_Waiting]:
        """The longest waiting; they stay where they are until they are delivered."""
        batch: list[_Waiting] = []
        size = 0
        for each in islice(self._waiting, MAX_BATCH_EVENTS):
            size += len(each.event) + 1
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(each)
        return batch

    async def _deliver(self, client: RetryClient, batch: list[_Waiting]) -> None:
        """Send the first of what waits until there is an answer that settles it.

        One batch after the other, so that events arrive in the order they were sent.
        """
        answer = await self._post(client, batch)
        if answer.status in SPLIT_STATUSES and len(batch) > 1:
            middle = len(batch) // 2
            await self._deliver(client, batch[:middle])
            await self._deliver(client, batch[middle:])
            return
        self._settle(self._drop(len(batch)), answer)

    async def _post(self, client: RetryClient, batch: list[_Waiting]) -> _Answer:
        body = b"\n".join(each.event for each in batch)
        # A redirect is not followed: it would make this a GET, or show another the key.
        posting = client.post(self._url, data=body, allow_redirects=False)
        async with posting as response:
            is_receipt = response.status == HTTPStatus.ACCEPTED
            return _Answer(
                response.status, await response.read() if is_receipt else b""
            )

    def _drop(self, number: int) -> list[_Waiting]:
        """Let go of the first of what waits."""
        dropped = [self._waiting.popleft() for _ in range(number)]
        self._waiting_bytes -= sum(each.size for each in dropped)
        return dropped

    def _settle(self, batch: list[_Waiting], answer: _Answer) -> None:
        """Tell what the service has not accepted."""
        if answer.status != HTTPStatus.ACCEPTED:
            reason = f"the service answers {answer.status}"
            self._give_up(batch, f"http_{answer.status}", reason)
            return
        results = _results_of(answer.body)
        if len(results) != len(batch):
            self._give_up(batch, "unknown_answer", "the answer is no receipt for it")
            return
        for each, result in zip(batch, results, strict=True):
            if result.status not in DELIVERED:
                self._tell(Undelivered(each.id, each.event, result.errors))

    def _give_up(self, events: Iterable[_Waiting], code: str, message: str) -> None:
        error = EventError(code, "", message)
        for each in events:
            self._tell(Undelivered(each.id, each.event, (error,)))

    def _tell(self, undelivered: Undelivered) -> None:
        try:
            self._on_undelivered(undelivered)
        except Exception as error:
            # It is not ours; the other events are sent all the same.
            log.error("events.callback_failed", event_id=undelivered.id, exc_info=error)


class _Backoff(RetryOptionsBase):
    """Tries again until there is an answer that settles a batch.

    The bound of a wait doubles from one to the next; what the service asks for is
    heeded where it is longer.
    """

    def __init__(self) -> None:
        super().__init__(
            attempts=sys.maxsize,  # closing the client ends it
            statuses=RETRIED_STATUSES,
            exceptions=RETRIED_ERRORS,
            methods={"POST"},  # its ids make it safe to repeat
            retry_all_server_errors=True,
            evaluate_response_callback=_is_whole,
        )

    def get_timeout(
        self, attempt: int, response: aiohttp.ClientResponse | None = None
    ) -> float:
        """Seconds to wait after try number `attempt`, counted from 1."""
        bound_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt - 1, 20))
        wait_s = random.uniform(0, bound_s)  # noqa: S311
        reason = "no answer"
        if response is not None:
            response.release()  # aiohttp-retry keeps it, and so its connection
            reason = str(response.status)
            asked_s = parse_retry_after(response.headers.get("Retry-After")) or 0.0
            wait_s = max(wait_s, min(asked_s, LONGEST_ASKED_WAIT_S))
        log.warning("events.delayed", wait_s=round(wait_s, 4), reason=reason)
        return wait_s


async def _is_whole(response: aiohttp.ClientResponse) -> bool:
    """Whether an answer is one; a receipt that was cut off is as good as none."""
    if response.status != HTTPStatus.ACCEPTED:
        return True
    body = await response.read()
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except ValueError:
        return False
    except RecursionError:
        pass  # nested beyond reason, but whole
    return True


def _results_of(receipt: bytes) -> list[_Result]:
    """What became of each event; empty where this is no receipt."""
    try:
        return msgspec.json.decode(receipt, type=_Receipt).results
    except (ValueError, RecursionError):
        return []


def _encode(event: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(event).encode()
    except RecursionError:
        raise ValueError("the data is nested too deeply") from None


def _written(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("a timestamp needs a zone: datetime.now(UTC) has one")
    return moment.isoformat()


def _events_url(url: str) -> URL:
    parsed = URL(url.rstrip("/") + "/events")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"expected an http or https URL with a host, not {url!r}")
    return parsed


def _checked_key(key: str) -> str:
    """A key that can stand in a header; one read from a file may end its line."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the key is empty, or has characters that no key has")
    return key


def _log_undelivered(undelivered: Undelivered) -> None:
    log.error(
        "events.undelivered",
        event_id=undelivered.id,
        codes=[error.code for error in undelivered.errors],
    )
