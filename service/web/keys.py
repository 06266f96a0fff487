"""Who asks: the application whose key a request carries, within the key's rate."""

from typing import Final

from aiohttp import web

from service.events.keys import Key, KeyRing
from service.settings import Settings
from service.web.limits import Rate, RateLimited, TokenBuckets, credential_of
from service.web.problems import FORBIDDEN, UNAUTHORIZED, RequestProblem


class Gate:
    """Lets requests with a key in, each key as often as it may."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self._keys = keys
        self._rate_per_s = settings.events.key_rate_per_s
        self._buckets = TokenBuckets(settings.limits)

    async def admit(self, request: web.Request) -> Key:
        """The key of a request; `RequestProblem` without one, or over its rate."""
        credential = credential_of(request)
        key = await self._keys.find(credential) if credential else None
        if key is None:
            raise RequestProblem(UNAUTHORIZED, "send a key as a bearer token")
        per_s = self._rate_per_s if key.rate_per_s is None else key.rate_per_s
        quota = self._buckets.take(key.digest, Rate(per_s, max(1, round(per_s))))
        if not quota.is_allowed:
            raise RateLimited(quota.reset_s)
        return key


GATE: Final = web.AppKey("gate", Gate)


def application_for(key: Key, wanted: str | None) -> str:
    """Whose events are asked for: the key's own, or any for one that may read all."""
    if wanted is None or wanted == key.application:
        return key.application
    if not key.can_read_all:
        raise RequestProblem(FORBIDDEN, "this key may read its own events only")
    return wanted
