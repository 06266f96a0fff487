"""Sessions of browsers: a signed cookie that names a key, and a token against forgery.

Nothing is stored, so any process with the same secret knows a session. The cookie has
the id of the key and not the key itself, so a revoked key ends its sessions.
"""

import hashlib
import math
import secrets
from typing import Final, NamedTuple

from aiohttp import web
from itsdangerous import BadSignature, Signer, TimestampSigner

from service.settings import AuthSettings

COOKIE: Final = "copilot_usage_session"
NONCE_BYTES: Final = 16
MAX_CLOCK_DIFFERENCE_S: Final = 60
"""Between the machine that signed a cookie and another one that reads it."""
_SEPARATOR: Final = ":"


class Session(NamedTuple):
    """A valid session; its key may have been revoked since."""

    key_id: str
    expires_at: float
    """Seconds since 1970."""
    cookie: str
    csrf_token: str


class Sessions:
    """Creates sessions and recognizes them."""

    def __init__(self, settings: AuthSettings) -> None:
        secret = settings.session_secret or secrets.token_urlsafe(32)
        self._session_s = settings.session_s
        # The salts keep a token from being accepted as a cookie.
        self._cookies = TimestampSigner(
            secret, salt="session", digest_method=hashlib.sha256
        )
        self._tokens = Signer(secret, salt="csrf", digest_method=hashlib.sha256)

    def create(self, key_id: str) -> Session:
        """Return a new session of a key."""
        value = f"{key_id}{_SEPARATOR}{secrets.token_urlsafe(NONCE_BYTES)}"
        session = self._open(self._cookies.sign(value).decode())
        assert session is not None  # noqa: S101 - it is signed just now
        return session

    def read(self, request: web.BaseRequest) -> Session | None:
        """Return the session of a request's cookie, if it is valid."""
        cookie = request.cookies.get(COOKIE)
        return self._open(cookie) if cookie else None

    def is_token_of(self, session: Session, token: str) -> bool:
        """Compare a token with that of a session, in constant time."""
        return self._tokens.verify_signature(session.cookie, token)

    def set_cookie(
        self, response: web.StreamResponse, session: Session, *, is_https: bool
    ) -> None:
        """Have the browser keep a session, out of reach of scripts and other sites."""
        response.set_cookie(
            COOKIE,
            session.cookie,
            max_age=math.ceil(self._session_s),
            path="/",
            secure=is_https,
            httponly=True,
            samesite="Strict",
        )

    def delete_cookie(self, response: web.StreamResponse, *, is_https: bool) -> None:
        """Have the browser forget its session."""
        response.del_cookie(
            COOKIE, path="/", secure=is_https, httponly=True, samesite="Strict"
        )

    def _open(self, cookie: str) -> Session | None:
        try:
            value, signed_at = self._cookies.unsign(cookie, return_timestamp=True)
        except (BadSignature, UnicodeError):
            return None
        # Not by `max_age`, which refuses cookies of a machine whose clock is ahead.
        age_s = self._cookies.get_timestamp() - signed_at.timestamp()
        if not -MAX_CLOCK_DIFFERENCE_S <= age_s <= self._session_s:
            return None
        return Session(
            key_id=value.decode().partition(_SEPARATOR)[0],
            expires_at=signed_at.timestamp() + self._session_s,
            cookie=cookie,
            csrf_token=self._tokens.get_signature(cookie).decode(),
        )
