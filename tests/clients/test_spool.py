"""The files of events that wait for delivery."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from copilot_usage_client.spool import MAX_FILE_EVENTS, Spool, SpoolFile
from tests.clients.conftest import spooled

MakeSpool = Callable[..., Spool]
MIB = 1024 * 1024


@pytest.fixture
def damages() -> list[tuple[str, int]]:
    """Return the damages that spools have reported."""
    return []


@pytest.fixture
def make_spool(spool_dir: Path, damages: list[tuple[str, int]]) -> MakeSpool:
    """Return a factory of spools on one folder, as several processes have them."""

    def make(max_bytes: int = 100 * MIB, max_file_bytes: int = MIB) -> Spool:
        def note(reason: str, number: int) -> None:
            damages.append((reason, number))

        spool = Spool(spool_dir, max_bytes, max_file_bytes, note)
        spool.open()
        return spool

    return make


def lines(numbers: range, size: int = 0) -> list[bytes]:
    """Return an event for each number, of about a size in bytes."""
    return [
        json.dumps({"id": f"{number:05}", "data": "x" * size})
        .replace(": ", ":")
        .encode()
        + b"\n"
        for number in numbers
    ]


def write(spool: Spool, events: list[bytes]) -> int:
    """Append events until the spool is full; return how many it took."""
    written = 0
    while written < len(events) and (number := spool.append(events[written:])):
        written += number
    return written


def drain(spool: Spool) -> list[SpoolFile]:
    """Take and remove all files."""
    taken = []
    while file := spool.take():
        spool.remove(file)
        taken.append(file)
    return taken


def test_events_come_back_in_order(make_spool: MakeSpool, spool_dir: Path) -> None:
    """Files have at most one request's events, and return them as they were."""
    spool, events = make_spool(max_file_bytes=50_000), lines(range(3_000))
    assert write(spool, events) == len(events)
    files = drain(spool)

    assert [line for file in files for line in file.lines] == events
    assert all(len(file.lines) <= MAX_FILE_EVENTS for file in files)
    assert all(file.size <= 50_000 for file in files)
    assert not list(spool_dir.iterdir())
    assert spool.is_drained()


def test_a_later_spool_continues(make_spool: MakeSpool) -> None:
    """Files of a process that has ended, however it ended, are taken first."""
    ended = make_spool()
    write(ended, lines(range(10)))
    ended.seal()
    spool = make_spool()
    assert not spool.is_drained()
    write(spool, lines(range(10, 20)))

    taken = drain(spool)
    assert [line for file in taken for line in file.lines] == lines(range(20))


def test_no_two_processes_take_the_same_file(make_spool: MakeSpool) -> None:
    """A file that is written or being sent is taken by no other process."""
    first, second = make_spool(), make_spool()
    write(first, lines(range(10)))
    assert second.take() is None
    taken = first.take()
    assert taken is not None
    assert second.take() is None
    write(second, lines(range(10, 20)))
    assert [file.lines for file in drain(second)] == [lines(range(10, 20))]
    assert not first.is_drained()
    first.release(taken)

    assert [file.lines for file in drain(second)] == [lines(range(10))]
    assert first.is_drained()


@pytest.mark.parametrize("cut", [1, 2, 10, 25])
def test_a_torn_last_line_costs_no_other(
    cut: int, make_spool: MakeSpool, spool_dir: Path, damages: list[tuple[str, int]]
) -> None:
    """A kill during a write leaves a part of a line; all whole lines are sent."""
    ended = make_spool()
    write(ended, lines(range(10)))
    ended.seal()
    (file,) = spool_dir.iterdir()
    os.truncate(file, file.stat().st_size - cut)
    (taken,) = drain(make_spool())

    # Without its line feed the last event is whole.
    whole = 10 if cut == 1 else 9
    assert taken.lines == lines(range(whole))
    assert damages == ([] if whole == 10 else [("lines were not whole", 1)])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"\x00" * 4096,
        b"no events\n",
        b'{"id":"1","data":{"a":{}',
        b"\xff\n",
    ],
    ids=["empty", "line feeds", "zeros", "text", "torn", "no text"],
)
def test_a_file_without_events_is_removed(
    text: bytes, make_spool: MakeSpool, spool_dir: Path
) -> None:
    """It stops no other file."""
    spool = make_spool()
    (spool_dir / "0.ndjson").write_bytes(text)
    write(spool, lines(range(3)))

    assert [file.lines for file in drain(spool)] == [lines(range(3))]
    assert not list(spool_dir.iterdir())


