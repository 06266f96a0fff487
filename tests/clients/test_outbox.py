"""The queue in memory and in the spool."""

from pathlib import Path
from threading import Event, Thread
from unittest.mock import Mock

import pytest

from copilot_usage_client import outbox as outbox_module
from copilot_usage_client.outbox import MAX_BATCH_EVENTS, Outbox
from copilot_usage_client.spool import Spool
from tests.clients.conftest import spooled
from tests.clients.test_spool import lines
from tests.patience import GIVE_UP_S

MIB = 1024 * 1024


def take_all(outbox: Outbox) -> list[bytes]:
    """Take all batches, as if each was delivered."""
    taken: list[bytes] = []
    while batch := outbox.take():
        taken += batch.lines
        outbox.finish(batch)
    return taken


def codes(outbox: Outbox) -> list[tuple[str, int]]:
    """Return the codes and numbers of the problems."""
    return [(each.code, each.events) for each in outbox.next_problems(is_last=True)]


@pytest.mark.parametrize("max_bytes", [1, 20_000, 300_000, 100 * MIB])
def test_what_memory_has_no_room_for_goes_to_the_spool(
    max_bytes: int, spool_dir: Path
) -> None:
    """Every event comes out once and in order, whatever fits into memory."""
    outbox, events = Outbox(spool_dir, max_bytes, 100 * MIB), lines(range(3_000))
    for line in events:
        assert outbox.put(line)
        assert outbox.memory_bytes <= max(max_bytes, 2 * (len(line) + 64))

    assert take_all(outbox) == events
    assert outbox.is_empty()
    assert codes(outbox) == []


def test_beyond_both_bounds_events_are_dropped_and_counted(spool_dir: Path) -> None:
    """What was accepted is kept; the others are counted, and reported together."""
    outbox, events = Outbox(spool_dir, 50_000, 100_000), lines(range(10_000))
    accepted = [line for line in events if outbox.put(line)]

    assert 0 < len(accepted) < 5_000
    assert take_all(outbox) == accepted
    assert outbox.dropped == len(events) - len(accepted)
    assert codes(outbox) == [("dropped", outbox.dropped)]
    assert codes(outbox) == []


def test_without_a_spool_memory_is_the_bound() -> None:
    """It drops at once what memory has no room for."""
    outbox, events = Outbox(None, 100_000, 0), lines(range(10_000))
    accepted = [line for line in events if outbox.put(line)]

    assert outbox.memory_bytes <= 100_000
    assert take_all(outbox) == accepted == events[: len(accepted)]
    assert codes(outbox) == [("dropped", len(events) - len(accepted))]


def test_a_disk_that_stands_still_delays_one_call(
    spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While memory is full, one call waits within a bound; the next ones do not."""
    go_on, waits, real = Event(), list[float | None](), Spool.append

    def stand_still(self: Spool, events: list[bytes]) -> int:
        go_on.wait(GIVE_UP_S)
        return real(self, events)

    monkeypatch.setattr(Spool, "append", stand_still)
    monkeypatch.setattr(outbox_module, "MAX_WAIT_S", 0.01)
    outbox, events = Outbox(spool_dir, 50_000, MIB), lines(range(2_000))
    wait = outbox._room.wait

    def count(timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait(timeout)

    monkeypatch.setattr(outbox._room, "wait", count)
    accepted = [line for line in events if outbox.put(line)]
    assert 0 < len(accepted) < 1_000
    assert len(waits) == 1
    go_on.set()

    assert take_all(outbox) == accepted


def test_a_spool_that_fails_is_reported_once(spool_dir: Path) -> None:
    """Events stay in memory as far as they fit, and are delivered from there."""
    spool_dir.write_text("a file, and no folder")
    outbox, events = Outbox(spool_dir, MIB, MIB), lines(range(100))
    for line in events:
        outbox.put(line)
    outbox.spill()
    outbox.spill()

    assert take_all(outbox) == events
    assert codes(outbox) == [("spool_failed", 0)]


def test_the_rest_of_a_batch_is_sent_again(spool_dir: Path) -> None:
    """What was delivered leaves the file, and what was not is kept in the spool."""
    outbox = Outbox(spool_dir, MIB, MIB)
    for line in lines(range(10)):
        outbox.put(line)
    for expected in (range(10), range(4, 10), range(8, 10)):
        batch = outbox.take()
        assert batch is not None
        assert batch.lines == lines(expected)
        rest = batch.lines[4 if expected.start < 8 else 0 :]
        outbox.finish(batch, rest)
        assert spooled(spool_dir) == b"".join(rest).splitlines()
        assert outbox.memory_bytes == 0

    assert take_all(outbox) == lines(range(8, 10))
    assert outbox.is_empty()


def test_a_batch_fits_into_a_request(spool_dir: Path) -> None:
    """It has at most 1,000 events and 900 kB."""
    outbox = Outbox(spool_dir, 100 * MIB, 100 * MIB)
    for line in [*lines(range(1_500)), *lines(range(100), 30_000)]:
        outbox.put(line)
    sizes = []
    while batch := outbox.take():
        sizes.append((len(batch.lines), sum(map(len, batch.lines))))
        outbox.finish(batch)

    assert sizes[0][0] == MAX_BATCH_EVENTS
    assert max(size for _, size in sizes) <= 900_000


def test_threads_lose_nothing(spool_dir: Path) -> None:
    """While some threads put and one takes, every event comes out once."""
    outbox, taken, is_over = (
        Outbox(spool_dir, 100_000, 100 * MIB),
        list[bytes](),
        Event(),
    )

    def deliver() -> None:
        while not (is_over.is_set() and outbox.is_empty()):
            taken.extend(take_all(outbox))

    def put(first: int) -> None:
        for line in lines(range(first, first + 2_000)):
            outbox.put(line)

    putting = [Thread(target=put, args=(first,)) for first in range(0, 8_000, 2_000)]
    delivering = Thread(target=deliver)
    for thread in (*putting, delivering):
        thread.start()
    for thread in putting:
        thread.join(GIVE_UP_S)
    is_over.set()
    delivering.join(GIVE_UP_S)

    assert sorted(taken) == lines(range(8_000))


def test_a_system_without_file_locks_has_no_spool(
    spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, and memory holds what it can."""
    monkeypatch.setattr(outbox_module, "IS_SUPPORTED", False)
    outbox = Outbox(spool_dir, MIB, MIB)
    outbox.put(lines(range(1))[0])
    outbox.spill()

    assert codes(outbox) == [("spool_failed", 0)]
    assert take_all(outbox) == lines(range(1))
    assert not spool_dir.exists()


def test_files_that_cannot_be_listed_are_not_delivered(
    spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told that everything was delivered while the spool fails."""
    outbox = Outbox(spool_dir, MIB, MIB)
    outbox.put(lines(range(1))[0])
    outbox.spill()
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", Mock(side_effect=PermissionError))
        assert not outbox.is_empty()
        assert outbox.take() is None

    assert take_all(outbox) == lines(range(1))
    assert outbox.is_empty()
