"""Keeping of periods: writes in the background, what they delay, and cold requests.

A service keeps a period of a million messages that grows by one percent at each
refresh. The same service without keeping runs in turns with it. Cold requests are on 36
closed periods of a tenth of that; `PERIODS_MESSAGES` is another size, and `make soak`
takes a million.
"""

import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks import kept_pages
from benchmarks.big_period import PATIENT, UNMEASURED, growing_upstream
from benchmarks.load import constant_rate
from benchmarks.load.processes import CORES, Missing, Server, get, service
from benchmarks.report import Result, maximum, unmeasured

MESSAGES: Final = 1_000_000
LOOKED_UP: Final = int(os.environ.get("PERIODS_MESSAGES", "100000"))
ROUNDS: Final = 2
TTL_S: Final = 10
LOAD_S: Final = 45.0
RATE_PER_S: Final = 50
FIRST_WRITE_S: Final = 120.0
POLL_S: Final = 0.001
MAX_GAP_S: Final = 0.01
"""After a longer pause of the watch itself, one lock cannot be told from the next."""

FIRST_WRITE_BOUND_S: Final = 30
LOCK_BOUND_MS: Final = 50
REVISION_BOUND_S: Final = 0.5
BYTES_BOUND: Final = 120
PAGE_BOUND_MS: Final = 50
DAILY_BOUND_MS: Final = 20
DELAY_BOUND: Final = 1.05


class Entry(msgspec.Struct):
    """An entry of the log: of a refresh, or of what was kept of it."""

    event: str
    timestamp: datetime
    revision: str = ""
    duration_s: float = 0
    reused: int = 0


class Run(NamedTuple):
    """What one run of the service has shown."""

    refreshes: list[float]
    """Seconds of each refresh after the first."""
    answers_us: list[int]
    first_write_s: float | None = None
    revisions_s: Sequence[float] = ()
    locked_s: float = 0
    file_bytes: int = 0
    messages: int = 0


def run() -> list[Result]:
    """Keeping, what it delays, and cold requests; or why they were not measured."""
    results = []
    for measure in (_keeping, _cold_requests):
        try:
            results += measure()
        except UNMEASURED as error:
            results.append(unmeasured(measure.__name__.strip("_"), error))
    return results


def _keeping() -> list[Result]:
    with growing_upstream(MESSAGES) as upstream:
        runs = [
            (_watch(upstream, f"off{each}", None), _kept_run(upstream, f"on{each}"))
            for each in range(ROUNDS)
        ]
    off, on = ([pair[side] for pair in runs] for side in range(2))
    return [*_writes(on), *_delays(off, on)]


