"""Latency at a constant rate as an HDR histogram: a text file and a plot."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from hdrh.histogram import HdrHistogram

from benchmarks.load.constant_rate import Answer, run

mpl.use("svg")
from matplotlib import pyplot as plt

PERCENTS: Final = (50, 75, 90, 95, 99, 99.9, 99.99, 100)
LONGEST_US: Final = 60_000_000
DIGITS: Final = 3
US_PER_MS: Final = 1_000
TICKS: Final = 5


def measure(host: str, path: str, rate: float, seconds: float) -> list[Answer]:
    """Send at a constant rate; prints statuses and percentiles."""
    answers = run(host + path, rate, seconds)
    statuses = Counter(answer.status for answer in answers)
    print(f"{path} at {rate:g} a second: {len(answers):,} answers, {dict(statuses)}")
    return answers


def problems_of(answers: Sequence[Answer]) -> list[str]:
    """Anything but 200."""
    bad = sum(answer.status != 200 for answer in answers)
    return [f"{bad} of {len(answers)} answers were no 200"] if bad else []


def report(answers: Sequence[Answer], title: str, folder: Path) -> None:
    """Print the percentiles; write `latency.hgrm` and `latency.svg` into the folder."""
    histogram = HdrHistogram(1, LONGEST_US, DIGITS)
    for answer in answers:
        histogram.record_value(min(answer.taken_us, LONGEST_US))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "latency.hgrm").open("wb") as file:
        histogram.output_percentile_distribution(file, US_PER_MS, TICKS)
    _plot(histogram, title, folder / "latency.svg")
    for percent in PERCENTS:
        print(f"  p{percent:<6g} {_ms(histogram, percent):9.3f} ms")
    print(f"  written: {folder / 'latency.hgrm'}, {folder / 'latency.svg'}")


def _ms(histogram: Any, percent: float) -> float:
    return float(histogram.get_value_at_percentile(percent)) / US_PER_MS


def _plot(histogram: Any, title: str, file: Path) -> None:
    """Percentiles on an axis where each further nine takes the same width."""
    count = histogram.get_total_count()
    rarity = [10 ** (step / 20) for step in range(200)]
    rarity = [one_in for one_in in rarity if one_in <= count] or [1.0]
    values = [_ms(histogram, 100 - 100 / one_in) for one_in in rarity]
    figure, axes = plt.subplots(figsize=(9, 5))
    axes.plot(rarity, values)
    axes.set_xscale("log")
    axes.set_yscale("log")
    nines = [tick for tick in (1, 10, 100, 1_000, 10_000, 100_000) if tick <= count]
    axes.set_xticks(nines, [f"{100 - 100 / tick:g} %" for tick in nines])
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axes.set(title=title, xlabel="percentile", ylabel="latency, ms")
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
