"""Bulk pricing on two cores, against rating on one core.

The input has 5,000,000 messages of 60 characters, or as many as PRICE_MESSAGES says. It
is written into a temporary folder, which is removed at the end.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rating import CHARACTERS, question
from benchmarks.report import Result, maximum, minimum, unmeasured
from service.usage.pricing.plans import TEXT_RULES

MESSAGES: Final = 5_000_000
WORKERS: Final = 2
ROUNDS: Final = 3
WANTED_RATIO: Final = 1.6
MAX_MEMORY_MB: Final = 1024
GROUP_ROWS: Final = 250_000
POOL: Final = 100_000
PASSES: Final = 20
"""Passes of rating, whose mean counts: a short one may find the machine idle."""
DAYS: Final = 30
MS_PER_DAY: Final = 86_400_000
FIRST_MS: Final = 1_714_348_800_000
SAMPLED_EVERY_S: Final = 0.05
COMMAND: Final = ("-m", "service", "price")
RAY_PYTHON: Final = Path(__file__).parents[1] / ".venv-ray" / "bin" / "python"
WANTED_OF_LOCAL: Final = 0.8
ON_RAY: Final = "Ray, 2 workers of this machine: to local"

SCHEMA: Final = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("timestamp", pa.string()),
        ("report_id", pa.int64()),
    ]
)


class Run(NamedTuple):
    """What one run of the command has taken."""

    wall_s: float
    processor_s: float
    memory_mb: float
    """Peak of all its processes, shared memory counted once."""
    manifest: dict[str, Any]


def write_input(path: Path, messages: int) -> None:
    """Write messages in order of their times, whose texts hardly repeat."""
    source, chance = random.Random(7), np.random.default_rng(7)
    pool = np.array([question(source).encode() for _ in range(POOL)])
    characters = pool.view(np.uint8).reshape(POOL, CHARACTERS)
    half = CHARACTERS // 2
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for begin in range(0, messages, GROUP_ROWS):
            ids = np.arange(begin, min(begin + GROUP_ROWS, messages))
            first, second = chance.integers(0, POOL, (2, len(ids)))
            texts = np.hstack([characters[first, :half], characters[second, half:]])
            times = FIRST_MS + ids * DAYS * MS_PER_DAY // messages
            columns = [pa.array(ids), _to_strings(texts), _to_stamps(times)]
            columns.append(pa.nulls(len(ids), pa.int64()))
            writer.write_table(pa.table(columns, schema=SCHEMA))


def _to_strings(characters: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    rows, length = characters.shape
    offsets = (np.arange(rows + 1) * length).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(characters.tobytes())]
    return pa.Array.from_buffers(pa.string(), rows, buffers)


def _to_stamps(times: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    stamps = np.datetime_as_string(times.astype("datetime64[ms]"), unit="ms")
    return pa.array(np.char.add(stamps, "Z"))


def price(source: Path, output: Path, engine: str = "local") -> Run:
    """Run the command, and measure it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    arguments = [str(source), "--output", str(output), "--workers", str(WORKERS)]
    python = RAY_PYTHON if engine == "ray" else sys.executable
    command = [str(python), *COMMAND, *arguments, "--force", "--engine", engine]
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,  # noqa: S603
        peak_memory(process.pid) as peak,
    ):
        process.wait()
    wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = sum(
        getattr(after, each) - getattr(before, each)
        for each in ("ru_utime", "ru_stime")
    )
    manifest = json.loads((output / "manifest.json").read_bytes())
    return Run(wall_s, processor_s, max(peak), manifest)


@contextmanager
def peak_memory(pid: int) -> Iterator[list[float]]:
    """Collect the memory of a process and its children, in MB."""
    samples, is_done = [0.0], threading.Event()

    def sample() -> None:
        while not is_done.wait(SAMPLED_EVERY_S):
            samples.append(sum(map(_proportional_mb, _tree(pid))))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        is_done.set()
        thread.join()


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for each in map(int, children):
        yield from _tree(each)


def _proportional_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    (line,) = (each for each in lines if each.startswith("Pss:"))
    return int(line.split()[1]) / 1024


class Rate(NamedTuple):
    """Seconds of one core for a message: by the clock, and of the processor."""

    wall_s: float
    processor_s: float


def rate_once() -> Rate:
    """Return what rating takes on one core."""
    source = random.Random(7)
    texts = [question(source) for _ in range(POOL)]
    TEXT_RULES.rate(texts)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(PASSES):
        TEXT_RULES.rate(texts)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Rate(wall / PASSES / POOL, processor / PASSES / POOL)


def run() -> list[Result]:
    """Messages a second, and the memory, in interleaved rounds."""
    messages = int(os.environ.get("PRICE_MESSAGES", MESSAGES))
    with tempfile.TemporaryDirectory(prefix="price-") as folder:
        source, empty = Path(folder) / "in.parquet", Path(folder) / "empty.parquet"
        write_input(source, messages)
        write_input(empty, 0)
        rates, starts, runs = [], [], []
        ray_starts, ray_runs = [], []
        for _ in range(ROUNDS if messages <= MESSAGES else 1):
            rates.append(rate_once())
            starts.append(price(empty, Path(folder) / "nothing"))
            runs.append(price(source, Path(folder) / "out"))
            rates.append(rate_once())
            if RAY_PYTHON.exists():
                ray_starts.append(price(empty, Path(folder) / "nothing", "ray"))
                ray_runs.append(price(source, Path(folder) / "out", "ray"))
    on_ray = compare(starts, runs, ray_starts, ray_runs)
    return [*report(messages, rates, starts, runs), on_ray]


def compare(
    starts: list[Run], runs: list[Run], ray_starts: list[Run], ray_runs: list[Run]
) -> Result:
    """Compare Ray with the local engine by the clock, without the starts."""
    if not ray_runs:
        return unmeasured(ON_RAY, "no .venv-ray; make ray")
    local_s = min(e.wall_s for e in runs) - min(e.wall_s for e in starts)
    ray_start_s = min(e.wall_s for e in ray_starts)
    ray_s = min(e.wall_s for e in ray_runs) - ray_start_s
    note = f"without {ray_start_s:.1f} s for the start of Ray"
    return minimum(ON_RAY, local_s / ray_s, WANTED_OF_LOCAL, note)


def report(
    messages: int, rates: list[Rate], starts: list[Run], runs: list[Run]
) -> list[Result]:
    """Compare the fastest rounds; what a start takes is not counted."""
    wall_s = min(e.wall_s for e in runs) - min(e.wall_s for e in starts)
    processor_s = min(e.processor_s for e in runs) - min(e.processor_s for e in starts)
    rated_wall_s = min(each.wall_s for each in rates)
    rated_s = min(each.processor_s for each in rates)
    each_s = min(e.wall_s for e in starts)
    return [
        minimum(
            "local, 2 workers: to rating on one core",
            rated_wall_s * messages / wall_s,
            WANTED_RATIO,
            f"{messages / wall_s:,.0f} a second, rating {1 / rated_wall_s:,.0f}; "
            f"without {each_s:.1f} s for the start",
        ),
        minimum(
            "the same by processor time, as on two idle cores",
            WORKERS * rated_s * messages / processor_s,
            WANTED_RATIO,
            f"{processor_s / messages * 1e9:,.0f} ns a message, "
            f"rating {rated_s * 1e9:,.0f} ns",
        ),
        maximum(
            "peak memory of all processes, in MB",
            max(each.memory_mb for each in runs),
            MAX_MEMORY_MB,
            f"{messages:,} messages of {CHARACTERS} characters",
        ),
    ]
