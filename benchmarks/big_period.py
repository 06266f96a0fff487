"""A period of a million messages: refreshes, memory, and small requests meanwhile.

Upstream has one percent more each time it is asked, and the period is asked for again
every few seconds. Small requests come at constant rates all the time; the log
shows which of them came during a refresh.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple
from urllib.error import HTTPError

import msgspec

from benchmarks.load import constant_rate
from benchmarks.load.constant_rate import Answer, percentile_ms
from benchmarks.load.processes import (
    CORES,
    LOAD_CORE,
    Missing,
    Server,
    get,
    pinned,
    resident_bytes,
    running,
    service,
)
from benchmarks.report import Result, interleaved, maximum, unmeasured
from benchmarks.upstreams import free_port
from service.usage.pricing.plans import TEXT_RULES
from service.usage.snapshots.answers import UsageAnswer, UsageItem
from service.usage.snapshots.messages import UpstreamPeriod

MESSAGES: Final = 1_000_000
FEW_MESSAGES: Final = 10
TTL_S: Final = 20
LOAD_S: Final = 70.0
"""Three refreshes or so."""
QUIET_S: Final = 3.0
SETTLE_S: Final = 1.0
"""After the end of a refresh: old memory is freed, so it still counts as during."""
ROUNDS: Final = 3
LAST_IN_TURN: Final = ("nice", "-n", "19")
US_PER_S: Final = 1_000_000
PATIENT: Final[dict[str, Any]] = {
    "upstream__timeout_s": "60",
    "upstream__deadline_s": "120",
    "server__request_timeout_s": "120",
}
"""Settings with which the first refresh may take long, as on a busy machine."""

FIRST_BOUND: Final = 3
NEW_SHARE_BOUND: Final = 0.25
BYTES_PER_MESSAGE: Final = 700
P99_BOUND_MS: Final = 20
P99_BOUND: Final = 3

UNMEASURED: Final = (Missing, OSError, subprocess.SubprocessError)


class Small(NamedTuple):
    """A small request, and how often it comes."""

    name: str
    path: str
    per_s: float
    headers: dict[str, str]
    status: int


SMALL: Final = (
    Small("GET /health/live", "/health/live", 100, {}, 200),
    Small("GET /usage, 304", "/usage", 100, {"If-None-Match": "*"}, 304),
    Small("GET /usage/daily", "/usage/daily?tz=Europe/London", 5, {}, 200),
)


class Refresh(msgspec.Struct):
    """The entry `usage.refresh.finished`."""

    event: str
    timestamp: datetime
    duration_s: float = 0
    messages: int = 0
    reused: int = 0

    def covers(self, answer: Answer) -> bool:
        """Return whether a request was sent during this refresh, or just after it."""
        ended_us = self.timestamp.timestamp() * US_PER_S
        since_us = ended_us - self.duration_s * US_PER_S
        return since_us <= answer.sent_us <= ended_us + SETTLE_S * US_PER_S


class Seen(NamedTuple):
    """All that one run told."""

    refreshes: list[Refresh]
    answers: dict[str, list[Answer]]
    idle_bytes: int


def run() -> list[Result]:
    """Refreshes, memory, and the small requests; or why they were not measured."""
    try:
        return _run()
    except UNMEASURED as error:
        return [unmeasured(f"{MESSAGES:,} messages", error)]


def _run() -> list[Result]:
    few = _idle_bytes_of_few()
    with growing_upstream(MESSAGES) as upstream:
        alone_s = work_alone_s(get(f"{upstream.url}/base")[0])
        seen = _watch_refreshes(upstream)
    first, *later = seen.refreshes
    if not later:
        raise Missing("there was no second refresh: is cache.ttl_s in force?")
    results = [*_refreshing(first, later, alone_s), _memory(seen, few)]
    return results + [result for each in SMALL for result in _small(each, seen)]


def work_alone_s(body: bytes) -> float:
    """Decoding, rating and encoding the body in this process, each by itself."""
    decoder, encoder = msgspec.json.Decoder(UpstreamPeriod), msgspec.json.Encoder()
    messages = decoder.decode(body).messages
    texts = [message.text for message in messages]
    prices = (TEXT_RULES.rate(texts) / 100).tolist()

    def encode() -> bytes:
        rows = zip(messages, prices, strict=True)
        items = [
            UsageItem(message.id, message.timestamp, msgspec.UNSET, price)
            for message, price in rows
        ]
        return encoder.encode(UsageAnswer(items))

    parts_s = interleaved(
        lambda: decoder.decode(body),
        lambda: TEXT_RULES.rate(texts),
        encode,
        rounds=ROUNDS,
    )
    return sum(parts_s)


def _refreshing(
    first: Refresh, later: Sequence[Refresh], alone_s: float
) -> list[Result]:
    slowest = max(later, key=lambda refresh: refresh.duration_s)
    new = slowest.messages - slowest.reused
    return [
        maximum(
            f"first refresh of {first.messages:,}, to decode + rate + encode",
            first.duration_s / alone_s,
            FIRST_BOUND,
            f"{first.duration_s:.2f} s of {alone_s:.2f} s",
        ),
        maximum(
            "refresh with 1 % new messages, to the first",
            slowest.duration_s / first.duration_s,
            NEW_SHARE_BOUND,
            f"{slowest.duration_s:.2f} s, {new:,} new; slowest of {len(later)}",
        ),
    ]


def _memory(seen: Seen, few_bytes: int) -> Result:
    messages = seen.refreshes[-1].messages
    each = (seen.idle_bytes - few_bytes) / messages
    return maximum(
        f"idle memory, to {BYTES_PER_MESSAGE} bytes a message",
        each / BYTES_PER_MESSAGE,
        1,
        f"{each:,.0f} bytes a message after {len(seen.refreshes)} refreshes",
    )


def _small(small: Small, seen: Seen) -> list[Result]:
    """Both bounds on one small request's p99."""
    answers = seen.answers[small.name]
    during, at_rest = _split(answers, seen.refreshes)
    bad = sum(one.status != small.status for one in answers)
    if bad or not during or not at_rest:
        reason = f"{len(during)} during, {bad} not {small.status}"
        return [unmeasured(f"{small.name}, p99", reason)]
    p99_ms, rest_ms = percentile_ms(during, 99), percentile_ms(at_rest, 99)
    note = f"{p99_ms:.1f} ms during refreshes ({len(during):,} requests)"
    return [
        maximum(
            f"{small.name}: p99 to {P99_BOUND_MS} ms", p99_ms / P99_BOUND_MS, 1, note
        ),
        maximum(
            f"{small.name}: p99 to that at rest",
            p99_ms / rest_ms,
            P99_BOUND,
            f"{rest_ms:.1f} ms at rest ({len(at_rest):,} requests)",
        ),
    ]


