"""Events that wait for delivery, in memory and in the spool; safe for threads.

Events leave in the order in which they came: first the files of the spool, then those
in memory. What memory has no room for moves to the spool, the oldest first.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from copilot_usage_client.problems import Problem
from copilot_usage_client.spool import IS_SUPPORTED, Spool, SpoolFile

MAX_BATCH_EVENTS: Final = 1_000
MAX_BATCH_BYTES: Final = 900_000
"""Both are within the service's limits for one request: 1,000 events and 1 MiB."""
MIN_BATCH_BYTES: Final = 64 * 1024
"""An event of the maximum size fits."""
OVERHEAD_BYTES: Final = 64
"""Memory of an event in addition to its text: a bytes object and its place."""
MAX_WAIT_S: Final = 1.0
"""Upper bound of the wait of `put` for the disk, while memory is full.

Half of the memory is left when the spool begins to take events. So `put` waits only for
a disk that stands still, and once for each such time."""
SPOOL_AGAIN_S: Final = 1.0
"""Time after which a spool that was full, or has failed, is tried again."""
DROPS_AGAIN_S: Final = 1.0
"""Time between two reports of dropped events."""
NEVER: Final = sys.maxsize


class Batch(NamedTuple):
    """Events that are being delivered, and the file that they came from."""

    lines: list[bytes]
    file: SpoolFile | None


