"""A mixed load through the balancer: each answer is checked, and none may be missing.

Clients keep their connections, and never repeat a request by themselves.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

from tests.events.conftest import event
from tests.patience import GIVE_UP_S

HOST: Final = "127.0.0.1"
VINS: Final = tuple(f"1HGCM82633A00{number:04}" for number in range(20))
PAGES: Final = ("/docs", "/openapi.json", "/usage/daily", "/usage?limit=5")
WAIT_S: Final = 1
CALLERS: Final = {"usage": 3, "page": 1, "vehicle": 1, "new": 2, "send": 3, "poll": 3}
"""Number of clients of each kind."""


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unexpected(Exception):
    """An answer is not as it should be."""


class Connection:
    """A connection of a client, which it opens again after the server has closed it."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(
        self, method: str, path: str, *, etag: str = "", body: bytes = b""
    ) -> Reply:
        """Send a request, and return its answer; raises if that is incomplete."""
        reader, writer = await self._open()
        lines = [f"{method} {path} HTTP/1.1", "Host: a.test"]
        lines.append(f"Authorization: Bearer {self._key}")
        if etag:
            lines.append(f"If-None-Match: {etag}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        try:
            reply = await _read(reader)
        except BaseException:
            self.close()
            raise
        if reply.headers.get("connection") == "close":
            self.close()
        return reply

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        return self._streams


async def _read(reader: asyncio.StreamReader) -> Reply:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    pairs = (line.partition(": ") for line in lines if line)
    headers = {name.lower(): value for name, _, value in pairs}
    status = int(status_line.split()[1])
    length = int(headers.get("content-length", 0))
    if status != 304 and "content-length" not in headers:
        raise Unexpected(f"{status_line} without a length")
    body = await reader.readexactly(0 if status == 304 else length)
    return Reply(status, headers, body)


class Load:
    """What the clients have sent and got."""

    def __init__(self, port: int, key: str) -> None:
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self.accepted: list[str] = []
        """The ids of the events that were accepted."""
        self.seen: list[list[str]] = []
        """The ids of the events that each consumer has received."""
        self.duplicates = 0
        """Events that a machine had stored, although it did not answer."""
        self.is_over = False
        self._port = port
        self._key = key
        self._sent = 0
        self._senders = 0

    def __str__(self) -> str:
        return (
            f"{self.answered.total()} answers {dict(self.answered)}, "
            f"{self.duplicates} duplicates, {len(self.failures)} failures"
        )

    async def run(self, callers: Mapping[str, int]) -> None:
        """Send requests until the load is over."""
        clients: dict[str, Callable[[Connection], Awaitable[None]]] = {
            "usage": self._read_usage,
            "page": self._read_pages,
            "vehicle": self._look_up,
            "new": self._connect,
            "send": self._send_events,
            "poll": self._follow,
        }
        async with asyncio.TaskGroup() as tasks:
            for kind, number in callers.items():
                for _ in range(number):
                    tasks.create_task(self._repeat(clients[kind]))

    async def _repeat(self, client: Callable[[Connection], Awaitable[None]]) -> None:
        """Run a client, and again after each failure."""
        while not self.is_over:
            connection = Connection(self._port, self._key)
            try:
                await client(connection)
            except (OSError, EOFError, TimeoutError, Unexpected) as error:
                kind = client.__name__
                self.failures.append(f"{kind}: {type(error).__name__}: {error}")
            finally:
                connection.close()

    async def _ask(
        self, connection: Connection, path: str, *expected: int, **more: Any
    ) -> Reply:
        method = "POST" if "body" in more else "GET"
        async with asyncio.timeout(GIVE_UP_S):
            reply = await connection.send(method, path, **more)
        if reply.status not in (expected or (200,)):
            raise Unexpected(f"{method} {path}: {reply.status} {reply.body[:200]!r}")
        self.answered[f"{method} {reply.status}"] += 1
        return reply

    async def _read_usage(self, connection: Connection) -> None:
        etag = ""
        while not self.is_over:
            reply = await self._ask(connection, "/usage", 200, 304, etag=etag)
            etag = reply.headers["etag"] if not etag else ""

    async def _read_pages(self, connection: Connection) -> None:
        while not self.is_over:
            for path in PAGES:
                await self._ask(connection, path)

    async def _look_up(self, connection: Connection) -> None:
        while not self.is_over:
            for vin in VINS:
                await self._ask(connection, f"/vehicles/lookup?vin={vin}")

    async def _connect(self, _: Connection) -> None:
        """Use a connection for one request, as most scripts do."""
        while not self.is_over:
            connection = Connection(self._port, self._key)
            await self._ask(connection, "/usage")
            connection.close()

    async def _send_events(self, connection: Connection) -> None:
        self._senders += 1
        try:
            await self._send_each(connection)
        finally:
            self._senders -= 1

    async def _send_each(self, connection: Connection) -> None:
        while not self.is_over:
            self._sent += 1
            event_id = f"event-{self._sent}"
            body = json.dumps(event(id=event_id)).encode()
            reply = await self._ask(connection, "/events", 202, body=body)
            (result,) = json.loads(reply.body)["results"]
            if result["id"] != event_id:
                raise Unexpected(f"the receipt of {event_id} is {result}")
            self.duplicates += result["status"] == "duplicate"
            self.accepted.append(event_id)

    async def _follow(self, connection: Connection) -> None:
        """Follow the feed from its begin, with requests that wait."""
        seen: list[str] = []
        self.seen.append(seen)
        path = f"/events?order=arrival&limit=100&wait_s={WAIT_S}"
        while self._is_sending or len(seen) < len(self.accepted):
            reply = await self._ask(connection, path)
            seen += [each["id"] for each in json.loads(reply.body)["events"]]
            found = re.search(r'<([^>]+)>; rel="next"', reply.headers["link"])
            if found is None:
                raise Unexpected("a page of the feed without a next one")
            path = found[1]

    @property
    def _is_sending(self) -> bool:
        """Return whether events may be accepted yet, also after the end of the load."""
        return not self.is_over or self._senders > 0

    def check(self) -> None:
        """Fail unless each consumer has got each accepted event exactly once."""
        assert not self.failures, Counter(self.failures)
        accepted = Counter(self.accepted)
        for each in self.seen:
            seen = Counter(each)
            assert (accepted - seen, seen - accepted) == (Counter(), Counter())


@asynccontextmanager
async def mixed_load(
    port: int, key: str, callers: Mapping[str, int] | None = None
) -> AsyncIterator[Load]:
    """Send a mixed load while the context lasts; all requests are answered then."""
    load = Load(port, key)
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(load.run(callers or CALLERS))
        try:
            yield load
        finally:
            load.is_over = True
