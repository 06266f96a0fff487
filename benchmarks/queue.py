"""Collecting events through a queue, compared with a bare publisher of NATS.

Three servers of NATS, two collectors and the sender share the machine's cores. The bare
publisher sends messages of the size of a request's body, to a stream of the same
configuration, and does nothing else: it neither parses nor compresses. Nothing consumes
the stream meanwhile.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from benchmarks.bare_publisher import Publication, Published, wipe
from benchmarks.events import cpu_s, send, sqlite
from benchmarks.load.processes import CORES, Missing, Server, service
from benchmarks.load.senders import END_OF_HEAD, Plan, make_requests
from benchmarks.nats_cluster import nats_cluster
from benchmarks.report import Result, minimum
from service.keys.store import add_key
from service.settings import SCOPES, load
from service.storage.database import migrate, open_database

QUICK: Final = "BENCH_QUICK" in os.environ
ROUNDS: Final = 1 if QUICK else 5
REQUESTS: Final = 200 if QUICK else 1_000
BATCH: Final = 500
CONNECTIONS: Final = 32
"""Requests in flight at both collectors together: the backlog of one application."""
COLLECTORS: Final = 2
IN_FLIGHT: Final = 32
"""Messages in flight of the bare publisher: the number at which it is fastest."""
TARGET_PER_S: Final = 100_000
TARGET_RATIO: Final = 0.5
NO_UPSTREAM: Final = "http://127.0.0.1:9"
STREAM: Final = "bench_events"
PUBLISH_S: Final = 180.0


class Round(NamedTuple):
    """Events a second of one round, CPU time of each event, size of a message."""

    per_s: float
    cpu_us: float
    message_bytes: int


class Collectors:
    """Collectors that share one stream; `collecting` starts them."""

    def __init__(self, servers: list[Server], key: str, nats_url: str) -> None:
        self._servers = servers
        self._key = key
        self._nats_url = nats_url
        self._sent = 0

    def measure(self) -> Round:
        """Send a round of requests, and remove its messages from the stream."""
        self._sent += 1
        first, *others = (int(each.url.rpartition(":")[2]) for each in self._servers)
        plan = Plan(first, self._key, REQUESTS, BATCH, CONNECTIONS, seed=self._sent)
        plan.more_ports = tuple(others)
        began_s = sum(cpu_s(each.pid) for each in self._servers)
        outcome = send(plan)
        taken_s = sum(cpu_s(each.pid) for each in self._servers) - began_s
        events = REQUESTS * BATCH
        if outcome.refused or outcome.accepted != events:
            raise Missing(f"{outcome.accepted:,} of {events:,} accepted")
        messages, size = asyncio.run(wipe(self._nats_url, STREAM))
        if messages != REQUESTS:
            raise Missing(f"{messages:,} messages of {REQUESTS:,} requests")
        return Round(events / outcome.seconds, taken_s / events * 1e6, size // messages)


def run() -> list[Result]:
    """Collectors and the bare publisher in turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        urls = stack.enter_context(nats_cluster(Path(folder)))
        collectors = stack.enter_context(collecting(Path(folder), urls))
        collected = [collectors.measure()]
        size = body_bytes()
        bare = []
        for _ in range(ROUNDS):
            bare.append(publish(Publication(",".join(urls), size, REQUESTS, IN_FLIGHT)))
            collected.append(collectors.measure())
    return judge(collected[1:], bare)


def body_bytes() -> int:
    """Return the size of the body of a request."""
    (request,) = make_requests(Plan(0, "key", 1, BATCH, 1))
    return len(request.partition(END_OF_HEAD)[2])


def judge(collected: list[Round], bare: list[Published]) -> list[Result]:
    """Return the medians, and the median of the ratios of neighbouring rounds."""
    per_s = statistics.median(each.per_s for each in collected)
    bare_per_s = statistics.median(each.per_s * BATCH for each in bare)
    ratio = statistics.median(
        one.per_s / (other.per_s * BATCH)
        for one, other in zip(collected, bare, strict=True)
    )
    cpu_us = statistics.median(each.cpu_us for each in collected)
    note = (
        f"{per_s:,.0f} events a second in batches of {BATCH} on {len(CORES)} cores "
        f"with the servers and the sender; {cpu_us:.1f} µs of CPU of the collectors "
        f"each; messages of {collected[0].message_bytes:,} bytes"
    )
    return [
        minimum(
            f"queue: {COLLECTORS} collectors, to {TARGET_PER_S:,} events a second",
            per_s / TARGET_PER_S,
            1,
            note,
        ),
        minimum(
            "queue: to a bare publisher",
            ratio,
            TARGET_RATIO,
            f"it publishes {bare_per_s:,.0f} events a second with {IN_FLIGHT} "
            f"messages in flight; median of {len(bare)} rounds",
        ),
    ]


@contextmanager
def collecting(folder: Path, urls: list[str]) -> Iterator[Collectors]:
    """Run collectors that publish to one stream, without a writer."""
    with sqlite(folder) as storage_url, ExitStack() as stack:
        key = asyncio.run(_prepare(storage_url))
        servers = [
            stack.enter_context(
                service(
                    NO_UPSTREAM,
                    cores=CORES,
                    storage__url=storage_url,
                    events__enabled="true",
                    events__queue_url=",".join(urls),
                    events__queue_stream=STREAM,
                    events__queue_writer="false",
                )
            )
            for _ in range(COLLECTORS)
        ]
        yield Collectors(servers, key, urls[0])


async def _prepare(url: str) -> str:
    storage = load(options={"storage": {"url": url}}).settings.storage
    await migrate(storage)
    async with open_database(storage) as database:
        return await add_key(database, "bench", SCOPES, 1_000_000)


def publish(publication: Publication) -> Published:
    """Publish from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bare_publisher"]
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, msgspec.json.encode(publication).decode()],
        check=True,
        stdout=subprocess.PIPE,
        timeout=PUBLISH_S,
    )
    return msgspec.json.decode(done.stdout, type=Published)
