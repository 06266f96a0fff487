"""Comparison of two trees: pairs of measurements in turns, and the rule for them.

The sides are measured in the order A B B A, so that a machine that slows down or
speeds up favours neither. Each pair gives a ratio, above 1 where this checkout is
better. The median ratio is the result; the noise is the median distance of the ratios
from it (MAD). A figure is worse if the result is below 1 by more than twice the noise,
and by more than 3 %. It fails a run if it is worse twice.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from subprocess import SubprocessError
from typing import Final, Literal, NamedTuple

from benchmarks.load.processes import Missing, Tree

SMALLEST_CHANGE: Final = 0.03
"""Two processes of the same code differ by so much: where their memory lies."""
NOISE_FACTOR: Final = 2
MIN_ROUNDS: Final = 4
UNMEASURED: Final = (Missing, OSError, SubprocessError)

Verdict = Literal["same", "better", "worse"]


class Figure(NamedTuple):
    """One number that a side is measured by."""

    name: str
    unit: str
    is_more_better: bool = False
    pairs: int = 1
    """Pairs of one round."""


class Pair(NamedTuple):
    """Value of this checkout and of the other revision, one right after the other."""

    own: float
    other: float


Samplers = Mapping[Figure, Callable[[], float]]
OpenSide = Callable[[Tree], AbstractContextManager[Samplers]]
Group = Callable[[], AbstractContextManager[OpenSide]]
"""Figures that are measured with the same processes; it starts what both sides need."""


class Unmeasured(Exception):
    """A group could not be measured; `is_own` says on which side."""

    def __init__(self, reason: Exception, *, is_own: bool) -> None:
        super().__init__(str(reason))
        self.is_own = is_own


class Compared(NamedTuple):
    """Result of one figure."""

    figure: Figure
    pairs: Sequence[Pair]

    @property
    def ratios(self) -> list[float]:
        """Ratio of each pair, above 1 where this checkout is better."""
        if self.figure.is_more_better:
            return [pair.own / pair.other for pair in self.pairs]
        return [pair.other / pair.own for pair in self.pairs]

    @property
    def ratio(self) -> float:
        """Median ratio."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """Median distance of the ratios from their median."""
        return statistics.median(abs(each - self.ratio) for each in self.ratios)

    @property
    def verdict(self) -> Verdict:
        """Judgement by the rule at the top of this module."""
        allowed = max(NOISE_FACTOR * self.noise, SMALLEST_CHANGE)
        if self.ratio < 1 - allowed:
            return "worse"
        return "better" if self.ratio > 1 + allowed else "same"


def compare(
    group: Group, own: Tree, other: Tree, *, rounds: int, max_s: float
) -> list[Compared]:
    """Measure a group of figures on both trees.

    After `max_s` no further round begins, once there are a few. Raises `Unmeasured`.
    """
    pairs: dict[Figure, list[Pair]] = {}
    ends_at = time.monotonic() + max_s
    with _blaming(is_own=True), group() as open_side:
        for number in range(rounds):
            if number >= MIN_ROUNDS and time.monotonic() > ends_at:
                break
            for figure, pair in _round(open_side, own, other, number):
                pairs.setdefault(figure, []).append(pair)
    return [Compared(figure, measured) for figure, measured in pairs.items()]


def _round(
    open_side: OpenSide, own: Tree, other: Tree, number: int
) -> Iterator[tuple[Figure, Pair]]:
    """Measure each figure on fresh processes of both sides."""
    with ExitStack() as stack:
        own_samplers = stack.enter_context(open_side(own))
        with _blaming(is_own=False):
            other_samplers = stack.enter_context(open_side(other))
        for figure, sample in own_samplers.items():
            for turn in range(number, number + figure.pairs):
                yield figure, _pair(sample, other_samplers[figure], turn)


def _pair(
    sample: Callable[[], float], sample_other: Callable[[], float], turn: int
) -> Pair:
    """Sample both sides; on odd turns the other one first."""
    own = sample() if turn % 2 == 0 else None
    with _blaming(is_own=False):
        other = sample_other()
    return Pair(sample() if own is None else own, other)


@contextmanager
def _blaming(*, is_own: bool) -> Iterator[None]:
    """Translate what keeps a side from being measured into `Unmeasured`."""
    try:
        yield
    except UNMEASURED as error:
        raise Unmeasured(error, is_own=is_own) from error
