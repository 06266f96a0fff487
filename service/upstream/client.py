"""The client for all calls to other services: it fetches bodies, and decodes none.

A call is up to `attempts` tries, each as the client's `Protection` allows it; a try
has its own time-out, follows no redirect and reads at most `max_body_bytes`, counted
after decompression. The outcome is a body or an `UpstreamError`. Decoding comes after
the call, so that our own work is never charged to upstream: not to the time-out of a
try, not to its retries, not to the circuit breaker.
"""

import asyncio
import codecs
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar

import aiohttp
import msgspec
import structlog
from aiohttp import hdrs
from aiohttp_retry import RetryClient
from yarl import URL

from service import metrics, telemetry
from service.settings import Breaker, Upstream
from service.upstream import errors
from service.upstream.breaker import CircuitBreaker, Clock
from service.upstream.peers import COPILOT, Peer
from service.upstream.protection import Protection
from service.upstream.retries import Backoff, unexpected_status

T = TypeVar("T")
READ_SIZE_BYTES: Final = 256 * 1024
IDLE_CONNECTION_S: Final = 30.0
USER_AGENT: Final = "copilot-usage"
EDGE_BYTES: Final = 1_024
"""White space around a body beyond this makes it malformed."""
JSON_EDGES: Final = frozenset({b"{}", b"[]"})

log = structlog.get_logger()


class UpstreamResponse(NamedTuple):
    """A JSON body, not decoded yet, and how many tries it took.

    The body is None where it is still that of the `etag` that the call named.
    """

    body: bytearray | None
    attempts: int
    etag: str | None = None


class UpstreamClient:
    """Fetches from one upstream; `open_client` makes one and closes it."""

    def __init__(
        self, upstream: Upstream, session: aiohttp.ClientSession, protection: Protection
    ) -> None:
        self._upstream = upstream
        self._session = session
        self._protection = protection

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of all calls."""
        return self._protection.breaker

    async def fetch(
        self,
        path: str,
        *,
        etag: str | None = None,
        template: str | None = None,
        form: Mapping[str, str] | None = None,
    ) -> UpstreamResponse:
        """GET `base_url` + `path`, already percent-encoded, and read the JSON body.

        Metrics call the path `template` where it has variables. A `form` is sent by
        POST; it is repeated as a GET is, so it must change nothing. Raises
        `UpstreamError`.
        """
        call = _Call(self._upstream, self._protection, template or path)
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
            base = URL(self._upstream.base_url)
        except ValueError as error:
            raise errors.BadRequestUrl(str(error)) from error
        return URL(str(base).rstrip("/") + path, encoded=True)


class _Call:
    """One call: its tries, its last failure, and in the end its body."""

    def __init__(
        self, upstream: Upstream, protection: Protection, template: str
    ) -> None:
        self._upstream = upstream
        self._protection = protection
        self._backoff = Backoff(upstream, protection.check_retry, protection.peer)
        self._template = template
        self._body: bytearray | None = None
        self._is_conditional = False
        self.attempts = 0

    async def run(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        headers: dict[str, str],
        form: Mapping[str, str] | None,
    ) -> UpstreamResponse:
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
            return UpstreamResponse(self._body, self.attempts, etag)

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
            name = f"{request.method} {self._template}"
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
                async with asyncio.timeout(self._upstream.timeout_s):
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
        """Return the attributes of a try's span that are known before it is made."""
        known = {
            "http.request.method": request.method,
            "server.address": request.url.host,
            "server.port": request.url.port,
            "url.full": str(request.url.with_user(None)),
            "url.template": self._template,
        }
        if self.attempts > 1:
            known["http.request.resend_count"] = self.attempts - 1
        return {name: value for name, value in known.items() if value is not None}

    async def _answer(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """Read the body of one response; `UpstreamError` where it is of no use."""
        try:
            if response.status == HTTPStatus.NOT_MODIFIED and self._is_conditional:
                return response
            if response.status != HTTPStatus.OK:
                retry_after = response.headers.get("Retry-After")
                peer = self._protection.peer
                raise unexpected_status(response.status, retry_after, peer)
            self._check_type(response)
            body = await read_bounded(response, self._upstream.max_body_bytes)
            check_is_json(body)
            self._body = body
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
        metrics.try_ended(request.method, self._template, str(how), taken_s)
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
    """Return how a log names a failed try: its status, or the class of its error."""
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


def check_is_json(body: bytearray) -> None:
    """Raise `MalformedBody` for a body that is cut off, or is a page for people.

    Only its ends are looked at, so that this takes no time, however large it is. A
    byte order mark is removed.
    """
    if body.startswith(codecs.BOM_UTF8):
        del body[: len(codecs.BOM_UTF8)]
    begin = bytes(body[:EDGE_BYTES]).lstrip()[:1]
    end = bytes(body[-EDGE_BYTES:]).rstrip()[-1:]
    if begin + end not in JSON_EDGES:
        raise errors.MalformedBody("the body is not a whole JSON document")


def decode(response: UpstreamResponse, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode the body of a response, which must have one.

    Raises `ContractBroken` and `MalformedBody`.
    """
    assert response.body is not None  # noqa: S101 - no call for it was conditional
    try:
        return decoder.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        is_json = isinstance(error, msgspec.ValidationError | RecursionError)
        kind = errors.ContractBroken if is_json else errors.MalformedBody
        unusable = kind(str(error))
        unusable.attempts = response.attempts
        raise unusable from error


@asynccontextmanager
async def open_client(
    upstream: Upstream,
    breaker: Breaker,
    clock: Clock = time.monotonic,
    peer: Peer = COPILOT,
) -> AsyncIterator[UpstreamClient]:
    """Open a client of one server, with its own connections, closed at the end.

    `clock` is what its protection measures time by.
    """
    connector = aiohttp.TCPConnector(
        limit=upstream.concurrency, keepalive_timeout=IDLE_CONNECTION_S
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),  # each try has its own
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "User-Agent": USER_AGENT},
        read_bufsize=READ_SIZE_BYTES,
    )
    protection = Protection(upstream, breaker, clock, peer)
    async with session:
        yield UpstreamClient(upstream, session, protection)
