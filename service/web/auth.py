"""Authorization of requests: API keys, their scopes and rates, and sessions.

`authorize` is called once for each request, before its handler and before its body is
read. A handler finds the key of its request in `request[KEY]`.
"""

import math
from typing import Final, Protocol, cast

from aiohttp import web
from msgspec import Struct

from service.settings import Scope, Settings
from service.web import auth_metrics
from service.web.client_identity import ClientIdentifier
from service.web.credentials import (
    API_KEY,
    PUBLIC_SCOPE,
    credential_of,
    public_key_of,
)
from service.web.cross_origin import is_cross_origin, is_permitted
from service.web.key_rates import KeyRates
from service.web.limits import RateLimited
from service.web.problems import (
    CROSS_ORIGIN,
    CSRF_TOKEN_MISSING,
    FORBIDDEN,
    UNAUTHORIZED,
    ProblemKind,
    RequestProblem,
)
from service.web.sessions import Session, Sessions

CSRF_HEADER: Final = "X-CSRF-Token"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods without effects (RFC 9110 §9.2.1)."""
IMPLIED: Final[dict[str, str]] = {"events:read": "events:read-all"}
"""The scope that includes another one."""


class ApiKey(Struct, frozen=True):
    """A stored API key; its holder sends the events of `application`."""

    id: str
    digest: bytes
    application: str
    scopes: frozenset[str]
    rate_per_s: float | None
    created_at: int
    revoked_at: int | None

    def permits(self, scope: str) -> bool:
        """Return whether the key has a scope, or another one that includes it."""
        return scope in self.scopes or IMPLIED.get(scope) in self.scopes

    @property
    def may_be_public(self) -> bool:
        """Return whether everybody may know the key."""
        return self.scopes == {PUBLIC_SCOPE}


class KeySource(Protocol):
    """Finds valid API keys."""

    async def find(self, text: str) -> ApiKey | None:
        """Return the valid key with this text; raises `StorageError`."""

    async def find_by_id(self, key_id: str) -> ApiKey | None:
        """Return the valid key with this id; raises `StorageError`."""

    def peek(self, text: str) -> ApiKey | None:
        """Return the key with this text if it is known to be valid, without waiting."""


class Authenticator:
    """Finds the API key of a request, and checks its scope and rate."""

    def __init__(
        self,
        settings: Settings,
        keys: KeySource,
        clients: ClientIdentifier,
        rates: KeyRates,
    ) -> None:
        self.sessions = Sessions(settings.auth)
        self.clients = clients
        self._keys = keys
        self._required = settings.auth.required
        self._may_peek = settings.events.key_ttl_s > 0
        self._origins = settings.events.cors_origins
        self._events_per_s = settings.events.key_rate_per_s
        self._rates = rates

    async def authorize(self, request: web.Request, scope: Scope | None) -> None:
        """Set `request[KEY]` to the key of the request, if the scope needs one.

        Raises `RequestProblem` for a request that is refused, `RateLimited` over the
        rate of its key, and `StorageError` if the keys cannot be read.
        """
        credential = credential_of(request)
        # A page of another origin cannot send a key in a header without permission.
        is_safe = bool(credential) or request.method in SAFE_METHODS
        is_own = is_safe or self._is_of_own_page(request, scope)
        if scope is None:
            return
        if scope in self._required:
            key = await self._required_key(
                request, credential, scope, may_sign_in=is_own
            )
            await self._charge(key, scope)
            check_scope(key, scope)
            request[KEY] = key
            request[SCOPE] = scope
        # An endpoint that is open never waits for the keys.
        elif credential and (known := self._keys.peek(credential)):
            await self._charge(known, scope)

    async def authorize_again(self, key: ApiKey, scope: Scope) -> None:
        """Raise `RequestProblem` if a key has been revoked; raises `StorageError`."""
        if await self._keys.find_by_id(key.id) is None:
            raise unauthorized(scope)

    def is_open(self, scope: Scope) -> bool:
        """Return whether endpoints of a scope need no key."""
        return scope not in self._required

    def permits_at_once(self, credential: str | None, scope: Scope) -> bool:
        """Return whether a safe request may be answered without `authorize`.

        False if it needs more than a look at the keys in memory.
        """
        is_open = self.is_open(scope)
        if not credential:
            return is_open
        if not (is_open or self._may_peek):
            return False
        key = self._keys.peek(credential)
        if key is None:
            return is_open
        return key.rate_per_s is None and (is_open or key.permits(scope))

    def peek(self, credential: str | None, scope: Scope) -> ApiKey | None:
        """Return the key of a request, without waiting.

        None if `authorize` has to judge the request.
        """
        if not (credential and self._may_peek) or self.is_open(scope):
            return None
        key = self._keys.peek(credential)
        return key if key is not None and key.permits(scope) else None

    async def find(self, text: str) -> ApiKey | None:
        """Return the valid key with this text; raises `StorageError`."""
        return await self._keys.find(text)

    async def session_of(
        self, request: web.BaseRequest
    ) -> tuple[Session, ApiKey] | None:
        """Return the session of a request and its key, if both are valid.

        Raises `StorageError`.
        """
        session = self.sessions.read(request)
        key = session and await self._keys.find_by_id(session.key_id)
        return (session, key) if session and key else None

    async def _required_key(
        self,
        request: web.Request,
        credential: str | None,
        scope: Scope,
        *,
        may_sign_in: bool,
    ) -> ApiKey:
        if credential:
            return await self._known_key(credential, scope)
        if scope == PUBLIC_SCOPE and (public := public_key_of(request)):
            key = await self._known_key(public, scope)
            check_is_public(key, scope)
            return key
        if may_sign_in and (found := await self.session_of(request)):
            session, key = found
            self.check_csrf_token(request, session, scope)
            return key
        raise unauthorized(scope)

    async def _known_key(self, text: str, scope: Scope) -> ApiKey:
        known = await self._keys.find(text)
        if known is None:
            raise unauthorized(scope)
        return known

    def _is_of_own_page(self, request: web.Request, scope: Scope | None) -> bool:
        """Return false for a page of a permitted origin; raises for another one."""
        if not is_cross_origin(request, self.clients.own_hosts(request)):
            return True
        if scope == PUBLIC_SCOPE and is_permitted(request, self._origins):
            return False
        detail = "a browser sent this request from a page of another origin"
        raise refused(CROSS_ORIGIN, scope, detail)

    def check_csrf_token(
        self, request: web.Request, session: Session, scope: Scope | None = None
    ) -> None:
        """Raise `RequestProblem` for an unsafe request without the session's token."""
        if request.method in SAFE_METHODS:
            return
        token = request.headers.get(CSRF_HEADER, "")
        if not self.sessions.is_token_of(session, token):
            detail = f"send the csrf_token of GET /session as {CSRF_HEADER}"
            raise refused(CSRF_TOKEN_MISSING, scope, detail)

    def charge_at_once(self, key: ApiKey, scope: Scope) -> float | None:
        """Charge a key; return 0, or the seconds until the request is permitted.

        Return None, and charge nothing, if `authorize` has to wait for the answer.
        """
        per_s = self._rate_of(key, scope)
        return 0.0 if per_s == math.inf else self._rates.take_at_once(key.id, per_s)

    def _rate_of(self, key: ApiKey, scope: Scope) -> float:
        if key.rate_per_s is not None:
            return key.rate_per_s
        return self._events_per_s if scope.startswith("events:") else math.inf

    async def _charge(self, key: ApiKey, scope: Scope) -> None:
        wait_s = self.charge_at_once(key, scope)
        if wait_s is None:
            wait_s = await self._rates.take(key.id, self._rate_of(key, scope))
        if wait_s:
            raise RateLimited(math.ceil(wait_s))


