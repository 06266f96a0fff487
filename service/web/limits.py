"""Limits of requests: those in flight in this process, and the rate of each client.

Requests above a limit are refused before any work. `docs/decisions/limits.md` has the
reasons.
"""

import asyncio
import math
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from hashlib import blake2b
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from service.observability.http_metrics import part_of
from service.settings import AuthSettings, Settings
from service.storage.redis_store import RedisStore
from service.web.client_identity import ClientIdentifier
from service.web.client_stream import DEADLINE
from service.web.problems import (
    OVERLOADED,
    RATE_LIMITED,
    REQUEST_TIMEOUT,
    RequestProblem,
)
from service.web.shared_buckets import SharedBuckets
from service.web.token_buckets import TokenBuckets

EXEMPT_PATHS: Final = frozenset({"/metrics"})
EXEMPT_PREFIX: Final = "/health/"
SECRET_BYTES: Final = 16


class RateLimited(RequestProblem):
    """A client has exceeded its request rate."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(RATE_LIMITED, "more requests than one client may send")
        self.retry_after_s = retry_after_s


class Limits:
    """The limits of one process.

    `admit` and `release` enclose a request. `charge` alone is for an answer of the fast
    path, which is never in flight.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limits = settings.limits
        self.in_flight: Counter[str] = Counter()
        """Requests in flight by domain, `other` for those of none."""
        self._max_in_flight = settings.server.max_in_flight
        self.request_timeout_s = settings.server.request_timeout_s
        self._settings = limits
        self._clock = clock
        self._secret = _secret_of(settings.auth)
        self.clients = ClientIdentifier(limits, self._secret)
        self._buckets: TokenBuckets | None = None
        self._shared: SharedBuckets | None = None
        if limits.rate_per_s:
            self._buckets = TokenBuckets(limits, clock)
            window_s = math.ceil(limits.burst / limits.rate_per_s)
            self._policy = f'"default";q={limits.burst};w={window_s}'
            self._policy_line = f"RateLimit-Policy: {self._policy}\r\n"

    @property
    def has_rates(self) -> bool:
        """Return whether the rate of clients is limited."""
        return self._buckets is not None

    @asynccontextmanager
    async def sharing(self, store: RedisStore | None) -> AsyncIterator[None]:
        """Share the rates of clients with other processes, if they share a store."""
        if self._buckets is None or store is None or not self._settings.shared:
            yield
            return
        self._buckets = self._shared = shared = SharedBuckets(
            self._settings, store, self._secret, self._clock
        )
        try:
            yield
        finally:
            await shared.close()

    async def admit(self, request: web.BaseRequest, domain: str) -> None:
        """Count a request as in flight, until `release`; raises `RequestProblem`.

        A request that is refused as one too many in flight costs the client no token.
        """
        # Checked before the rate, so that an overload costs clients no tokens.
        in_flight = self.in_flight[domain]
        if in_flight >= self._max_in_flight:
            raise RequestProblem(OVERLOADED, f"{in_flight} {domain} requests in flight")
        self.in_flight[domain] += 1
        try:
            if self._buckets is not None:
                await self._charge(request, self._buckets)
        except BaseException:
            self.release(domain)
            raise

    def enter(self, client: str | bytes, domain: str) -> str | None:
        """Admit a client by its id, and return `rate_lines`; None if it is refused.

        `admit` then refuses the request with a problem: a refusal costs no token.
        """
        lines = None if self.is_full(domain) else self.charge(client)
        if lines is not None:
            self.in_flight[domain] += 1
        return lines

    def withdraw(self, client: str | bytes, domain: str) -> None:
        """Undo `enter`, for a request that `admit` will judge."""
        self.release(domain)
        if self._buckets is not None:
            self._buckets.refund(client)

    def is_full(self, domain: str) -> bool:
        """Return whether further requests of a domain are refused."""
        return self.in_flight[domain] >= self._max_in_flight

    def release(self, domain: str) -> None:
        """Stop counting an admitted request as in flight."""
        self.in_flight[domain] -= 1

    def charge(self, client: str | bytes) -> str | None:
        """Charge a client by its id, and return `rate_lines`; None over its rate.

        Also None if `admit` has to wait for the shared rate. A refused request costs no
        token, so `admit` can refuse it again with a problem.
        """
        if self._buckets is None:
            return ""
        is_allowed, remaining, reset_s = self._buckets.charge(client)
        if not is_allowed:
            return None
        return f'{self._policy_line}RateLimit: "default";r={remaining};t={reset_s}\r\n'

    async def _charge(self, request: web.BaseRequest, buckets: TokenBuckets) -> None:
        """Charge the client of a request; raises `RateLimited`."""
        client, shared = self.clients.identify(request), self._shared
        quota = await shared.decide(client) if shared else buckets.take(client)
        request[RATE_HEADERS] = {
            "RateLimit-Policy": self._policy,
            "RateLimit": f'"default";r={quota.remaining};t={quota.reset_s}',
        }
        if not quota.is_allowed:
            raise RateLimited(quota.reset_s)


def _secret_of(auth: AuthSettings) -> bytes:
    """Return the secret of clients' ids: that of sessions is the same everywhere."""
    if not auth.session_secret:
        return secrets.token_bytes(SECRET_BYTES)
    secret = auth.session_secret.encode()
    return blake2b(secret, person=b"client ids", digest_size=SECRET_BYTES).digest()


LIMITS: Final = web.AppKey("limits", Limits)
_part_of: Final = cache(part_of)
RATE_HEADERS: Final = web.RequestKey("rate_headers", dict[str, str])
"""`RateLimit` headers of the answer, if rates are limited."""


def domain_of(request: web.Request) -> str:
    """Return the domain of a request, by its route: the first part of the path."""
    resource = request.match_info.route.resource
    return _part_of("" if resource is None else resource.canonical)


def is_exempt(path: str) -> bool:
    """Return whether a path has no limits, as those for monitoring have."""
    return path in EXEMPT_PATHS or path.startswith(EXEMPT_PREFIX)


def limit_requests(limits: Limits) -> Middleware:
    """Return the middleware that applies the limits."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_exempt(request.path):
            return await handler(request)
        # Requests of one domain that all wait must leave the others their places.
        domain = domain_of(request)
        await limits.admit(request, domain)
        try:
            return await _answer_in_time(request, handler, limits.request_timeout_s)
        finally:
            limits.release(domain)

    return middleware


async def _answer_in_time(
    request: web.Request, handler: Handler, timeout_s: float
) -> web.StreamResponse:
    """Return the handler's answer; raises `RequestProblem` if it takes too long."""
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            request[DEADLINE] = deadline
            return await handler(request)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise RequestProblem(
            REQUEST_TIMEOUT, f"not answered in {timeout_s:g} s"
        ) from error
    finally:
        del request[DEADLINE]


async def add_rate_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the `RateLimit` headers; for aiohttp's `on_response_prepare`."""
    response.headers.update(request.get(RATE_HEADERS, {}))


def rate_lines(request: web.BaseRequest) -> str:
    """Return the `RateLimit` headers as lines; empty if rates are not limited."""
    headers = request.get(RATE_HEADERS)
    if headers is None:
        return ""
    return "".join(f"{name}: {headers[name]}\r\n" for name in headers)
