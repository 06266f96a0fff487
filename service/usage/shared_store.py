"""The Redis store that processes share, under keys for one set of answers."""

import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from service.settings import Settings
from service.storage.redis_sentinels import Login
from service.storage.redis_store import RedisStore
from service.usage.pricing.plans import PLANS

FORMAT: Final = 3
"""Version of the shared values; raise it when their form or their meaning changes."""

_DIGEST_BYTES: Final = 16


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[RedisStore | None]:
    """Open the store of the settings, None without one. Redis may be unavailable."""
    if not settings.cache.redis_url:
        yield None
        return
    cache = settings.cache
    login = Login(cache.sentinel_username, cache.sentinel_password)
    store = RedisStore(cache.redis_url, namespace_of(settings), login)
    try:
        yield store
    finally:
        await store.close()


def namespace_of(settings: Settings) -> str:
    """Return a prefix of keys that only services with the same answers share."""
    upstream: object = settings.upstream.base_url
    if settings.sandbox.enabled:
        upstream = settings.sandbox
    usage = settings.usage
    decisive = [
        *(FORMAT, upstream, sorted(PLANS)),
        *(usage.source, _database_of(settings), usage.plan, usage.on_report_error),
        *_months_of(settings),
    ]
    digest = blake2b(msgspec.json.encode(decisive), digest_size=_DIGEST_BYTES)
    return f"copilot-usage:{digest.hexdigest()}"


def _months_of(settings: Settings) -> tuple[int | str, ...]:
    """Return the begin of calendar months; empty where the upstream decides."""
    periods = settings.periods
    return (periods.anchor_day, periods.zone) if settings.has_calendar else ()


def _database_of(settings: Settings) -> list[str]:
    """Return the database of the messages; empty where upstream has them."""
    if settings.usage.source != "events":
        return []
    url = settings.storage.url
    if not url.startswith("sqlite"):
        return [url]
    # The same path is another file on another machine or in another directory.
    return [url, platform.node(), str(Path.cwd())]
