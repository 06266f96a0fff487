"""Events on disk that wait for delivery.

The spool is a folder. Each file has the events of at most one request, one JSON text a
line. A process appends to one file at a time and holds its lock (`flock`) meanwhile.
A file that nobody has locked may be sent and removed by any process that locks it. So
several processes share a folder, and files of a killed process are not lost. The names
ascend with time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX: Final = ".ndjson"
MAX_FILE_EVENTS: Final = 1_000
EVENT_START: Final = b'{"id":"'
EVENT_END: Final = b"}"
SCAN_SHARE: Final = 20
"""The folder is scanned only if this many times as long has passed as a scan takes."""

IS_SUPPORTED: Final = fcntl is not None
OnDamage = Callable[[str, int], None]


@dataclass
class SpoolFile:
    """A file that this process has locked: its events, and its size in bytes."""

    path: Path
    descriptor: int
    size: int = 0
    lines: list[bytes] = field(default_factory=list)


class Spool:
    """The files of a folder, up to `max_bytes`; the caller makes calls one at a time.

    All methods raise `OSError`. `on_damage` gets the reason and the number of lines
    that were no whole events.
    """

    def __init__(
        self, folder: Path, max_bytes: int, max_file_bytes: int, on_damage: OnDamage
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_file_bytes = max_file_bytes
        self._on_damage = on_damage
        self._active: SpoolFile | None = None
        self._active_events = 0
        self._taken: dict[Path, SpoolFile] = {}
        self._unread: set[str] = set()
        self._size = 0
        self._rescan_at = 0.0
        self._own: set[str] = set()

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self._folder

    def open(self) -> None:
        """Create the folder, and remember the files of former processes."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own.update(self._names())

    def append(self, lines: Sequence[bytes]) -> int:
        """Write as many of the first lines as one file takes; return their number.

        0 means that the spool is full.
        """
        room = self._max_bytes - self._total()
        if len(lines[0]) > room:
            return 0
        file = self._file_for(len(lines[0]))
        room = min(room, self._max_file_bytes - file.size)
        chosen = _first_lines(lines[: MAX_FILE_EVENTS - self._active_events], room)
        text = b"".join(chosen)
        self._write(file, text)
        self._active_events += len(chosen)
        self._size += len(text)
        return len(chosen)

    def take(self) -> SpoolFile | None:
        """Return the oldest file that no other process has locked, locked."""
        for name in self._names():
            if self._active is None or name != self._active.path.name:
                taken = self._claim(name)
                if taken is not None:
                    return taken
        if self._active is None:
            return None
        name = self._active.path.name
        self.seal()
        return self._claim(name)

    def remove(self, taken: SpoolFile) -> None:
        """Remove a file whose events were delivered."""
        # Before the lock is released: otherwise another process would send it again.
        try:
            taken.path.unlink(missing_ok=True)
        finally:
            self.release(taken)
        self._size = max(0, self._size - taken.size)
        self._own.discard(taken.path.name)

    def release(self, taken: SpoolFile) -> None:
        """Leave a file for later, or for another process."""
        if self._taken.pop(taken.path, None) is not None:
            os.close(taken.descriptor)

    def seal(self) -> None:
        """End the file that is being written, so that it can be sent."""
        if self._active is not None:
            os.close(self._active.descriptor)
            self._active = None

    def is_drained(self) -> bool:
        """Return whether all files of this process and of its start are gone."""
        if self._own:
            self._own.intersection_update(self._names())
        return not self._own

    def forget(self) -> None:
        """Close the files after a fork; the parent process keeps their locks."""
        for file in (*self._taken.values(), *filter(None, (self._active,))):
            os.close(file.descriptor)
        self._taken.clear()
        self._active = None
        self._own.clear()

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                return sorted(each.name for each in entries if _is_named(each.name))
        except FileNotFoundError:
            return []

    def _total(self) -> int:
        """Return the bytes in the folder; those of other processes may be older."""
        started = time.monotonic()
        if started >= self._rescan_at:
            self._size = _size_of_files(self._folder)
            ended = time.monotonic()
            self._rescan_at = ended + SCAN_SHARE * (ended - started)
        return self._size

    def _file_for(self, size: int) -> SpoolFile:
        """Return the file for a line of this size; begin one where it does not fit."""
        active = self._active
        if active is not None and (
            self._active_events >= MAX_FILE_EVENTS
            or active.size + size > self._max_file_bytes
            # Somebody has removed the file.
            or not os.fstat(active.descriptor).st_nlink
        ):
            self.seal()
        if self._active is None:
            self._active, self._active_events = self._begin(), 0
            self._own.add(self._active.path.name)
        return self._active

    def _begin(self) -> SpoolFile:
        # A file gets its name after its lock: no other process may find it without.
        path = self._folder / f"{time.time_ns():020d}-{uuid4().hex}{SUFFIX}"
        unnamed = path.with_suffix(".new")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        descriptor = os.open(unnamed, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(path)
        except BaseException:
            os.close(descriptor)
            raise
        return SpoolFile(path, descriptor)

    def _write(self, file: SpoolFile, text: bytes) -> None:
        """Append the whole text, or nothing."""
        try:
            written = os.write(file.descriptor, text)
            while written < len(text):
                written += os.write(file.descriptor, text[written:])
        except OSError:
            # A disk that is full may have taken a part.
            os.ftruncate(file.descriptor, file.size)
            raise
        file.size += len(text)

    def _claim(self, name: str) -> SpoolFile | None:
        """Lock and read a file; return None if it is locked, gone, or has no events."""
        path = self._folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._skip(name, error)
            return None
        taken = SpoolFile(path, descriptor)
        self._taken[path] = taken
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed it before it released the lock.
            is_gone = not os.fstat(descriptor).st_nlink
            text = b"" if is_gone else _read(descriptor)
        except BlockingIOError:
            self.release(taken)
            return None
        except OSError as error:
            self._skip(name, error)
            self.release(taken)
            return None
        taken.size = len(text)
        taken.lines = self._whole_lines(text)
        if not taken.lines:
            self.remove(taken)
            return None
        return taken

    def _whole_lines(self, text: bytes) -> list[bytes]:
        """Return the lines that are events; a killed process leaves a part of one."""
        lines = [each for each in text.split(b"\n") if each]
        has_end = text.endswith(b"\n")
        whole = [each + b"\n" for each in lines[:-1] if _is_event(each)]
        if lines and _is_event(lines[-1]) and (has_end or _is_json(lines[-1])):
            whole.append(lines[-1] + b"\n")
        if len(whole) < len(lines):
            self._on_damage("lines were not whole", len(lines) - len(whole))
        return whole

    def _skip(self, name: str, error: OSError) -> None:
        self._own.discard(name)
        if name not in self._unread:
            self._unread.add(name)
            self._on_damage(f"a file cannot be read: {error}", 0)


def _is_named(name: str) -> bool:
    return name.endswith(SUFFIX)


def _size_of_files(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(map(_size_of, entries))
    except FileNotFoundError:
        return 0


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _first_lines(lines: Sequence[bytes], room: int) -> Sequence[bytes]:
    """Return the first lines that have room, but at least one."""
    added = 0
    for number, line in enumerate(lines):
        added += len(line)
        if number and added > room:
            return lines[:number]
    return lines


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def _is_event(line: bytes) -> bool:
    # The service checks the rest.
    return line.startswith(EVENT_START) and line.endswith(EVENT_END)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
