"""Soak test of bulk pricing: 100,000,000 messages, with kills in between.

PRICE_MESSAGES sets the number of messages, and PRICE_SEED the moments of the kills. The
figures are printed; only the memory and the equal output are demanded.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.price import (
    COMMAND,
    MAX_MEMORY_MB,
    WORKERS,
    price,
    rate_once,
    write_input,
)
from benchmarks.price import report as compare

MESSAGES: Final = int(os.environ.get("PRICE_MESSAGES", "100000000"))
SEED: Final = int(os.environ.get("PRICE_SEED", time.time_ns() % 10_000))
KILLS: Final = 3
BYTES_PER_MESSAGE: Final = 160
"""Input, work and two outputs."""


def test_large_input_with_kills(tmp_path: Path) -> None:
    """Memory is bounded, and a run that was killed writes the same bytes."""
    print(f"\nPRICE_SEED={SEED} PRICE_MESSAGES={MESSAGES}")  # noqa: T201
    free = shutil.disk_usage(tmp_path).free
    assert free > MESSAGES * BYTES_PER_MESSAGE, f"only {free:,} bytes are free"
    source, empty = tmp_path / "in.parquet", tmp_path / "empty.parquet"
    try:
        write_input(source, MESSAGES)
        write_input(empty, 0)
        start, rates = price(empty, tmp_path / "nothing"), [rate_once()]
        whole = price(source, tmp_path / "out")
        rates.append(rate_once())
        for each in compare(MESSAGES, rates, [start], [whole]):
            print(f"{each.name}: {each.measured} {each.target} {each.note}")  # noqa: T201
        kill_at_random(source, tmp_path / "killed", whole.wall_s)
        continued = price(source, tmp_path / "killed")
    finally:
        shutil.rmtree(tmp_path)
    assert whole.manifest["messages"] == MESSAGES
    assert whole.manifest["digest"] == continued.manifest["digest"]
    assert whole.memory_mb <= MAX_MEMORY_MB


def kill_at_random(source: Path, output: Path, whole_s: float) -> None:
    """Start the command, and kill it after a random time, several times."""
    chance = random.Random(SEED)
    arguments = [str(source), "--output", str(output), "--workers", str(WORKERS)]
    for _ in range(KILLS):
        with subprocess.Popen(  # noqa: S603
            [sys.executable, *COMMAND, *arguments], stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(chance.uniform(0, whole_s / KILLS))
            except subprocess.TimeoutExpired:
                process.kill()