class Outbox:
    """A queue of events: lines of NDJSON.

    `on_wake` is called once when the number of events in memory reaches `wake_at`.
    """

    def __init__(
        self, folder: Path | None, max_bytes: int, max_spool_bytes: int
    ) -> None:
        self.batch_bytes = max(MIN_BATCH_BYTES, min(MAX_BATCH_BYTES, max_bytes // 4))
        # A batch in flight takes memory for its text, and for the answer.
        self._limit = max(max_bytes // 2, max_bytes - 2 * self.batch_bytes)
        self._problems: list[Problem] = []
        self.on_wake: Callable[[], None] = _do_nothing
        self.wake_at = NEVER
        # Reentrant: a signal handler may call `track` at any point of another call.
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self.io = threading.RLock()
        """Held during work with files, never by `put`; taken before `_lock`."""
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._in_flight = 0
        self._is_moving = False
        self._is_stalled = False
        self._spool_again_at = 0.0
        self._has_failed = False
        self._dropped = self._unreported = 0
        self._drops_again_at = 0.0
        self._spool: Spool | None = None
        if folder is not None and not IS_SUPPORTED:
            self.note(Problem("spool_failed", "this system has no flock", 0))
        elif folder is not None:
            sizes = max_spool_bytes, self.batch_bytes
            self._spool = Spool(folder, *sizes, self._note_damage)
            self._with_spool(Spool.open)

    @property
    def has_files(self) -> bool:
        """Return whether files wait that this process should send."""
        return self._spool is not None and not self._with_spool(Spool.is_drained)

    def forget(self) -> None:
        """Close the files after a fork: the parent process sends the events."""
        self._with_spool(Spool.forget)

    def __len__(self) -> int:
        """Return the number of events in memory that no request has taken."""
        return len(self._lines)

    @property
    def memory_bytes(self) -> int:
        """Memory of the events, those in flight included."""
        return self._size + self._in_flight

    @property
    def dropped(self) -> int:
        """Number of events that found no room."""
        return self._dropped

    def put(self, line: bytes) -> bool:
        """Add an event; return False if there was no room, and it was dropped."""
        with self._lock:
            size = self._size + self._in_flight + len(line) + OVERHEAD_BYTES
            if size > self._limit and not self._make_room(len(line)):
                self._drop(1)
                return False
            self._lines.append(line)
            self._size += len(line) + OVERHEAD_BYTES
            if size > self._limit // 2:
                self._move_to_spool()
            if len(self._lines) >= self.wake_at:
                self.wake_at = NEVER
                self.on_wake()
        return True

    def take(self) -> Batch | None:
        """Return the oldest events, which then are in flight."""
        with self.io:
            file = self._take_file()
            if file is not None:
                return Batch(file.lines, file)
            with self._lock:
                lines = self._pop()
                self._in_flight = _memory_of(lines)
        return Batch(lines, None) if lines else None

    def finish(self, batch: Batch, rest: Sequence[bytes] = ()) -> None:
        """End a batch, of which the rest was not delivered and is to be sent again."""
        with self.io:
            if batch.file is not None:
                self._finish_file(batch.file, rest)
                return
            with self._lock:
                self._in_flight = 0
                self._put_back(rest)
                self._room.notify_all()
            if rest:
                self.spill()

    def spill(self) -> None:
        """Move the events in memory to the spool, as far as it takes them."""
        while self._lines and self._spill_some():
            pass

    def drop_rest(self) -> None:
        """Drop what is in memory; the client is closed."""
        with self._lock:
            self._drop(len(self._lines))
            self._lines.clear()
            self._size = 0

    def is_empty(self) -> bool:
        """Return whether all events were delivered."""
        with self.io:
            if self._lines or self._in_flight:
                return False
            return not self.has_files

    def next_problems(self, *, is_last: bool = False) -> list[Problem]:
        """Return the problems since the last call; dropped events make a single one.

        They are reported without any lock, since the application may do anything then.
        """
        with self._lock:
            problems, self._problems = self._problems, []
            now = time.monotonic()
            if self._unreported and (is_last or now >= self._drops_again_at):
                reason = "neither memory nor the spool had room"
                problems.append(Problem("dropped", reason, self._unreported))
                self._unreported = 0
                self._drops_again_at = now + DROPS_AGAIN_S
        return problems

    def note(self, problem: Problem) -> None:
        """Keep a problem until it is reported."""
        with self._lock:
            self._problems.append(problem)

    def end(self) -> None:
        """Leave the files to other processes."""
        with self.io:
            self._with_spool(Spool.seal)

    # --- memory -----------------------------------------------------------------------

    def _make_room(self, size: int) -> bool:
        """Wait until the spool has taken enough from memory; return whether it has."""
        deadline = time.monotonic() + MAX_WAIT_S
        while self._lines and self.memory_bytes + size + OVERHEAD_BYTES > self._limit:
            self._move_to_spool()
            if not self._is_moving or self._is_stalled:
                return False
            # The next calls do not wait until the disk goes on.
            rest_s = deadline - time.monotonic()
            self._is_stalled = rest_s <= 0 or not self._room.wait(rest_s)
        return True

    def _drop(self, number: int) -> None:
        self._dropped += number
        self._unreported += number

    def _pop(self) -> list[bytes]:
        """Remove and return the oldest events, as many as fit into a request."""
        lines: list[bytes] = []
        size = 0
        while self._lines and len(lines) < MAX_BATCH_EVENTS:
            size += len(self._lines[0])
            if lines and size > self.batch_bytes:
                break
            lines.append(self._lines.popleft())
        self._size -= _memory_of(lines)
        return lines

    def _put_back(self, lines: Sequence[bytes]) -> None:
        self._lines.extendleft(reversed(lines))
        self._size += _memory_of(lines)

    def _move_to_spool(self) -> None:
        """Let a thread move events to the spool until memory is a quarter full."""
        if self._is_moving or self._spool is None or not self._may_spool():
            return
        self._is_moving = True
        try:
            threading.Thread(
                target=self._move, name="copilot-usage-spool", daemon=True
            ).start()
        except RuntimeError:  # no more threads, or the interpreter ends
            self._is_moving = False
            self.spill()

    def _move(self) -> None:
        try:
            while self._size > self._limit // 4 and self._spill_some():
                pass
        finally:
            with self._lock:
                self._is_moving = self._is_stalled = False
                self._room.notify_all()

    # --- spool ------------------------------------------------------------------------

    def _may_spool(self) -> bool:
        return time.monotonic() >= self._spool_again_at

    def _spill_some(self) -> bool:
        """Move the oldest events to the spool; return whether it took all of them."""
        with self.io:
            with self._lock:
                lines = self._pop()
                # Still in memory, though not in the queue.
                self._size += _memory_of(lines)
            written = self._write(lines)
            with self._lock:
                self._size -= _memory_of(lines)
                self._put_back(lines[written:])
                self._is_stalled = False
                self._room.notify_all()
        return bool(lines) and written == len(lines)

    def _finish_file(self, file: SpoolFile, rest: Sequence[bytes]) -> None:
        is_whole = len(rest) == len(file.lines)
        if not is_whole and self._write(rest) == len(rest):
            self._with_spool(lambda spool: spool.remove(file))
        else:
            # It is sent again as a whole, which doubles nothing.
            self._with_spool(lambda spool: spool.release(file))

    def _write(self, lines: Sequence[bytes]) -> int:
        """Return how many of the first lines the spool has taken."""
        written = 0
        while written < len(lines) and self._may_spool():
            rest = lines[written:]
            number = self._with_spool(lambda spool: spool.append(rest))  # noqa: B023
            if not number:
                self._spool_again_at = time.monotonic() + SPOOL_AGAIN_S
                break
            written += number
            self._has_failed = False
        return written

    def _take_file(self) -> SpoolFile | None:
        file: SpoolFile | None = self._with_spool(Spool.take)
        if file is not None:
            self._spool_again_at = 0.0
        return file

    def _with_spool(self, use: Callable[[Spool], Any]) -> Any:
        """Call a method of the spool; report its first failure, and return None."""
        if self._spool is None:
            return None
        try:
            return use(self._spool)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                self.note(Problem("spool_failed", f"the spool fails: {error}", 0))
            return None

    def _note_damage(self, reason: str, events: int) -> None:
        self.note(Problem("spool_damaged", reason, events))


def _memory_of(lines: Sequence[bytes]) -> int:
    return sum(map(len, lines)) + OVERHEAD_BYTES * len(lines)


def _do_nothing() -> None:
    return
