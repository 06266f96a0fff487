"""What the queue of log lines accepts, drops and counts."""

from collections import Counter

import pytest

from service.observability.line_queue import LINE_OVERHEAD_BYTES, Kind, LineQueue

MAX_BYTES = 64_000
TEXT = b"x" * (1_000 - LINE_OVERHEAD_BYTES)
"""Sixty-four of it fill the queue."""


class Waking:
    """A queue of 64 lines, and the number of times that it woke its thread."""

    def __init__(self) -> None:
        self.wakes = self.drops = 0
        self.queue = LineQueue(self._wake, self._drop, MAX_BYTES)

    def put(self, kind: Kind, lines: int) -> int:
        """Put lines, and return how many were accepted."""
        before = self.queue.dropped[kind]
        for _ in range(lines):
            self.queue.put(TEXT, kind)
        return lines - (self.queue.dropped[kind] - before)

    def _wake(self) -> None:
        self.wakes += 1

    def _drop(self) -> None:
        self.drops += 1


@pytest.fixture
def waking() -> Waking:
    """An empty queue, whose thread waits for lines."""
    return Waking()


def test_details_are_dropped_first_and_errors_last(waking: Waking) -> None:
    """Each kind is accepted up to its own share of the bound."""
    accepted = {kind: waking.put(kind, 100) for kind in Kind}

    assert accepted == {
        Kind.DETAIL: 48,
        Kind.INFO: 8,
        Kind.WARNING: 4,
        Kind.ERROR: 4,
        Kind.TEXT: 0,
    }
    assert waking.drops == sum(waking.queue.dropped.values()) == 500 - 64


def test_errors_are_accepted_while_details_are_dropped(waking: Waking) -> None:
    """A flood of steps leaves room for errors and warnings."""
    waking.put(Kind.DETAIL, 1_000)
    waking.put(Kind.INFO, 1_000)

    assert waking.put(Kind.WARNING, 2) == 2
    assert waking.put(Kind.ERROR, 2) == 2
    assert set(+waking.queue.dropped) == {Kind.DETAIL, Kind.INFO}


def test_taken_lines_count_until_they_are_settled(waking: Waking) -> None:
    """Lines that are being written take memory too."""
    waking.put(Kind.ERROR, 64)
    taken = waking.queue.take(MAX_BYTES)
    assert len(taken.lines) == 64
    assert waking.put(Kind.ERROR, 1) == 0

    waking.queue.release(taken)

    assert waking.put(Kind.ERROR, 100) == 64


def test_lines_that_were_not_written_are_counted(waking: Waking) -> None:
    """The writer says which of the taken lines are lost."""
    waking.put(Kind.DETAIL, 2)
    waking.put(Kind.INFO, 2)
    taken = waking.queue.take(MAX_BYTES)

    waking.queue.release(taken, lost=taken.lines[1:])

    assert +waking.queue.dropped == Counter({Kind.DETAIL: 1, Kind.INFO: 2})


@pytest.mark.parametrize(
    "max_bytes, sizes",
    [(10, [3, 3, 3]), (6, [3, 3]), (5, [3]), (1, [3])],
)
def test_a_write_has_whole_lines(max_bytes: int, sizes: list[int]) -> None:
    """As many lines are taken as fit with their line feeds; one at least."""
    queue = LineQueue(wake=lambda: None)
    for text in (b"aa", b"bb", b"cc"):
        queue.put(text, Kind.INFO)

    taken = queue.take(max_bytes)

    assert [len(text) + 1 for text, _ in taken.lines] == sizes
    assert taken.text_bytes == sum(sizes) - len(sizes)


def test_the_thread_is_woken_once_per_batch(waking: Waking) -> None:
    """Only the first line of a batch wakes the thread."""
    waking.put(Kind.INFO, 10)
    assert waking.wakes == 1

    waking.queue.keep_waking()
    waking.put(Kind.INFO, 10)
    assert waking.wakes == 2
