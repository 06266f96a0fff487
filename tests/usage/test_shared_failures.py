"""Shared snapshots while Redis or another process fails."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
import redis.exceptions
from aiohttp import ClientError, ClientSession
from structlog.typing import EventDict

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.settings import Settings
from service.storage import redis_store
from service.storage.redis_blobs import Blobs
from service.storage.redis_store import RedisStore, RedisUnavailable
from tests.conftest import always
from tests.launcher import Launcher, Service
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisDouble, RedisServer
from tests.usage.conftest import (
    MESSAGES,
    PATHS,
    Serve,
    Until,
    bodies,
    expire,
    logged,
    published,
    services,
)


@pytest.mark.parametrize(
    "failure, event",
    [
        (redis.ConnectionError("refused"), "lost"),
        (redis.TimeoutError("too slow"), "lost"),
        (redis.AuthenticationError("wrong password"), "lost"),
        (ConnectionResetError("reset"), "lost"),
        (redis.BusyLoadingError("loading"), "lost"),
        (redis.ReadOnlyError("a replica"), "lost"),
        (redis.OutOfMemoryError("full"), "refused"),
        (redis.exceptions.NoPermissionError("not you"), "refused"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_a_failing_redis_fails_no_request(
    double: RedisDouble,
    serve: Serve,
    log_entries: list[EventDict],
    failure: Exception,
    event: str,
) -> None:
    """Each service refreshes on its own, and logs the failure once."""
    double.failure = failure
    service = await serve("redis://a.test", cache={"ttl_s": 0.0})

    for _ in range(3):
        assert (await service.get("/usage")).status == 200

    (entry,) = [e for e in log_entries if e["event"].startswith("cache.shared")]
    assert entry["event"] == f"cache.shared.{event}"
    assert entry["reason"] == str(failure)


@pytest.mark.parametrize("work", ["store", "load"])
async def test_redis_may_fail_between_two_parts(
    double: RedisDouble, serve: Serve, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """A snapshot that is stored or read in part is not adopted."""

    async def fail(*_: object) -> None:
        raise RedisUnavailable

    monkeypatch.setattr(Blobs, work, fail)
    first, other = [await serve("redis://a.test") for _ in range(2)]

    assert await bodies(first, *PATHS) == await bodies(other, *PATHS)
    assert any(key.endswith(":manifest") for key in double.values) == (work == "load")


@services
async def test_a_restored_redis_is_used_again(
    *,
    server: RedisServer,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next refresh fills an empty Redis, also if upstream answers 304."""
    monkeypatch.setattr("service.storage.redis_store.PING_EVERY_S", 0.01)
    first = await serve(server.url)
    expected = await bodies(first, *PATHS)
    await published(first, until)
    server.kill()
    expire(None, first)
    await first.get("/usage")
    server.start()
    await until(lambda: len(logged(log_entries, "restored")) == 1)
    expire(None, first)
    await first.get("/usage")
    await published(first, until)
    calls = period.sandbox.calls.copy()

    assert await bodies(await serve(server.url), *PATHS) == expected
    assert period.sandbox.calls == calls


@services
async def test_a_redis_that_hangs_fails_no_request(
    server: RedisServer,
    serve: Serve,
    log_entries: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Redis that does not answer is unavailable."""
    assert server.process is not None
    monkeypatch.setattr(redis_store, "COMMAND_S", 0.5)
    service = await serve(server.url)
    server.process.send_signal(signal.SIGSTOP)
    try:
        assert (await service.get("/usage")).status == 200
    finally:
        server.process.send_signal(signal.SIGCONT)

    assert len(logged(log_entries, "lost")) == 1


@services
async def test_a_wrong_password_is_logged_without_the_password(
    tmp_path: Path, serve: Serve, log_entries: list[EventDict]
) -> None:
    """The service refreshes on its own, and the log has no secret."""
    server = RedisServer(tmp_path, "--requirepass", "right")
    server.start()
    try:
        url = server.url.replace("//", "//:wr0ng@")
        assert (await (await serve(url)).get("/usage")).status == 200
    finally:
        server.kill()

    (lost,) = logged(log_entries, "lost")
    assert lost["error.type"] == "AuthenticationError"
    assert "wr0ng" not in str(log_entries)


Processes = Callable[[Settings], Awaitable[Service]]


@pytest.fixture
def processes(launcher: Launcher, tmp_path: Path) -> Iterator[Processes]:
    """A factory of services in processes of their own, which end with the test."""
    started: list[Service] = []

    async def start(settings: Settings) -> Service:
        given = {
            f"{section}__{key}": value
            for section, keys in msgspec.to_builtins(settings).items()
            for key, value in keys.items()
            if section in {"upstream", "cache"}
        }
        log = tmp_path / f"service {len(started)}.log"
        started.append(Service(launcher, log, events__enabled="false", **given))
        started[-1].start()
        await started[-1].until_up()
        return started[-1]

    yield start
    for each in started:
        if each.process_id is not None:
            each.kill()


@services
async def test_a_killed_process_does_not_hold_up_the_others(
    *,
    server: RedisServer,
    serve: Serve,
    period: RunningSandbox,
    until: Until,
    processes: Processes,
    waiting: list[RedisStore],
) -> None:
    """Another process refreshes when the lock of a killed one expires."""
    settings = serve.settings(server.url, upstream={"deadline_s": GIVE_UP_S})
    period.sandbox.faults = always("hang")
    process = await processes(settings)
    other = await serve(server.url, upstream={"deadline_s": GIVE_UP_S})
    async with ClientSession() as session:
        asked = asyncio.create_task(
            session.get(f"http://127.0.0.1:{process.port}/usage")
        )
        await until(lambda: period.sandbox.in_flight == 1)
        joining = asyncio.create_task(other.get("/usage"))
        await until(lambda: len(waiting) == 1)
        process.kill()
        with pytest.raises(ClientError):
            await asked
    period.sandbox.faults = Faults()

    assert (await joining).status == 200
    assert period.sandbox.calls[MESSAGES] == 2
