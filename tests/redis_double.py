"""Redis as the service uses it: in a dictionary, or as a server of the test's own."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_bytes
from typing import Any, Self

from aiohttp.test_utils import unused_port
from redis.exceptions import LockNotOwnedError

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

    def lock(self, name: str, **_options: Any) -> "LockDouble":
        """A lock as `redis.asyncio.lock` has it, which does not expire."""
        return LockDouble(self, name)

    async def aclose(self) -> None:
        """There is no connection."""


class LockDouble:
    """A lock of one name."""

    def __init__(self, redis: RedisDouble, name: str) -> None:
        self._redis = redis
        self._name = name
        self._token = token_bytes(16)

    async def acquire(self, *, blocking_timeout: float) -> bool:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + blocking_timeout
        while not await self._try():
            if loop.time() >= give_up_at:
                return False
            await asyncio.sleep(0)
        return True

    async def release(self) -> None:
        if self._redis.failure is not None:
            raise self._redis.failure
        if self._redis.values.get(self._name) != self._token:
            raise LockNotOwnedError("it is another's now")
        del self._redis.values[self._name]

    async def _try(self) -> bool:
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(self._name, self._token, px=1, nx=True)
            (is_ours,) = await pipeline.execute()
        return bool(is_ours)


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

    def eval(self, _script: str, keys: int, *arguments: Any) -> None:
        names, rest = arguments[:keys], arguments[keys:]
        self._commands.append(lambda: self._end_turns(names, *rest))

    def _set(self, key: str, value: str | bytes, *, nx: bool) -> bool:
        if nx and key in self._values:
            return False
        self._values[key] = value.encode() if isinstance(value, str) else value
        return True

    def _end_turns(
        self, names: Sequence[str], token: bytes, left: bytes, _after_ms: int
    ) -> None:
        for name in names:
            if self._values.get(name) == token:
                del self._values[name]
                if left:
                    self._values[name] = left


class RedisServer:
    """A real server on a free port, for one test to start, stop and kill."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = unused_port()
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