IN_A_HEADER: Final = f"as a bearer token or in {API_KEY}"
AUTHENTICATOR: Final = web.AppKey("authenticator", Authenticator)
KEY: Final = web.RequestKey("api_key", ApiKey)
"""The valid key of a request; present where the scope needs a key."""
SCOPE: Final = web.RequestKey("scope", str)
"""The scope for which the key is needed."""


async def authorize(request: web.Request, scope: Scope | None) -> None:
    """Check whether a request may use an endpoint; see `Authenticator.authorize`."""
    if scope is None and request.method in SAFE_METHODS:
        return
    await request.app[AUTHENTICATOR].authorize(request, scope)


async def authorize_again(request: web.Request) -> None:
    """Check again that the key of a request is valid, after its body has arrived."""
    if (key := request.get(KEY)) is not None:
        await request.app[AUTHENTICATOR].authorize_again(
            key, cast("Scope", request[SCOPE])
        )


def check_scope(key: ApiKey, scope: Scope) -> None:
    """Raise `RequestProblem` if a key lacks a scope."""
    if not key.permits(scope):
        raise refused(FORBIDDEN, scope, f"this API key lacks the scope {scope}")


def check_is_public(key: ApiKey, scope: Scope) -> None:
    """Raise `RequestProblem` if a key that everybody can see has other scopes."""
    if not key.may_be_public:
        detail = (
            f"this API key has other scopes than {PUBLIC_SCOPE}: send it {IN_A_HEADER}"
        )
        raise refused(FORBIDDEN, scope, detail)


def application_for(key: ApiKey, requested: str | None) -> str:
    """Return the application whose events a request reads.

    Raises `RequestProblem` if the key does not permit them.
    """
    if requested is None or requested == key.application:
        return key.application
    check_scope(key, "events:read-all")
    return requested


def unauthorized(scope: Scope | None = None) -> RequestProblem:
    """Return the problem of a request without a valid key; it never says why."""
    return refused(UNAUTHORIZED, scope, f"send a valid API key {IN_A_HEADER}")


def refused(kind: ProblemKind, scope: Scope | None, detail: str) -> RequestProblem:
    """Count a refused request, and return its problem."""
    auth_metrics.request_refused(kind.code, scope)
    return RequestProblem(kind, detail)
