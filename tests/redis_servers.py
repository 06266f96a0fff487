"""Redis for tests: a double in memory and a real server, and their fixtures."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
import redis
from redis import asyncio as redis_asyncio

from service.storage import redis_store
from tests.patience import GIVE_UP_S
from tests.ports import free_port

Command = Callable[[], Any]


class RedisDouble:
    """The few commands that sharing needs; nothing expires by itself.

    Set `failure`, and every command raises it. `asked` counts transactions.
    """

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.failure: Exception | None = None
        self.asked = 0

    def from_url(self, _url: str, **_options: Any) -> Self:
        """In the place of `redis.asyncio.Redis.from_url`."""
        return self

    def pipeline(self, *, transaction: bool) -> "PipelineDouble":
        del transaction  # nothing else runs in between
        return PipelineDouble(self)

    async def aclose(self) -> None:
        """There is no connection."""


class PipelineDouble:
    """Commands that are run together, in their order."""

    def __init__(self, redis: RedisDouble) -> None:
        self._redis = redis
        self._values = redis.values
        self._commands: list[Command] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def execute(self) -> list[Any]:
        self._redis.asked += 1
        if self._redis.failure is not None:
            raise self._redis.failure
        return [command() for command in self._commands]

    def ping(self) -> None:
        self._commands.append(lambda: True)

    def time(self) -> None:
        now = time.time()
        self._commands.append(lambda: (int(now), int(now % 1 * 1e6)))

    def get(self, key: str) -> None:
        self._commands.append(lambda: self._values.get(key))

    def mget(self, keys: list[str]) -> None:
        self._commands.append(lambda: [self._values.get(key) for key in keys])

    def set(self, key: str, value: str | bytes, *, px: int, nx: bool = False) -> None:
        assert px > 0
        self._commands.append(lambda: self._set(key, value, nx=nx))

    def pexpire(self, key: str, _after_ms: int) -> None:
        self._commands.append(lambda: key in self._values)

    def unlink(self, *keys: str) -> None:
        self._commands.append(lambda: [self._values.pop(key, None) for key in keys])

    def eval(self, script: str, keys: int, *arguments: Any) -> None:
        names, rest = arguments[:keys], arguments[keys:]
        if "pexpire" in script:
            self._commands.append(lambda: self._values.get(names[0]) == rest[0])
            return
        if "'get', KEYS[1]) or ''" in script:
            self._commands.append(lambda: self._swap(names[0], *rest))
            return
        self._commands.append(lambda: self._release(names, *rest))

    def _set(self, key: str, value: str | bytes, *, nx: bool) -> bool:
        if nx and key in self._values:
            return False
        self._values[key] = value.encode() if isinstance(value, str) else value
        return True

    def _swap(self, name: str, former: bytes, new: bytes, _after_ms: int) -> bool:
        if self._values.get(name, b"") != former:
            return False
        return self._set(name, new, nx=False)

    def _release(
        self, names: Sequence[str], token: bytes, mark: bytes, _after_ms: int
    ) -> None:
        for name in names:
            if self._values.get(name) == token:
                del self._values[name]
                if mark:
                    self._values[name] = mark


class RedisServer:
    """A real server on a free port, for one test to start, stop and kill."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it serves."""
        where = ["--bind", "127.0.0.1", "--port", str(self.port)]
        nothing_kept = ["--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(  # noqa: S603
            ["redis-server", *where, *nothing_kept, *self._options],  # noqa: S607
            cwd=self._folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert any("Ready to accept" in line for line in self.process.stdout)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


class SharedRedis(NamedTuple):
    """A Redis that processes share, and functions to read and change its values."""

    url: str
    values: Callable[[], dict[str, bytes]]
    put: Callable[[str, bytes], object]
    """Replaces a value, and keeps its expiry."""
    forget: Callable[[], object]
    """Expires every key."""


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> RedisDouble:
    """Return a Redis in memory, which can be made to fail."""
    made = RedisDouble()
    monkeypatch.setattr(redis_asyncio.Redis, "from_url", made.from_url)
    return made


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Return a running Redis server of this test, whose answers may take long."""
    monkeypatch.setattr(redis_store, "CONNECT_S", GIVE_UP_S)
    monkeypatch.setattr(redis_store, "COMMAND_S", GIVE_UP_S)
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture(params=["double", pytest.param("redis", marks=pytest.mark.services)])
def shared(request: pytest.FixtureRequest) -> Iterator[SharedRedis]:
    """Return the double, and a real Redis, through which processes share."""
    if request.param == "double":
        made: RedisDouble = request.getfixturevalue("double")
        values = made.values
        yield SharedRedis(
            "redis://a.test", values.copy, values.__setitem__, values.clear
        )
        return
    url = request.getfixturevalue("server").url
    with redis.Redis.from_url(url) as client:

        def read() -> dict[str, bytes]:
            keys = [key.decode() for key in client.scan_iter()]
            return {key: client.get(key) or b"" for key in keys}

        def put(key: str, value: bytes) -> None:
            client.set(key, value, keepttl=True)

        yield SharedRedis(url, read, put, client.flushall)
