"""Overload: more requests than the service can answer, at a fixed rate.

Clients send at their rate whatever the service does, as many users do. A request waits
for a free connection, and its time counts from when it is due. One that finds none is
not sent, and counts as accepted and never answered. The service is pinned to one core,
and the load to the other.
"""

import asyncio
import math
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Final, NamedTuple, cast

import uvloop

from benchmarks.load import constant_rate, wrk
from benchmarks.load.processes import LOAD_CORE, Missing, get, pin_to, sandbox, service
from benchmarks.load.wrk import Target
from benchmarks.report import Result, maximum, unmeasured

MANY_MESSAGES: Final = 100_000
SOME_MESSAGES: Final = 20_000
FEW_MESSAGES: Final = 110
SECONDS: Final = 5.0
CALM_S: Final = 2.0
EQUAL: Final = "/usage?sort=credits_used:desc;report_name:asc&limit=100"
"""Milliseconds of work, which requests at the same time share."""
ALIVE: Final = "/health/live"
CACHED: Final = "/usage"
PROBE_S: Final = 0.02
WHOLE_PER_S: Final = 4.0
"""Requests for the whole period: ten megabytes each, which the load has to read."""
WANTED_RATIO: Final = 3.0
WANTED_MS: Final = 20.0
WANTED_REFUSAL_MS: Final = 5.0
CONNECTIONS: Final = 500
MULTIPLES: Final = (2, 5, 10)
PATIENCE_S: Final = 5.0
"""Time for the last answers."""
MIN_TIMES: Final = 1.2
"""Fewer requests than this multiple of the capacity are no overload."""
PROBE_CONNECTIONS: Final = 20
CALM_SHARE: Final = 0.2
OK: Final = 200
UNMEASURED: Final = (Missing, OSError, subprocess.SubprocessError)


class Timed(NamedTuple):
    """One answer: its status, and its time in seconds."""

    status: int
    duration_s: float


NEVER: Final = Timed(OK, math.inf)
"""A request that was accepted, or could not be sent, and has no answer."""


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

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at this time."""
        assert self._transport is not None
        self._sent_at = due
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
        self._is_quiet = asyncio.Event()

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
                self._send(started + sent / per_s)
                sent += 1
            await asyncio.sleep(0.0005)
        self._is_quiet = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S if self._busy else 0):
                await self._is_quiet.wait()
        answers = self.answers + [NEVER] * self._busy
        self.close()
        return answers

    @property
    def _busy(self) -> int:
        return len(self._connections) - len(self._idle)

    async def capacity(self, seconds: float) -> float:
        """Return the requests a second that one connection has answered with 200."""
        self.answers, self._again = [], True
        started = time.perf_counter()
        await self._connect()
        self._send(time.perf_counter())
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
            connection.send(self._request(), time.perf_counter())
        else:
            self._idle.append(connection)
            if not self._busy:
                self._is_quiet.set()

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

    def _send(self, due: float) -> None:
        if self._idle:
            self._idle.popleft().send(self._request(), due)
        else:
            self.answers.append(NEVER)

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


def at_full_speed(url: str) -> float:
    """Return the requests a second that are answered, by wrk."""
    return wrk.measure(Target(url), int(CALM_S))


def at_rate(url: str, per_s: float) -> list[constant_rate.Answer]:
    """Send the same request at a rate by h2load; return the answers.

    This process could not send as many as the service answers.
    """
    connections = constant_rate.Connections(CONNECTIONS, pipelined=False)
    return constant_rate.run(url, per_s, SECONDS, connections=connections)


def times_of(answers: list[constant_rate.Answer]) -> list[Timed]:
    """Return the status and the time of each answer."""
    return [Timed(each.status, each.taken_us / 1e6) for each in answers]


async def measure_equal(url: str, path: str) -> tuple[float, float, list[Overload]]:
    """Return the capacity, the calm p99 in milliseconds, and one overload.

    Its multiple is what the clients could send, at most twice the capacity.
    """
    target = url + path
    await asyncio.to_thread(get, target)
    await asyncio.to_thread(at_full_speed, target)
    per_s = await asyncio.to_thread(at_full_speed, target)
    calm = await asyncio.to_thread(at_rate, target, per_s * CALM_SHARE)
    calm_ms = p99_ms(times_of(calm))
    alive = Load(url, (ALIVE for _ in count()))
    answers, lives = await asyncio.gather(
        asyncio.to_thread(at_rate, target, 2 * per_s),
        alive.at_rate(1 / PROBE_S, SECONDS, PROBE_CONNECTIONS),
    )
    times = constant_rate.sent_per_s(answers) / per_s
    if times < MIN_TIMES:
        raise Missing(f"clients on one core can send {times:.2f} times {per_s:,.0f}/s")
    found = overload_of(times, times_of(answers), lives, [], calm_ms)
    return per_s, calm_ms, [found]


async def measure_costly(url: str) -> tuple[float, float, list[Overload]]:
    """Return the capacity, the calm p99 in milliseconds, and each overload.

    The capacity is found by one connection, with one request at a time.
    """
    paths = costly()
    await Load(url, paths).capacity(CALM_S)
    per_s = await Load(url, paths).capacity(CALM_S)
    calm = await Load(url, paths).at_rate(per_s * CALM_SHARE, SECONDS)
    calm_ms = p99_ms(calm)
    found = []
    for times in MULTIPLES:
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
    if not answers:
        raise Missing("no request was answered")
    ordered = sorted(each.duration_s for each in answers)
    return ordered[int(len(ordered) * 0.99)] * 1_000


def results(
    kind: str, per_s: float, calm_ms: float, found: list[Overload]
) -> Iterator[Result]:
    """Yield the lines of the report."""
    for each in found:
        name = f"{kind}, {each.times:.2g} times {per_s:,.0f}/s"
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
    for kind, messages, measured in (
        ("costly", MANY_MESSAGES, measure_costly),
        ("equal", SOME_MESSAGES, partial(measure_equal, path=EQUAL)),
        ("cheap", FEW_MESSAGES, partial(measure_equal, path=CACHED)),
    ):
        try:
            with _service_with(messages) as url:
                lines += results(kind, *uvloop.run(measured(url)))
        except UNMEASURED as error:
            lines.append(unmeasured(kind, error))
    return lines


@contextmanager
def _service_with(messages: int) -> Iterator[str]:
    with (
        sandbox("--messages", str(messages), "--reports", "100") as upstream,
        service(upstream.url, logging__access="false", cache__ttl_s="3600") as server,
    ):
        yield server.url
