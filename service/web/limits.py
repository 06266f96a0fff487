"""Limits on what callers may ask: all of them together at once, and each over time.

Requests in flight are counted, and those beyond a bound are refused before any work.
The rate of each caller is held by a token bucket, off by default. It is our own: a
bucket is a single number, and the package that was looked at keeps no bound on the
callers that it remembers. `docs/decisions/limits.md` has more.
"""

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from service.settings import Limits as LimitSettings
from service.settings import Settings
from service.web.problems import OVERLOADED, RATE_LIMITED, RequestProblem

EXEMPT_PATHS: Final = frozenset({"/metrics"})
EXEMPT_PREFIX: Final = "/health/"
FORWARDED_FOR: Final = "X-Forwarded-For"
API_KEY: Final = "X-API-Key"
UNKNOWN_ADDRESS: Final = "unknown"
"""Who comes over a Unix socket, for one, has no address."""
IPV6_PREFIX_BITS: Final = 64
"""What is given to one customer: any of its addresses is the same caller."""
REMEMBERED_ADDRESSES: Final = 16_384

IPAddress = IPv4Address | IPv6Address


class Rate(NamedTuple):
    """How often a caller may ask: in the long run, and at once."""

    per_s: float
    burst: int


class Quota(NamedTuple):
    """What a caller has left, after a request that was allowed or not."""

    is_allowed: bool
    remaining: int
    reset_s: int
    """Until the quota is whole again; for a refused caller, until the next request."""


class RateLimited(RequestProblem):
    """A caller has asked more often than is allowed."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(RATE_LIMITED, "more requests than are allowed to one caller")
        self.retry_after_s = retry_after_s


class TokenBuckets:
    """A token bucket for each caller; the longest unseen are forgotten first.

    A bucket is held as the time at which it will be full again.
    """

    def __init__(
        self, limits: LimitSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = Rate(limits.rate_per_s, limits.burst)
        self._max_clients = limits.max_clients
        self._clock = clock
        self._full_at: OrderedDict[str | bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str | bytes, rate: Rate | None = None) -> Quota:
        """Take one token of a client, if it has one; `rate` is a rate of its own."""
        per_s, burst = rate or self._rate
        now = self._clock()
        full_at = max(now, self._full_at.get(client, now))
        tokens = burst - (full_at - now) * per_s
        if tokens < 1:
            wait_s = math.ceil((1 - tokens) / per_s)
            return Quota(is_allowed=False, remaining=0, reset_s=wait_s)
        self._full_at[client] = full_at = full_at + 1 / per_s
        self._full_at.move_to_end(client)
        if len(self._full_at) > self._max_clients:
            self._full_at.popitem(last=False)
        reset_s = math.ceil(full_at - now)
        return Quota(is_allowed=True, remaining=int(tokens - 1), reset_s=reset_s)


class Callers:
    """Tells callers apart: by a hash of their API key, else by their address."""

    def __init__(self, limits: LimitSettings) -> None:
        self._by_credentials = limits.by_credentials
        self._trusted = [ip_network(each) for each in limits.trusted_proxies]
        self._secret = secrets.token_bytes(16)

    def identify(self, request: web.BaseRequest) -> str | bytes:
        """Who asks; equal for all requests of one caller."""
        credential = credential_of(request) if self._by_credentials else None
        if credential:
            key = credential.encode("utf-8", "surrogateescape")
            return blake2b(key, key=self._secret, digest_size=16).digest()
        return group_of(self.address_of(request))

    def address_of(self, request: web.BaseRequest) -> str:
        """The caller's address; a proxy's word for it counts only if we trust it.

        Of all that was forwarded, the last hop that is no proxy of ours counts: what
        stands before it, anybody may have written. Where a hop in between is no
        address, it is the peer's.
        """
        peer = request.remote or UNKNOWN_ADDRESS
        if not self._is_trusted(peer):
            return peer
        caller = peer
        forwarded = ",".join(request.headers.getall(FORWARDED_FOR, ()))
        for hop in reversed(forwarded.split(",") if forwarded else ()):
            caller = hop.strip()
            if parse_address(caller) is None:
                return peer
            if not self._is_trusted(caller):
                break
        return caller

    def _is_trusted(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in each for each in self._trusted)


class Limits:
    """What every request passes before anything is done for it.

    `admit` and `release` go around each; `charge` alone is for an answer that takes no
    time, and so is never in flight.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limits = settings.limits
        self.in_flight = 0
        self._max_in_flight = settings.server.max_in_flight
        self._callers = Callers(limits)
        self._buckets: TokenBuckets | None = None
        if limits.rate_per_s:
            self._buckets = TokenBuckets(limits, clock)
            window_s = math.ceil(limits.burst / limits.rate_per_s)
            self._policy = f'"default";q={limits.burst};w={window_s}'

    @property
    def has_rates(self) -> bool:
        """Whether callers have a rate to keep."""
        return self._buckets is not None

    def admit(self, request: web.BaseRequest) -> None:
        """Let a request in, to be followed by `release`; else raise a `RequestProblem`.

        It costs the caller a token only where there is room.
        """
        if self.in_flight >= self._max_in_flight:
            raise RequestProblem(OVERLOADED, f"{self.in_flight} requests in flight")
        if self._buckets is not None:
            quota = self._charge(request, self._buckets)
            if not quota.is_allowed:
                raise RateLimited(quota.reset_s)
        self.in_flight += 1

    def release(self) -> None:
        """A request that was admitted is over."""
        self.in_flight -= 1

    def charge(self, request: web.BaseRequest) -> str | None:
        """Let a request in that is answered at once; None where it is to be refused.

        Gives the lines that its answer's head needs (`rate_lines`). A refused request
        costs nothing, so it may then be sent through `admit`, which says why.
        """
        if self._buckets is None:
            return ""
        is_allowed = self._charge(request, self._buckets).is_allowed
        return rate_lines(request) if is_allowed else None

    def _charge(self, request: web.BaseRequest, buckets: TokenBuckets) -> Quota:
        quota = buckets.take(self._callers.identify(request))
        request[RATE_HEADERS] = {
            "RateLimit-Policy": self._policy,
            "RateLimit": f'"default";r={quota.remaining};t={quota.reset_s}',
        }
        return quota


