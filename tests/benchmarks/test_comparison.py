"""Comparison of two trees: the order of measurements, the rule, and the exit status."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from benchmarks.gate import figures
from benchmarks.gate.comparison import (
    MIN_ROUNDS,
    Compared,
    Figure,
    Group,
    OpenSide,
    Pair,
    Samplers,
    Unmeasured,
    Verdict,
    compare,
)
from benchmarks.gate.run import ROUNDS, compare_all, show
from benchmarks.load.processes import OWN_TREE, Missing, Tree

OWN: Final = Tree(Path("own"), Path("python"))
OTHER: Final = Tree(Path("other"), Path("python"))
RATE: Final = Figure("answers", "per second", is_more_better=True, pairs=2)
TIME: Final = Figure("refresh", "ms")
FOREVER_S: Final = 3_600.0

Sample = Callable[[str], float]


def group_of(figure: Figure, sample: Sample, events: list[str] | None = None) -> Group:
    """A group of one figure; `sample` is given the name of the side."""
    seen = events if events is not None else []

    @contextmanager
    def group() -> Iterator[OpenSide]:
        @contextmanager
        def open_side(tree: Tree) -> Iterator[Samplers]:
            seen.append(f"open {tree.root}")
            yield {figure: lambda: sample(str(tree.root))}
            seen.append(f"close {tree.root}")

        yield open_side

    return group


def failing_on(name: str) -> Sample:
    """A sample that one side does not give."""

    def sample(side: str) -> float:
        if side == name:
            raise Missing("no such endpoint")
        return 1.0

    return sample


# --- measuring ----------------------------------------------------------------------


def test_sides_take_turns_on_fresh_processes() -> None:
    """The order is A B B A, and B A A B in the next round, in which both are new."""
    events: list[str] = []

    def sample(side: str) -> float:
        events.append(side)
        return 1.0

    compare(group_of(RATE, sample, events), OWN, OTHER, rounds=2, max_s=FOREVER_S)

    opened, closed = ["open own", "open other"], ["close other", "close own"]
    first = [*opened, "own", "other", "other", "own", *closed]
    second = [*opened, "other", "own", "own", "other", *closed]
    assert events == first + second


def test_values_stay_on_their_side() -> None:
    """A pair holds this checkout's value first, whichever was measured first."""
    values = {"own": 1.0, "other": 2.0}
    group = group_of(TIME, values.__getitem__)

    (compared,) = compare(group, OWN, OTHER, rounds=2, max_s=FOREVER_S)

    assert compared.pairs == [Pair(1.0, 2.0)] * 2


def test_no_round_begins_after_the_time() -> None:
    """A slow machine gets fewer rounds, but a few."""
    group = group_of(TIME, lambda _side: 1.0)

    (compared,) = compare(group, OWN, OTHER, rounds=100, max_s=0.0)

    assert len(compared.pairs) == MIN_ROUNDS


@pytest.mark.parametrize("side", ["own", "other"])
def test_a_failure_names_its_side(side: str) -> None:
    """A figure that cannot be measured tells in which tree."""
    group = group_of(TIME, failing_on(side))

    with pytest.raises(Unmeasured, match="no such endpoint") as raised:
        compare(group, OWN, OTHER, rounds=1, max_s=FOREVER_S)

    assert raised.value.is_own is (side == "own")


def test_no_side_fetches_before_its_first_request(tmp_path: Path) -> None:
    """A side of a version that fetches at its start is told not to."""
    older = tmp_path / "config" / "default.toml"
    older.parent.mkdir()
    older.write_text("[health]\n")
    assert figures._cold(OWN_TREE) == {"health__warm_up": "false"}
    assert figures._cold(Tree(tmp_path, Path("python"))) == {}


def test_the_real_service_is_measured() -> None:
    """The first refresh is timed on processes of both sides."""
    group = figures.small

    (compared,) = compare(group, OWN_TREE, OWN_TREE, rounds=1, max_s=FOREVER_S)

    assert compared.figure is figures.SMALL
    assert min(compared.pairs[0]) > 0


# --- the rule -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "own, verdict, ratio, noise",
    [
        pytest.param([94, 94, 94, 94], "worse", 0.94, 0, id="6 % without noise"),
        pytest.param([98, 98, 98, 98], "same", 0.98, 0, id="2 % without noise"),
        pytest.param([106, 106, 106, 106], "better", 1.06, 0, id="faster"),
        pytest.param([84, 84, 96, 96], "same", 0.9, 0.06, id="within twice the noise"),
        pytest.param([87, 87, 91, 91], "worse", 0.89, 0.02, id="beyond it"),
        pytest.param([10, 99, 100, 101], "same", 0.995, 0.01, id="one outlier"),
    ],
)
def test_the_rule(
    own: list[float], verdict: Verdict, ratio: float, noise: float
) -> None:
    """Worse is what is below 1 by more than 3 % and than twice the noise."""
    compared = Compared(RATE, [Pair(each, 100) for each in own])

    assert compared.ratio == pytest.approx(ratio)
    assert compared.noise == pytest.approx(noise)
    assert compared.verdict == verdict


@pytest.mark.parametrize("figure, verdict", [(RATE, "better"), (TIME, "worse")])
def test_more_is_not_always_better(figure: Figure, verdict: Verdict) -> None:
    """Twice the rate is better, twice the time is worse."""
    assert Compared(figure, [Pair(2, 1)] * 4).verdict == verdict


# --- the outcome --------------------------------------------------------------------


@pytest.mark.parametrize(
    "sample, status, told",
    [
        pytest.param(
            lambda _side: 1.0, 0, "worse beyond the noise: no figure", id="same"
        ),
        pytest.param(
            lambda side: 2.0 if side == "own" else 1.0,
            1,
            "worse beyond the noise: refresh",
            id="worse",
        ),
        pytest.param(
            failing_on("own"),
            2,
            "a group: not measured in this checkout: no such endpoint",
            id="lost",
        ),
        pytest.param(
            failing_on("other"),
            0,
            "a group: not measured in v1: no such endpoint",
            id="new",
        ),
    ],
)
def test_the_exit_status(
    sample: Sample, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Worse figures, and those that only this checkout lacks, fail the gate."""
    outcome = compare_all({"a group": group_of(TIME, sample)}, OWN, OTHER)
    show("v1", outcome)

    assert outcome.status == status
    assert told in capsys.readouterr().out.splitlines()


def test_an_accident_is_measured_again() -> None:
    """A figure that looks worse once, and not with new processes, is not worse."""
    own_values = itertools.chain([2.0] * ROUNDS, itertools.repeat(1.0))
    group = group_of(TIME, lambda side: next(own_values) if side == "own" else 1.0)

    outcome = compare_all({"a group": group}, OWN, OTHER)

    assert next(own_values) == 1.0
    assert outcome.compared == [Compared(TIME, [Pair(1.0, 1.0)] * ROUNDS)]
    assert outcome.status == 0


def test_the_table_has_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    """A line has the figure, both medians, the ratio, the noise and the verdict."""
    values = {"own": 50.0, "other": 100.0}
    groups = {"a group": group_of(TIME, values.__getitem__)}
    show("v1", compare_all(groups, OWN, OTHER))

    heading, line, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["this", "checkout", "v1", "ratio", "noise", "pairs"]
    assert line.split() == [
        "refresh",
        "ms",
        "50",
        "100",
        "2.000",
        "0.0%",
        "6",
        "better",
    ]
