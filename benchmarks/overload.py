"""Overload: more requests than the service can answer, at a fixed rate.

Clients send at their rate whatever the service does, as many users do. The service is
pinned to one core, and the load to the other.
"""

import asyncio
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import Final, NamedTuple, cast

import uvloop

from benchmarks.load.processes import LOAD_CORE, pin_to, pinned, sandbox, service, tool
from benchmarks.report import Result, maximum

MESSAGES: Final = "100000"
SECONDS: Final = 5.0
CALM_S: Final = 2.0
CHEAP: Final = "/usage?limit=1"
ALIVE: Final = "/health/live"
CACHED: Final = "/usage"
PROBE_S: Final = 0.02
WHOLE_PER_S: Final = 4.0
"""Requests for the whole period: ten megabytes each, which the load has to read."""
WANTED_RATIO: Final = 3.0
WANTED_MS: Final = 20.0
WANTED_REFUSAL_MS: Final = 5.0
CONNECTIONS: Final = 500
CAPACITY_CONNECTIONS: Final = 16
CALM_SHARE: Final = 0.2
OK: Final = 200


class Timed(NamedTuple):
    """One answer: its status, and its time in seconds."""

    status: int
    duration_s: float


class Connection(asyncio.Protocol):
    """A connection with one request at a time; it only looks at the head."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._status = 0
        self._missing = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes) -> None:
        """Send a request."""
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the answer."""
        if not self._missing:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._head = self._head[:end], self._head[end + 4 :], b""
            self._status = int(head[9:12])
            length = head.lower().partition(b"content-length: ")[2]
            self._missing = int(length.partition(b"\r\n")[0] or 0)
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing = 0
            taken_s = time.perf_counter() - self._sent_at
            self._load.answered(self, Timed(self._status, taken_s))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._load.lost(self)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


