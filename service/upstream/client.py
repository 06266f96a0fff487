"""HTTP client for calls to other services; it returns bodies that are not decoded.

A call has up to `attempts` tries, each admitted by the `UpstreamGuard` of the client. A
try has its own time-out, follows no redirect, and reads at most `max_body_bytes`,
counted after decompression. The outcome is a body or an `UpstreamError`.

Decoding comes after the call. So our own work does not count in the time-out of a try,
in its retries, or in the circuit breaker.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp import hdrs
from aiohttp_retry import RetryClient
from opentelemetry.trace import Span, SpanKind
from yarl import URL

from service.observability import tracing as telemetry
from service.settings import BreakerSettings, UpstreamSettings
from service.upstream import errors, metrics
from service.upstream.bodies import (
    Body,
    NewBody,
    UpstreamResponse,
    read_json,
)
from service.upstream.circuit_breaker import CircuitBreaker, MonotonicClock
from service.upstream.guard import UpstreamGuard
from service.upstream.lenient_json import has_surrogate
from service.upstream.profiles import COPILOT, UpstreamProfile
from service.upstream.proxies import Proxy, proxy_for
from service.upstream.retries import Backoff, retry_after_of, unexpected_status

READ_SIZE_BYTES: Final = 64 * 1024
"""The event loop serves other requests between two reads."""
IDLE_CONNECTION_S: Final = 30.0
USER_AGENT: Final = "copilot-usage"

log = structlog.get_logger()


class UpstreamClient:
    """Fetches from one upstream; created and closed by `open_client`."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        session: aiohttp.ClientSession,
        guard: UpstreamGuard,
        new_body: NewBody = bytearray,
        proxy: Proxy | None = None,
    ) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._session = session
        self._guard = guard
        self._new_body = new_body

    @property
    def guard(self) -> UpstreamGuard:
        """The limits that all calls share."""
        return self._guard

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of all calls."""
        return self._guard.breaker

    async def fetch(
        self,
        path: str,
        *,
        etag: str | None = None,
        template: str | None = None,
        form: Mapping[str, str] | None = None,
        slot: AsyncExitStack | None = None,
    ) -> UpstreamResponse:
        """GET `base_url` + `path`, already percent-encoded, and read the JSON body.

        `template` is the name of the path in metrics, if the path has variables. A
        `form` is sent by POST, which is retried, so it must be safe. The first try is
        made in a `slot` that the guard has reserved. Raises `UpstreamError`.
        """
        endpoint = template or path
        call = _Call(self._upstream, self._guard, endpoint, slot)
        call.new_body, call.proxy = self._new_body, self._proxy
        headers = {"If-None-Match": etag} if etag else {}
        try:
            with translated():
                return await call.run(self._session, self._url(path), headers, form)
        except errors.UpstreamError as error:
            error.attempts = call.attempts
            # The open circuit would refuse an earlier retry of the client.
            if open_s := self._guard.refuses_for_s(endpoint):
                error.retry_after_s = max(open_s, error.retry_after_s or 0.0)
            raise

    def _url(self, path: str) -> URL:
        try:
            base = URL(self._upstream.base_url)
        except ValueError as error:
            raise errors.BadRequestUrl(str(error)) from error
        # Otherwise yarl would resolve the `%2E%2E` of a report id.
        return URL(str(base).rstrip("/") + path, encoded=True)


class _Call:
    """One call: its tries, its last failure, and at the end its body."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        guard: UpstreamGuard,
        template: str,
        slot: AsyncExitStack | None,
    ) -> None:
        self._upstream = upstream
        self._guard = guard
        check_retry = partial(guard.check_retry, template)
        self._backoff = Backoff(upstream, check_retry, guard.profile)
        self._template = template
        self._slot = slot
        self.new_body: NewBody = bytearray
        self.proxy: Proxy | None = None
        self._body: Body | None = None
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
            proxy=self.proxy and self.proxy.url,
            proxy_headers=self.proxy and dict(self.proxy.credentials),
            middlewares=(self._try,),
        )
        async with request as response:
            etag = _etag_of(response)
            # The error of an earlier try is in a cycle with this call.
            body, self._body = self._body, None
            return UpstreamResponse(body, self.attempts, etag)

    async def _try(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Make one try, as a client middleware of aiohttp."""
        # A middleware, since aiohttp must not see its own errors: it would resend a
        # GET by itself if an idle connection was closed, beyond the allowed tries.
        number = self.attempts + 1
        slot, self._slot = self._slot, None
        async with self._guard.around_try(self._template, number, slot):
            self.attempts += 1
            name = f"{request.method} {self._template}"
            attributes = self._attributes(request)
            with telemetry.span(name, SpanKind.CLIENT, attributes) as span:
                if headers := telemetry.outgoing():
                    request.headers.update(headers)
                return await self._send(request, send, span)

    async def _send(
        self,
        request: aiohttp.ClientRequest,
        send: aiohttp.ClientHandlerType,
        span: Span,
    ) -> aiohttp.ClientResponse:
        started = time.perf_counter()
        try:
            with translated():
                async with asyncio.timeout(self._upstream.timeout_s):
                    response = await self._answer(await send(request))
        except errors.UpstreamError as error:
            self._backoff.failure = error
            telemetry.record(span, outcome_of(error))
            self._record_try(request, started, outcome_of(error))
            raise
        outcome = {"http.response.status_code": response.status}
        telemetry.record(span, outcome)
        self._record_try(request, started, outcome)
        return response

    def _attributes(self, request: aiohttp.ClientRequest) -> telemetry.Attributes:
        """Return the attributes of a try's span that are known before it is made."""
        known = {
            "http.request.method": request.method,
            "server.address": request.url.host,
            "server.port": request.url.port,
            # Spans leave the service, so they must not have the credentials of the URL.
            "url.full": str(request.url.with_user(None)),
            "url.template": self._template,
        }
        if self.attempts > 1:
            known["http.request.resend_count"] = self.attempts - 1
        return {name: value for name, value in known.items() if value is not None}

    async def _answer(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """Read the body of one response; raise `UpstreamError` if it is unusable."""
        try:
            # A 304 answers a conditional request only (RFC 9110, section 15.4.5).
            if response.status == HTTPStatus.NOT_MODIFIED and self._is_conditional:
                return response
            with translated():
                await self._read(response)
        except BaseException as error:
            if isinstance(error, errors.UpstreamError):
                error.retry_after_s = retry_after_of(response.headers)
            # aiohttp-retry keeps a reference, by which the connection would stay open.
            response.release()
            raise
        return response

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        if response.status != HTTPStatus.OK:
            raise unexpected_status(response.status, self._guard.profile)
        self._check_type(response)
        limit = self._upstream.max_body_bytes
        self._body = await read_json(response, limit, self.new_body)

    def _check_type(self, response: aiohttp.ClientResponse) -> None:
        expected = self._guard.profile.media_type
        if expected is not None and response.content_type != expected:
            raise errors.WrongMediaType(f"expected {expected}")

    def _record_try(
        self,
        request: aiohttp.ClientRequest,
        started: float,
        outcome: telemetry.Attributes,
    ) -> None:
        duration_s = time.perf_counter() - started
        (label,) = outcome.values()
        metrics.try_ended(request.method, self._template, str(label), duration_s)
        write = log.warning if "error.type" in outcome else log.info
        write(
            "upstream.request",
            **{
                "url.path": request.url.raw_path,
                **outcome,
                "http.request.resend_count": self.attempts - 1,
                "duration_s": round(duration_s, 6),
            },
        )


def _etag_of(response: aiohttp.ClientResponse) -> str | None:
    """Return the ETag of a response; None for one that cannot be sent back."""
    etag = response.headers.get(hdrs.ETAG)
    # aiohttp reads a byte that is not UTF-8 as a surrogate, and does not write it.
    return None if etag is None or has_surrogate(etag) else etag


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


@asynccontextmanager
async def open_client(
    upstream: UpstreamSettings,
    breaker: BreakerSettings,
    clock: MonotonicClock = time.monotonic,
    profile: UpstreamProfile = COPILOT,
    new_body: NewBody = bytearray,
) -> AsyncIterator[UpstreamClient]:
    """Open a client of one upstream, with its own connections.

    `clock` returns seconds for the circuit breaker and the retry budget. Each try reads
    into a `new_body`.
    """
    connector = aiohttp.TCPConnector(
        limit=upstream.concurrency, keepalive_timeout=IDLE_CONNECTION_S
    )
    proxy = None
    if upstream.trust_environment:
        proxy = proxy_for(upstream.base_url, profile.name)
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
    if proxy is not None and urlsplit(upstream.base_url).scheme == "http":
        headers |= proxy.credentials  # requests are sent to the proxy itself
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),  # each try has its own
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        read_bufsize=READ_SIZE_BYTES,
    )
    guard = UpstreamGuard(upstream, breaker, clock, profile)
    async with session:
        yield UpstreamClient(upstream, session, guard, new_body, proxy)