def _split(
    answers: Sequence[Answer], refreshes: Sequence[Refresh]
) -> tuple[list[Answer], list[Answer]]:
    """Those during a refresh, and those at rest."""
    during: list[Answer] = []
    at_rest: list[Answer] = []
    for answer in answers:
        is_during = any(refresh.covers(answer) for refresh in refreshes)
        (during if is_during else at_rest).append(answer)
    return during, at_rest


def _watch_refreshes(upstream: Server) -> Seen:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output, _patient_service(upstream, output) as server:
            get(f"{server.url}/usage/daily")
            for small in SMALL:
                _probe(server, small)
            answers = _send_all(server)
            time.sleep(QUIET_S)
            idle_bytes = resident_bytes(server.pid)
        refreshes = list(_refreshes_in(log))
    return Seen(refreshes, answers, idle_bytes)


@contextmanager
def _patient_service(upstream: Server, output: int | IO[bytes]) -> Iterator[Server]:
    with service(
        upstream.url,
        cores=CORES,
        output=output,
        cache__ttl_s=str(TTL_S),
        **PATIENT,
    ) as server:
        yield server


def _send_all(server: Server) -> dict[str, list[Answer]]:
    """All small requests, each at its rate, at the same time."""

    def send(small: Small) -> list[Answer]:
        url = server.url + small.path
        return constant_rate.run(url, small.per_s, LOAD_S, headers=small.headers)

    with ThreadPoolExecutor(len(SMALL)) as pool:
        answers = pool.map(send, SMALL)
        return {small.name: each for small, each in zip(SMALL, answers, strict=True)}


def _probe(server: Server, small: Small) -> None:
    """Be sure of the small answer: by the hundred, whole periods would be too much."""
    try:
        get(server.url + small.path, small.headers)
        status = 200
    except HTTPError as error:
        status = error.code
    if status != small.status:
        raise Missing(f"{small.name} is answered with {status}")


def _idle_bytes_of_few() -> int:
    with (
        growing_upstream(FEW_MESSAGES) as upstream,
        _patient_service(upstream, subprocess.DEVNULL) as server,
    ):
        get(f"{server.url}/usage/daily")
        time.sleep(QUIET_S)
        return resident_bytes(server.pid)


@contextmanager
def growing_upstream(messages: int) -> Iterator[Server]:
    """Run an upstream whose period grows by one percent at each fetch."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    module = [sys.executable, "-m", "benchmarks.load.growing"]
    # It shares a core with the clients, which must not wait for it: their waits would
    # count as those of the service.
    command = [*LAST_IN_TURN, *module, str(messages), str(port)]
    with running(pinned([LOAD_CORE], command), url) as one:
        yield one


def _refreshes_in(log: Path) -> Iterator[Refresh]:
    decode = msgspec.json.Decoder(Refresh).decode
    with log.open("rb") as lines:
        for line in lines:
            if b'"usage.refresh.finished"' in line:
                yield decode(line)