def test_what_cannot_be_read_stops_nothing(
    make_spool: MakeSpool, spool_dir: Path, damages: list[tuple[str, int]]
) -> None:
    """A folder or a link in the place of a file is reported once, and left alone."""
    spool = make_spool()
    (spool_dir / "0.ndjson").mkdir()
    (spool_dir / "1.ndjson").symlink_to("/etc/passwd")
    write(spool, lines(range(3)))

    assert [file.lines for file in drain(spool)] == [lines(range(3))]
    assert spool.take() is None
    assert len(damages) == 2
    assert (spool_dir / "1.ndjson").is_symlink()


@pytest.mark.parametrize("max_file_bytes", [1_000, MIB])
def test_the_bound_holds(
    max_file_bytes: int, make_spool: MakeSpool, spool_dir: Path
) -> None:
    """The files never exceed the bound, and removed ones make room for others."""
    spool, events = make_spool(10_000, max_file_bytes), lines(range(1_000))
    written = write(spool, events)
    assert 9_900 < sum(file.stat().st_size for file in spool_dir.iterdir()) <= 10_000
    assert spool.append(events) == 0

    assert len(b"".join(line for file in drain(spool) for line in file.lines)) > 9_900
    assert write(spool, events) == written


def test_the_bound_counts_files_of_other_processes(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes share the bound."""
    monkeypatch.setattr("copilot_usage_client.spool.SCAN_SHARE", 0)
    first, second = make_spool(10_000), make_spool(10_000)
    write(first, lines(range(1_000)))

    assert second.append(lines(range(1_000))) == 0


def test_a_full_disk_leaves_no_part(
    make_spool: MakeSpool, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails half-way is undone; later ones succeed."""
    spool, real, is_full = make_spool(), os.write, True

    def fill(descriptor: int, text: bytes) -> int:
        nonlocal is_full
        if not is_full:
            return real(descriptor, text)
        if len(text) > 40:
            return real(descriptor, text[:40])
        raise OSError(errno.ENOSPC, "no space left on device")

    write(spool, lines(range(1)))
    monkeypatch.setattr(os, "write", lambda file, text: fill(file, bytes(text)[:55]))
    with pytest.raises(OSError, match="no space"):
        write(spool, lines(range(1, 3)))
    monkeypatch.undo()
    write(spool, lines(range(3, 5)))

    assert (
        spooled(spool_dir)
        == b"".join(lines(range(1)) + lines(range(3, 5))).splitlines()
    )


def test_a_removed_folder_is_made_again(make_spool: MakeSpool, spool_dir: Path) -> None:
    """What cleans temporary folders up costs the events in it, but no later ones."""
    spool = make_spool()
    write(spool, lines(range(1)))
    for file in spool_dir.iterdir():
        file.unlink()
    spool_dir.rmdir()
    assert spool.is_drained()
    write(spool, lines(range(1, 3)))

    assert [file.lines for file in drain(spool)] == [lines(range(1, 3))]


def test_files_are_private(make_spool: MakeSpool, spool_dir: Path) -> None:
    """Only the user of the application may read the events."""
    spool = make_spool()
    write(spool, lines(range(1)))
    (file,) = spool_dir.iterdir()

    assert file.stat().st_mode & 0o777 == 0o600
    assert spool_dir.stat().st_mode & 0o777 == 0o700
