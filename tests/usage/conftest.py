"""Services of one upstream that share a Redis, a real one or a double."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.settings import Settings
from service.storage.redis_lock import RedisLocks
from service.storage.redis_store import SEAL_BYTES, seal
from service.usage.cache import SnapshotCache
from service.usage.handlers import SNAPSHOTS
from service.usage.preparation import CachedSnapshot
from service.usage.shared_snapshot import Manifest
from tests.clock import Clock, drive_periods
from tests.conftest import MakeSettings, message, report
from tests.patience import GIVE_UP_S
from tests.redis_servers import SharedRedis, double, server, shared

__all__ = ["double", "server", "shared"]

MESSAGES: Final = "/messages/current-period"
PATHS: Final = (
    *("/usage", "/usage/2", "/usage/daily", "/usage/reports", "/usage?limit=2"),
    "/usage/daily?tz=Asia/Tokyo",
)
CACHE: Final[dict[str, float]] = {
    "ttl_s": 60.0,
    "report_ttl_s": 600.0,
    "missing_report_ttl_s": 600.0,
    "pause_after_failure_s": 0.0,
    "stale_wait_s": GIVE_UP_S,
}


Client = TestClient[web.Request, web.Application]


Until = Callable[[Callable[[], bool]], Awaitable[None]]


services: Final = pytest.mark.services


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of the applications' caches, which the test drives."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    return clock


class Serve:
    """A factory of services of one upstream that share the Redis of a URL."""

    def __init__(
        self, settings: MakeSettings, aiohttp_client: AiohttpClient, upstream: str
    ) -> None:
        self._settings = settings
        self._client = aiohttp_client
        self._upstream = upstream

    def settings(self, url: str, **sections: dict[str, Any]) -> Settings:
        upstream = {"base_url": self._upstream, "attempts": 1}
        upstream |= sections.pop("upstream", {})
        cache = CACHE | {"redis_url": url} | sections.pop("cache", {})
        return self._settings(**sections, upstream=upstream, cache=cache)

    async def __call__(self, url: str, **sections: dict[str, Any]) -> Client:
        return await self._client(create_app(self.settings(url, **sections)))


FOUR: Final = [
    message(0, "Rent? " * 30, report_id=7),
    message(1, "Rent? " * 30, report_id="8"),
    message(2, "Rent? " * 30),
    message(3, "Rent? " * 30, report_id=7),
]


@pytest.fixture
def period(sandbox: RunningSandbox) -> RunningSandbox:
    """Four messages: two of a report, one of a missing one, and one of text."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(FOUR)
    return sandbox


@pytest.fixture
def serve(
    settings: MakeSettings, aiohttp_client: AiohttpClient, period: RunningSandbox
) -> Serve:
    """A factory of services; each call makes one."""
    return Serve(settings, aiohttp_client, period.url)


def cache_of(service: Client) -> SnapshotCache:
    assert service.app is not None
    return service.app[SNAPSHOTS]


def current_of(service: Client) -> CachedSnapshot:
    current = cache_of(service).current
    assert current is not None
    return current


async def published(service: Client, until: Until) -> Manifest:
    """Wait until the current snapshot is shared; return its manifest."""
    await until(lambda: current_of(service).manifest is not None)
    manifest = current_of(service).manifest
    assert manifest is not None
    return manifest


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[RedisLocks]:
    """Return a list of the locks whose process has begun to wait, in order."""
    waiting: list[RedisLocks] = []
    acquire = RedisLocks.acquire

    async def noted(self: RedisLocks, *arguments: Any) -> Any:
        waiting.append(self)
        return await acquire(self, *arguments)

    monkeypatch.setattr(RedisLocks, "acquire", noted)
    return waiting


async def bodies(service: Client, *paths: str) -> list[bytes]:
    answers = [await service.get(path) for path in paths]
    assert {each.status for each in answers} == {200}
    return [await each.read() for each in answers]


def logged(entries: list[EventDict], name: str) -> list[EventDict]:
    return [each for each in entries if each["event"] == f"cache.shared.{name}"]


def make_manifest_older(shared: SharedRedis, by_s: float) -> Manifest:
    (sealed,) = [v for key, v in shared.values().items() if key.endswith(":manifest")]
    manifest = msgspec.msgpack.decode(sealed[SEAL_BYTES:], type=Manifest)
    fetched_at = manifest.fetched_at - by_s
    older = msgspec.structs.replace(manifest, fetched_at=fetched_at)
    put_manifest(shared, older)
    return older


def put_manifest(shared: SharedRedis, manifest: Manifest) -> None:
    (key,) = [key for key in shared.values() if key.endswith(":manifest")]
    shared.put(key, seal(key, msgspec.msgpack.encode(manifest)))


def expire(shared: SharedRedis | None, *services: Client) -> None:
    """Make the snapshots stale, in the services and in Redis."""
    by_s = 1.5 * CACHE["ttl_s"]
    older = make_manifest_older(shared, by_s) if shared is not None else None
    for each in services:
        current = current_of(each)
        fetched_at = current.fetched_at - by_s
        known = older or current.manifest
        aged = current._replace(fetched_at=fetched_at, manifest=known)
        cache_of(each).current = aged