def _kept_run(upstream: Server, prefix: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        return _watch(upstream, prefix, Path(folder) / "kept.db")


def _writes(runs: Sequence[Run]) -> list[Result]:
    first_s = max(each.first_write_s or FIRST_WRITE_S for each in runs)
    revisions = [each for run in runs for each in run.revisions_s]
    locked_ms = max(each.locked_s for each in runs) * 1_000
    last = runs[-1]
    each_bytes = last.file_bytes / last.messages
    if not revisions:
        raise Missing("no revision was kept after the first one")
    slowest_s = max(revisions)
    return [
        maximum(
            f"first write of {MESSAGES:,} messages, to {FIRST_WRITE_BOUND_S} s",
            first_s / FIRST_WRITE_BOUND_S,
            1,
            f"{first_s:.1f} s after its refresh, in the background",
        ),
        maximum(
            f"longest lock of the database, to {LOCK_BOUND_MS} ms",
            locked_ms / LOCK_BOUND_MS,
            1,
            f"{locked_ms:.0f} ms, as another process sees it",
        ),
        maximum(
            f"revision with 1 % new messages, to {REVISION_BOUND_S} s",
            slowest_s / REVISION_BOUND_S,
            1,
            f"{statistics.median(revisions):.2f} s, slowest {slowest_s:.2f} s of "
            f"{len(revisions)}, after the refresh",
        ),
        maximum(
            f"bytes a message on disk, to {BYTES_BOUND}",
            each_bytes / BYTES_BOUND,
            1,
            f"{each_bytes:.0f} bytes, with all changes",
        ),
    ]


def _delays(off: Sequence[Run], on: Sequence[Run]) -> list[Result]:
    refresh = [
        statistics.median(each for run in runs for each in run.refreshes)
        for runs in (off, on)
    ]
    answer = [
        statistics.median(each for run in runs for each in run.answers_us)
        for runs in (off, on)
    ]
    return [
        maximum(
            "refresh with keeping, to one without",
            refresh[1] / refresh[0],
            DELAY_BOUND,
            f"{refresh[1]:.2f} s of {refresh[0]:.2f} s, medians",
        ),
        maximum(
            "cached answer with keeping, to one without",
            answer[1] / answer[0],
            DELAY_BOUND,
            f"{answer[1] / 1_000:.2f} ms of {answer[0] / 1_000:.2f} ms, medians",
        ),
    ]


def _watch(upstream: Server, prefix: str, file: Path | None) -> Run:
    """Run the service under a load of cached answers; keep periods in the file."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output, _locks_of(file) as locked:
            settings: dict[str, Any] = {} if file is None else _keeping_settings(file)
            with service(
                f"{upstream.url}/{prefix}",
                cores=CORES,
                output=output,
                cache__ttl_s=str(TTL_S),
                **PATIENT,
                **settings,
            ) as server:
                get(f"{server.url}/usage/daily")
                if file is not None:
                    _wait_for(log, "usage.period_opened")
                answers = constant_rate.run(
                    f"{server.url}/usage",
                    RATE_PER_S,
                    LOAD_S,
                    headers={"If-None-Match": "*"},
                )
        entries = list(_entries_in(log))
    refreshes = [each for each in entries if each.event == "usage.refresh.finished"]
    run = Run(
        [each.duration_s for each in refreshes if each.reused],
        [each.taken_us for each in answers],
    )
    if file is None:
        return run
    with closing(sqlite3.connect(file)) as connection:
        (messages,) = connection.execute(
            "SELECT messages FROM usage_periods"
        ).fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    first, revisions = _writes_in(entries)
    return run._replace(
        first_write_s=first,
        revisions_s=revisions,
        locked_s=max(locked, default=0),
        file_bytes=file.stat().st_size,
        messages=messages,
    )


def _keeping_settings(file: Path) -> dict[str, Any]:
    return {
        "periods__enabled": "true",
        "storage__url": f"sqlite+aiosqlite:///{file}",
    }


def _writes_in(entries: Sequence[Entry]) -> tuple[float | None, list[float]]:
    """Return the seconds from a refresh to its first write, and to each revision.

    A revision whose snapshot waited for another one to be written does not count.
    """
    finished = {
        each.revision: each.timestamp
        for each in entries
        if each.event == "usage.refresh.finished"
    }
    first, revisions, free_at = None, [], datetime.min.replace(tzinfo=UTC)
    for each in entries:
        if each.event not in {"usage.period_opened", "usage.period_kept"}:
            continue
        since = finished[each.revision]
        taken_s = (each.timestamp - since).total_seconds()
        if each.event == "usage.period_opened":
            first = taken_s
        elif since > free_at:
            revisions.append(taken_s)
        free_at = each.timestamp
    return first, revisions


@contextmanager
def _locks_of(file: Path | None) -> Iterator[list[float]]:
    """Yield the seconds of each time in which another process could not write."""
    locked: list[float] = []
    ended = threading.Event()

    def watch(file: Path) -> None:
        while not ended.is_set() and not file.exists():
            time.sleep(POLL_S)
        with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as probe:
            since = tried = None
            while not ended.wait(POLL_S):
                now = time.perf_counter()
                if tried is None or now - tried > MAX_GAP_S:
                    since = None
                tried = now
                if _can_write(probe):
                    since = None
                    continue
                since = since or now
                locked.append(now - since)

    watching = threading.Thread(target=watch, args=(file,), daemon=True)
    if file is not None:
        watching.start()
    yield locked
    ended.set()
    if file is not None:
        watching.join()


def _can_write(probe: sqlite3.Connection) -> bool:
    try:
        probe.execute("BEGIN IMMEDIATE")
        probe.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    return True


def _cold_requests() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kept.db"
        with (
            growing_upstream(LOOKED_UP) as upstream,
            (Path(folder) / "log").open("wb") as output,
            service(
                upstream.url,
                cores=CORES,
                output=output,
                **PATIENT,
                **_keeping_settings(file),
            ) as server,
        ):
            get(f"{server.url}/usage/daily")
            _wait_for(Path(folder) / "log", "usage.period_opened")
        kept_pages.copy_period(file)
        taken = kept_pages.measure(file)
    page_ms = statistics.quantiles(taken.pages, n=100)[-1] * 1_000
    daily_ms = max(taken.daily) * 1_000
    among = f"{kept_pages.PERIODS} periods of {taken.messages:,}"
    return [
        maximum(
            f"page of 100 among {among}, cold: p99 to {PAGE_BOUND_MS} ms",
            page_ms / PAGE_BOUND_MS,
            1,
            f"{page_ms:.1f} ms, median {statistics.median(taken.pages) * 1_000:.1f} ms",
        ),
        maximum(
            f"daily sums of one of them, cold, to {DAILY_BOUND_MS} ms",
            daily_ms / DAILY_BOUND_MS,
            1,
            f"{daily_ms:.1f} ms, slowest of {len(taken.daily)}",
        ),
    ]


def _wait_for(log: Path, event: str) -> None:
    deadline = time.monotonic() + FIRST_WRITE_S
    while not any(each.event == event for each in _entries_in(log)):
        if time.monotonic() > deadline:
            raise Missing(f"no {event} in {FIRST_WRITE_S:.0f} s")
        time.sleep(0.1)


def _entries_in(log: Path) -> Iterator[Entry]:
    decode = msgspec.json.Decoder(Entry).decode
    with log.open("rb") as lines:
        for line in lines:
            if line.endswith(b"}\n") and b'"usage.' in line:
                yield decode(line)