class Load:
    """Requests of one kind to a server, at a fixed rate or as fast as answered."""

    def __init__(self, url: str, paths: Iterator[str]) -> None:
        host, _, port = url.rpartition("//")[2].partition(":")
        self._address = host, int(port)
        self._paths = paths
        self._idle: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self.answers: list[Timed] = []
        self._again = False

    async def at_rate(
        self, per_s: float, seconds: float, connections: int = CONNECTIONS
    ) -> list[Timed]:
        """Send so many requests a second; return the answers."""
        # Opening connections takes this process longer than sending requests.
        await asyncio.gather(*(self._connect() for _ in range(connections)))
        self.answers = []
        started, sent = time.perf_counter(), 0
        while (now := time.perf_counter()) - started < seconds:
            while sent < (now - started) * per_s:
                self._send()
                sent += 1
            await asyncio.sleep(0.0005)
        answers = self.answers
        self.close()
        return answers

    async def capacity(self, seconds: float, connections: int) -> float:
        """Return the requests a second that are answered with 200."""
        self.answers, self._again = [], True
        started = time.perf_counter()
        await asyncio.gather(*(self._connect() for _ in range(connections)))
        for _ in range(connections):
            self._send()
        await asyncio.sleep(seconds)
        self._again = False
        answered = sum(each.status == OK for each in self.answers)
        taken_s = time.perf_counter() - started
        self.close()
        return answered / taken_s

    def answered(self, connection: Connection, answer: Timed) -> None:
        """Take an answer, and the connection for the next request."""
        self.answers.append(answer)
        if self._again:
            connection.send(self._request())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close all connections."""
        for each in tuple(self._connections):
            each.close()
        self._idle.clear()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Connection(self), *self._address)
        self._connections.add(made)
        self._idle.append(made)

    def _send(self) -> None:
        if self._idle:
            self._idle.popleft().send(self._request())

    def _request(self) -> bytes:
        path = next(self._paths)
        return f"GET {path} HTTP/1.1\r\nHost: load\r\n\r\n".encode()


class Overload(NamedTuple):
    """What was measured at one multiple of the capacity."""

    times: float
    p99_ratio: float
    per_s: float
    refused: float
    refusal_ms: float
    alive_ms: float
    cached_ms: float


def costly() -> Iterator[str]:
    """Yield sorted queries, each of another range."""
    return (
        f"/usage?sort=credits_used:desc&limit=100&from=2024-04-{1 + n % 28:02d}"
        f"T{n // 28 % 24:02d}:{n // 672 % 60:02d}"
        for n in count()
    )


def cheap_at_rate(url: str, per_s: float | None, seconds: float) -> list[Timed]:
    """Send cached `/usage` by h2load, at a rate or as fast as answered.

    This process could not send as many as the service answers.
    """
    connections = CONNECTIONS if per_s else CAPACITY_CONNECTIONS
    rate = ["--rps", f"{per_s / connections:.0f}"] if per_s else []
    with tempfile.NamedTemporaryFile("r") as log:
        command = [tool("h2load", "nghttp2-client"), "--h1", "-t", "1", *rate]
        command += ["-c", str(connections), "-D", f"{seconds:g}"]
        command += ["--log-file", log.name, f"{url}{CACHED}"]
        subprocess.run(  # noqa: S603
            pinned([LOAD_CORE], command), check=True, stdout=subprocess.DEVNULL
        )
        rows = (line.split() for line in log)
        return [Timed(int(row[1]), int(row[2]) / 1e6) for row in rows]


async def measure_cheap(url: str) -> tuple[float, float, list[Overload]]:
    """Return the capacity, the calm p99 in milliseconds, and twice the capacity."""

    async def load(per_s: float | None, seconds: float) -> list[Timed]:
        return await asyncio.to_thread(cheap_at_rate, url, per_s, seconds)

    await load(None, CALM_S)
    full = await load(None, CALM_S)
    per_s = len(full) / CALM_S
    calm_ms = p99_ms(await load(per_s * CALM_SHARE, SECONDS))
    alive = Load(url, (ALIVE for _ in count()))
    answers, lives = await asyncio.gather(
        load(2 * per_s, SECONDS), alive.at_rate(1 / PROBE_S, SECONDS, 1)
    )
    return per_s, calm_ms, [overload_of(2, answers, lives, [], calm_ms)]


async def measure(
    url: str, paths: Iterator[str], multiples: tuple[float, ...], connections: int
) -> tuple[float, float, list[Overload]]:
    """Return the capacity, the calm p99 in milliseconds, and each overload.

    The capacity is found by so many connections, each with one request at a time.
    """
    await Load(url, paths).capacity(CALM_S, connections)
    per_s = await Load(url, paths).capacity(CALM_S, connections)
    calm = await Load(url, paths).at_rate(per_s * CALM_SHARE, SECONDS)
    calm_ms = p99_ms(calm)
    found = []
    for times in multiples:
        await asyncio.sleep(CALM_S)
        load, alive, cached = (
            Load(url, each)
            for each in (paths, (ALIVE for _ in count()), (CACHED for _ in count()))
        )
        answers, lives, whole = await asyncio.gather(
            load.at_rate(per_s * times, SECONDS),
            alive.at_rate(1 / PROBE_S, SECONDS),
            cached.at_rate(WHOLE_PER_S, SECONDS),
        )
        found.append(overload_of(times, answers, lives, whole, calm_ms))
    return per_s, calm_ms, found


def overload_of(
    times: float,
    answers: list[Timed],
    lives: list[Timed],
    whole: list[Timed],
    calm_ms: float,
) -> Overload:
    """Return what was measured at one multiple of the capacity."""
    accepted = [each for each in answers if each.status == OK]
    refused = [each.duration_s * 1_000 for each in answers if each.status != OK]
    return Overload(
        times,
        p99_ms(accepted) / calm_ms,
        len(answers) / SECONDS,
        len(refused) / len(answers),
        statistics.median(refused) if refused else 0.0,
        p99_ms(lives),
        p99_ms([each for each in whole if each.status == OK]),
    )


def p99_ms(answers: list[Timed]) -> float:
    """Return the 99th percentile of the times, in milliseconds."""
    ordered = sorted(each.duration_s for each in answers)
    return ordered[int(len(ordered) * 0.99)] * 1_000 if ordered else float("nan")


def results(
    kind: str, per_s: float, calm_ms: float, found: list[Overload]
) -> Iterator[Result]:
    """Yield the lines of the report."""
    for each in found:
        name = f"{kind}, {each.times:g} times {per_s:,.0f}/s"
        note = (
            f"to {calm_ms:.1f} ms at a fifth of the capacity; of {each.per_s:,.0f}/s "
            f"answered, {each.refused:.0%} are refused"
        )
        yield maximum(f"{name}: p99 of accepted", each.p99_ratio, WANTED_RATIO, note)
        yield maximum(f"{name}: refusal, ms", each.refusal_ms, WANTED_REFUSAL_MS)
        yield maximum(f"{name}: health p99, ms", each.alive_ms, WANTED_MS)
        if kind == "costly":
            yield maximum(f"{name}: cached p99, ms", each.cached_ms, WANTED_MS)


def run() -> list[Result]:
    """Measure costly and cheap requests in overload."""
    pin_to(LOAD_CORE)
    lines: list[Result] = []
    with (
        sandbox("--messages", MESSAGES) as upstream,
        service(upstream.url, logging__access="false", cache__ttl_s="3600") as server,
    ):
        measured = uvloop.run(measure(server.url, costly(), (2, 5, 10), 1))
        lines += results("costly", *measured)
    with (
        sandbox("--messages", "110") as upstream,
        service(upstream.url, logging__access="false", cache__ttl_s="3600") as server,
    ):
        measured = uvloop.run(measure_cheap(server.url))
        lines += results("cheap", *measured)
    return lines