LIMITS: Final = web.AppKey("limits", Limits)
RATE_HEADERS: Final = web.RequestKey("rate_headers", dict[str, str])
"""What a caller is told of their rate, where there is one; names and values."""


def is_exempt(path: str) -> bool:
    """Whether no limit applies: to those who watch the service, never."""
    return path in EXEMPT_PATHS or path.startswith(EXEMPT_PREFIX)


def limited(limits: Limits) -> Middleware:
    """The middleware that applies them; health and metrics are exempt."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_exempt(request.path):
            return await handler(request)
        limits.admit(request)
        try:
            return await handler(request)
        finally:
            limits.release()

    return middleware


async def add_rate_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the caller their rate; for aiohttp's `on_response_prepare`."""
    response.headers.update(request.get(RATE_HEADERS, {}))


def rate_lines(request: web.BaseRequest) -> str:
    """What a caller is told of their rate, as lines of a head; empty without a rate."""
    headers = request.get(RATE_HEADERS)
    if headers is None:
        return ""
    return "".join(f"{name}: {headers[name]}\r\n" for name in headers)


@lru_cache(maxsize=REMEMBERED_ADDRESSES)
def parse_address(text: str) -> IPAddress | None:
    """An IPv4 or IPv6 address, with a port or without; None where it is neither."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=REMEMBERED_ADDRESSES)
def group_of(text: str) -> str:
    """Whose address this is: one IPv4 address, or one network of IPv6 ones."""
    address = parse_address(text)
    if isinstance(address, IPv6Address):
        bits = int(address) >> (128 - IPV6_PREFIX_BITS)
        return str(ip_network((bits << (128 - IPV6_PREFIX_BITS), IPV6_PREFIX_BITS)))
    return str(address or text)


def credential_of(request: web.BaseRequest) -> str | None:
    """The key that a request carries, as a bearer token or by itself."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get(API_KEY)
