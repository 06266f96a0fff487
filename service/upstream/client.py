"""The one client for all calls to others.

A call is up to `attempts` tries, each as the client's `Protection` allows it; a try
has its own time-out, follows no redirect and reads at most `max_body_bytes`, counted
after decompression. Whatever happens comes out as a value or as an `UpstreamError`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final, Generic, NamedTuple, TypeVar

import aiohttp
import msgspec
import structlog
from aiohttp import hdrs
from aiohttp_retry import RetryClient
from yarl import URL

from service import metrics, telemetry
from service.settings import Settings
from service.upstream import errors
from service.upstream.breaker import CircuitBreaker, Clock
from service.upstream.peers import COPILOT, Peer
from service.upstream.protection import ProtectedBackoff, Protection
from service.upstream.retries import unexpected_status

T = TypeVar("T")
Reader = Callable[[bytearray], Awaitable[T] | T]

READ_SIZE_BYTES: Final = 256 * 1024
IDLE_CONNECTION_S: Final = 30.0
USER_AGENT: Final = "copilot-usage"

log = structlog.get_logger()


class Fetched(NamedTuple, Generic[T]):
    """What a call gave, and how many tries it took.

    The value is None where upstream has nothing newer than the `etag` asked with.
    """

    value: T | None
    attempts: int
    etag: str | None = None


class UpstreamClient:
    """Fetches from one upstream; `open_client` makes one and closes it."""

    def __init__(
        self, settings: Settings, session: aiohttp.ClientSession, protection: Protection
    ) -> None:
        self._settings = settings
        self._session = session
        self._protection = protection

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit that all calls go through."""
        return self._protection.breaker

    async def fetch(
        self,
        path: str,
        read: Reader[T],
        *,
        etag: str | None = None,
        template: str | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Fetched[T]:
        """GET `base_url` + `path` (already percent-encoded) and read its JSON body.

        `template` is what metrics call the path, where it has variables. A `form` is
        asked by POST; it is repeated as GET is, so it may only ask.
        `read` turns the body into a value; a `msgspec.DecodeError` of its own becomes
        `MalformedBody`, a `ValidationError` becomes `ContractBroken`. Raises
        `UpstreamError`.
        """
        call = _Call(self._settings, self._protection, read)
        call.template = template or path
        headers = {"If-None-Match": etag} if etag else {}
        try:
            with translated():
                return await call.run(self._session, self._url(path), headers, form)
        except errors.UpstreamError as error:
            error.attempts = call.attempts
            if open_s := self.breaker.refuses_for_s:
                error.retry_after_s = max(open_s, error.retry_after_s or 0.0)
            raise

    def _url(self, path: str) -> URL:
        try:
            base = URL(self._settings.upstream.base_url)
        except ValueError as error:
            raise errors.BadRequestUrl(str(error)) from error
        return URL(str(base).rstrip("/") + path, encoded=True)


class _Call(Generic[T]):
    """One call: its tries, its last failure, and in the end its value."""

    def __init__(
        self, settings: Settings, protection: Protection, read: Reader[T]
    ) -> None:
        self._settings = settings.upstream
        self._protection = protection
        self._read = read
        self._backoff = ProtectedBackoff(settings, protection)
        self._values: list[T | None] = []
        self._is_conditional = False
        self.attempts = 0
        self.template = ""

    async def run(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        headers: dict[str, str],
        form: Mapping[str, str] | None,
    ) -> Fetched[T]:
        self._is_conditional = "If-None-Match" in headers
        retrying = RetryClient(session, retry_options=self._backoff)
        request = retrying.request(
            hdrs.METH_GET if form is None else hdrs.METH_POST,
            url,
            headers=headers,
            data=form,
            allow_redirects=False,
            middlewares=(self._try,),
        )
        async with request as response:
            etag = response.headers.get("ETag")
            return Fetched(self._values[-1], self.attempts, etag)

    async def _try(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """One try, as aiohttp's client middleware.

        Here, and not around the session, errors are translated before aiohttp sees
        them: it would resend a GET on its own where a kept connection was dropped,
        and so make more tries than were allowed.
        """
        async with self._protection.around_try(self.attempts + 1):
            self.attempts += 1
            name = f"{request.method} {self.template}"
            with telemetry.span(name, "client", self._attributes(request)) as note:
                if headers := telemetry.outgoing():
                    request.headers.update(headers)
                return await self._send(request, send, note)

    async def _send(
        self,
        request: aiohttp.ClientRequest,
        send: aiohttp.ClientHandlerType,
        note: telemetry.Note,
    ) -> aiohttp.ClientResponse:
        started = time.perf_counter()
        try:
            with translated():
                async with asyncio.timeout(self._settings.timeout_s):
                    response = await self._answer(await send(request))
        except errors.UpstreamError as error:
            self._backoff.failure = error
            note(outcome_of(error))
            self._note_try(request, started, outcome_of(error))
            raise
        outcome = {"http.response.status_code": response.status}
        note(outcome)
        self._note_try(request, started, outcome)
        return response

    def _attributes(self, request: aiohttp.ClientRequest) -> telemetry.Attributes:
        """What a span tells of a try before it is made."""
        told = {
            "http.request.method": request.method,
            "server.address": request.url.host,
            "server.port": request.url.port,
            "url.full": str(request.url.with_user(None)),
            "url.template": self.template,
        }
        if self.attempts > 1:
            told["http.request.resend_count"] = self.attempts - 1
        return {name: value for name, value in told.items() if value is not None}

    async def _answer(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """Take the value out of one response; `UpstreamError` where it has none."""
        try:
            if response.status == HTTPStatus.NOT_MODIFIED and self._is_conditional:
                self._values.append(None)
                return response
            if response.status != HTTPStatus.OK:
                retry_after = response.headers.get("Retry-After")
                peer = self._protection.peer
                raise unexpected_status(response.status, retry_after, peer)
            self._check_type(response)
            body = await read_bounded(response, self._settings.max_body_bytes)
            self._values.append(await decode(body, self._read))
        except BaseException:
            # aiohttp-retry keeps what it discards, and a kept one holds a connection.
            response.release()
            raise
        return response

    def _check_type(self, response: aiohttp.ClientResponse) -> None:
        wanted = self._protection.peer.media_type
        if wanted is not None and response.content_type != wanted:
            raise errors.WrongMediaType(f"expected {wanted}, not a page of any kind")

    def _note_try(
        self,
        request: aiohttp.ClientRequest,
        started: float,
        outcome: telemetry.Attributes,
    ) -> None:
        taken_s = time.perf_counter() - started
        (how,) = outcome.values()
        metrics.try_ended(request.method, self.template, str(how), taken_s)
        write = log.warning if "error.type" in outcome else log.info
        write(
            "upstream.request",
            **{
                "url.path": request.url.raw_path,
                **outcome,
                "http.request.resend_count": self.attempts - 1,
                "duration_s": round(taken_s, 6),
            },
        )


def outcome_of(error: errors.UpstreamError) -> dict[str, str | int]:
    """How a log tells a failed try: by its status, or by the class of its error."""
    if isinstance(error, errors.UnexpectedStatus):
        return {"http.response.status_code": error.status}
    return {"error.type": error.error_type}


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of aiohttp and the sockets below as our own."""
    try:
        yield
    except errors.FOREIGN as error:
        raise errors.translate(error) from error


async def read_bounded(response: aiohttp.ClientResponse, limit_bytes: int) -> bytearray:
    """The decompressed body; `BodyTooLarge` as soon as it passes the limit."""
    if (response.content_length or 0) > limit_bytes:
        raise errors.BodyTooLarge(limit_bytes)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit_bytes:
            raise errors.BodyTooLarge(limit_bytes)
    return body


async def decode(body: bytearray, read: Reader[T]) -> T:
    """What `read` makes of a body, its complaints translated."""
    try:
        value = read(body)
        return await value if isinstance(value, Awaitable) else value
    except (msgspec.ValidationError, RecursionError) as error:
        raise errors.ContractBroken(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.MalformedBody(str(error)) from error


@asynccontextmanager
async def open_client(
    settings: Settings, clock: Clock = time.monotonic, peer: Peer = COPILOT
) -> AsyncIterator[UpstreamClient]:
    """A client of one server, with its own connections, closed at the end.

    It calls as `settings.upstream` says; `clock` is what its protection measures time
    by.
    """
    connector = aiohttp.TCPConnector(
        limit=settings.upstream.concurrency, keepalive_timeout=IDLE_CONNECTION_S
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),  # each try has its own
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "User-Agent": USER_AGENT},
        read_bufsize=READ_SIZE_BYTES,
    )
    async with session:
        yield UpstreamClient(settings, session, Protection(settings, clock, peer))
