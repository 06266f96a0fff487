"""Answers to look-ups that are prepared again each second, by whatever clock."""

import itertools
from typing import Any

import pytest

from service.instants import now_us
from service.vehicles import repeats
from service.vehicles.model import Entry, Vehicle, Vin
from service.vehicles.repeats import Block, RepeatedLookup

VIN = Vin("1XPWD40X1ED215307")


class Clocks:
    """The wall clock and the monotonic one, passed by hand."""

    def __init__(self) -> None:
        self.wall_s = now_us() / 1_000_000
        self.monotonic_s = 1_000.0

    def time(self) -> float:
        """Return the seconds since 1970."""
        return self.wall_s

    def monotonic(self) -> float:
        """Return the seconds since some moment."""
        return self.monotonic_s

    def pass_s(self, seconds: float) -> None:
        """Let so many seconds go by."""
        self.wall_s += seconds
        self.monotonic_s += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The clocks of prepared answers."""
    clocks = Clocks()
    monkeypatch.setattr(repeats, "time", clocks)
    return clocks


class Memory:
    """Look-ups that always find the same entry."""

    entry = Entry(Vehicle("", "", "", ""), now_us())

    def find_cached(self, _vin: Vin) -> Entry | None:
        """Return the entry."""
        return self.entry


def repeated(
    clocks: Clocks, slow_s: float = 0.0, *, needs_whole: bool = False
) -> RepeatedLookup:
    """Return an answer whose heads are the numbers of its preparations."""
    numbers = itertools.count()

    def make(_vin: Vin, _entry: Entry) -> Block:
        number = next(numbers)
        clocks.pass_s(slow_s)
        return 200, str(number).encode(), b""

    memory: Any = Memory()
    return RepeatedLookup(
        memory, "/vehicles/lookup", VIN, make, needs_whole=needs_whole
    )


def head_of(answer: RepeatedLookup) -> bytes:
    """Return the head of the present answer."""
    prepared = answer.prepare()
    assert prepared is not None
    return prepared.head


def test_an_answer_is_used_for_a_second_at_most(clocks: Clocks) -> None:
    """It is prepared again once its date or its age has changed."""
    answer = repeated(clocks)
    assert [head_of(answer), head_of(answer)] == [b"0", b"0"]
    clocks.pass_s(1.0)
    assert [head_of(answer), head_of(answer)] == [b"1", b"1"]


def test_a_wall_clock_that_is_set_back_prolongs_no_answer(clocks: Clocks) -> None:
    """Otherwise its date and its age would stand still for as long."""
    answer = repeated(clocks)
    assert head_of(answer) == b"0"
    clocks.wall_s -= 3_600.0
    clocks.pass_s(1.0)
    assert head_of(answer) == b"1"


def test_a_second_that_ends_meanwhile_is_not_prolonged(clocks: Clocks) -> None:
    """An answer may have the date of the second in which its preparation began."""
    clocks.wall_s = int(clocks.wall_s) + 0.999
    answer = repeated(clocks, slow_s=0.002)
    assert head_of(answer) == b"0"
    assert head_of(answer) == b"1"


def test_a_row_without_all_values_is_not_repeated(clocks: Clocks) -> None:
    """A look-up for more values has to complete it."""
    assert repeated(clocks, needs_whole=True).prepare() is None
