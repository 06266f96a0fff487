"""Sends events to a running service as fast as it takes them, or at a steady rate.

A process of its own, so that what it costs is not the service's: raw sockets, and
requests that are made before the clock starts. It prints one JSON object.
"""

import asyncio
import random
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Final, cast

import msgspec
import uvloop

EVENTS_IN_SESSION: Final = 20
PAGE_CHARS: Final = 60
GIVE_UP_S: Final = 120.0
TICK_S: Final = 0.001
END_OF_HEAD: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length: "


class Plan(msgspec.Struct):
    """Numbers of requests, of events in each, and of connections."""

    port: int
    key: str
    requests: int
    events: int
    connections: int
    per_s: float = 0.0
    """Requests a second; zero is as fast as they are answered."""
    seed: int = 0
    more_ports: tuple[int, ...] = ()
    """Ports of further services, among which the connections are spread."""


class Outcome(msgspec.Struct):
    """Results of sending; `taken_ms` counts from when each request was due."""

    seconds: float
    accepted: int
    refused: int
    taken_ms: list[float]


def make_requests(plan: Plan) -> Iterator[bytes]:
    """Requests that have no event in common, with sessions of twenty events."""
    chance = random.Random(f"{plan.key} {plan.seed}")
    began_us = time.time_ns() // 1_000 - 3_600_000_000
    session_id = ""
    for request in range(plan.requests):
        made = []
        for place in range(plan.events):
            number = request * plan.events + place
            if not number % EVENTS_IN_SESSION:
                session_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            made.append(_event(session_id, began_us + number, chance))
        body = msgspec.json.encode(made if plan.events > 1 else made[0])
        head = (
            "POST /events HTTP/1.1\r\nHost: a.test\r\n"
            f"Authorization: Bearer {plan.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        yield head.encode() + body


def _event(session_id: str, at_us: int, chance: random.Random) -> dict[str, object]:
    seconds, us = divmod(at_us, 1_000_000)
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    page = f"{chance.getrandbits(PAGE_CHARS * 4):0{PAGE_CHARS}x}"
    return {
        "session_id": session_id,
        "category": "page interaction",
        "name": "pageview",
        "data": {"host": "www.example.com", "path": f"/{page}"},
        "timestamp": f"{moment}.{us:06}",
    }


class Sender(asyncio.Protocol):
    """One connection, with one request on its way at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = bytearray()
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what requests are written to."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, request: bytes, due: float) -> None:
        """Send a request, and report its answer to the load."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole."""
        self._received += data
        end = self._received.find(END_OF_HEAD)
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(LENGTH)[2].split(b"\r\n")[0])
        start = end + len(END_OF_HEAD)
        if len(self._received) < start + length:
            return
        body = bytes(self._received[start:])
        self._received.clear()
        self._load.answered(self, head, body, self._due)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with an error: the service keeps connections open."""
        self._load.broken(exc)


class Load:
    """All connections, and what waits to be sent on them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting = deque(make_requests(plan))
        self._due: deque[float] = deque()
        self._free: list[Sender] = []
        self._outcome = Outcome(seconds=0.0, accepted=0, refused=0, taken_ms=[])
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> Outcome:
        """Send all of it."""
        loop = asyncio.get_running_loop()
        ports = cycle((self._plan.port, *self._plan.more_ports))
        for port in islice(ports, self._plan.connections):
            _, sender = await loop.create_connection(
                lambda: Sender(self), "127.0.0.1", port
            )
            self._free.append(sender)
        started = time.perf_counter()
        self._plan_times(started)
        pacing = asyncio.create_task(self._pace())
        async with asyncio.timeout(GIVE_UP_S):
            await self._ended
        self._outcome.seconds = time.perf_counter() - started
        await pacing
        return self._outcome

    def answered(self, sender: Sender, head: bytes, body: bytes, due: float) -> None:
        """Note an answer, and send what is due."""
        outcome = self._outcome
        outcome.taken_ms.append((time.perf_counter() - due) * 1_000)
        if b" 202 " in head[:20]:
            outcome.accepted += int(body.partition(b":")[2].split(b",")[0])
        else:
            outcome.refused += 1
        self._free.append(sender)
        if len(outcome.taken_ms) == self._plan.requests:
            self._ended.set_result(None)
        self._send()

    def broken(self, error: Exception | None) -> None:
        """Give up where a connection is lost before the end."""
        if not self._ended.done():
            self._ended.set_exception(error or ConnectionError("closed"))

    def _plan_times(self, started: float) -> None:
        per_s = self._plan.per_s
        for number in range(self._plan.requests):
            self._due.append(started + number / per_s if per_s else started)

    async def _pace(self) -> None:
        while self._waiting:
            self._send()
            await asyncio.sleep(TICK_S)

    def _send(self) -> None:
        now = time.perf_counter()
        while self._waiting and self._free and self._due[0] <= now:
            due = self._due.popleft()
            # As fast as possible, nothing is late.
            self._free.pop().send(
                self._waiting.popleft(), due if self._plan.per_s else now
            )


async def _main(plan: Plan) -> Outcome:
    return await Load(plan).run()


if __name__ == "__main__":
    outcome = uvloop.run(_main(msgspec.json.decode(sys.argv[1], type=Plan)))
    print(msgspec.json.encode(outcome).decode())
