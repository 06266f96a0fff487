"""Standard output and standard error, written by threads that may wait for readers.

The code that logs only adds to a queue. So a reader that stops, a closed pipe or a full
disk neither blocks nor ends a process: lines are dropped and counted instead.
"""

import atexit
import fcntl
import mmap
import os
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import RawIOBase, TextIOWrapper
from math import inf
from threading import RLock, Thread
from typing import IO, Any, Final

from service.observability.line_queue import Kind, LineQueue, Taken
from service.observability.log_metrics import DropCounts
from service.observability.metrics import REGISTRY
from service.observability.pipes import WholeWrites

COLLECT_S: Final = 0.01
"""Time for which lines are collected; a crash loses the lines of that time."""
TURN_BYTES: Final = 1024 * 1024
"""Text that a process writes before it passes the output to another worker."""
RETRY_S: Final = 0.5
"""Wait after a failed write."""
FLUSH_S: Final = 1.0
"""Time for the last lines, at the end of the process."""
STALLED_S: Final = 0.5
"""Duration of a write, or a wait for another worker's, that nobody seems to read."""
LOOK_AGAIN_S: Final = 0.002
STANDARD_DESCRIPTORS: Final = (0, 1, 2)
REPORT_AFTER_S: Final = 10.0
"""Time after which drops are reported even if the queue has not caught up."""


class OutputLock:
    """A lock of an output between worker processes, and its state after a failure."""

    # A full pipe accepts a long write in parts, between which another process could
    # write. The kernel releases the lock of a process that is killed.

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._shared = mmap.mmap(-1, 1)

    @property
    def is_torn(self) -> bool:
        """True after a failed write, of any worker, has left a line incomplete."""
        return self._shared[0] != 0

    @is_torn.setter
    def is_torn(self, is_torn: bool) -> None:
        self._shared[0] = is_torn

    def share(self) -> None:
        """Share the lock with all processes that are forked from now on."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open to the end

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


class Output:
    """A descriptor, the queue of its lines, and the thread that writes them.

    The thread starts with the first line, also in a process that was forked.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.lock = OutputLock()
        self.queue = LineQueue(self._wake, self.add_drops_soon)
        self.report: Callable[[Mapping[Kind, int]], None] | None = None
        """Logs how many lines were dropped, once others can be written again."""
        self.drops = DropCounts()
        self._start_again()

    def survive_forks(self) -> None:
        """Start without lines and without a thread in each forked process."""
        os.register_at_fork(
            # A metric that the thread has locked would stay locked in the child.
            before=self.drops.adding.acquire,
            after_in_parent=self.drops.adding.release,
            after_in_child=self._reset,
        )

    def add_drops(self) -> None:
        """Add the dropped lines to the metric."""
        self.drops.add(self.queue.dropped)

    def add_drops_soon(self) -> None:
        """Add them soon, which costs less where many are dropped."""
        self.drops.add_soon(self.queue.dropped)

    def flush(self, give_up_at: float | None = None) -> None:
        """Wait until all lines are written, for at most `FLUSH_S`.

        Does not wait if writing fails, or if nobody has read for `STALLED_S`.
        """
        give_up_at = give_up_at or time.monotonic() + FLUSH_S
        while not self.queue.is_empty and not self._is_failing:
            if time.monotonic() > min(give_up_at, self._busy_since + STALLED_S):
                return
            time.sleep(LOOK_AGAIN_S)

    def _reset(self) -> None:
        self.drops.adding.release()
        self.drops.reset()
        self.queue.reset()
        self._start_again()

    def _start_again(self) -> None:
        self._thread: Thread | None = None
        self._starting = RLock()
        self._busy_since = inf
        self._is_failing = False
        self._reported: Counter[Kind] = Counter()
        self._report_at = inf

    def _wake(self) -> None:
        with self._starting:
            if self._thread is not None:
                self.queue.notify()
                return
            thread = Thread(target=self._run, name="log-output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                self.queue.keep_waking()
            else:
                self._thread = thread

    def _run(self) -> None:
        # A signal has to interrupt the main thread, which handles it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        sizes = WholeWrites(self.descriptor)
        while True:
            self.queue.wait()
            time.sleep(COLLECT_S)
            self._busy_since = time.monotonic()
            try:
                with self.lock:
                    self._write_turn(sizes)
                self._is_failing = False
            except OSError:
                self._is_failing = True
            self._busy_since = inf
            if self._is_failing:
                self.add_drops_soon()
                time.sleep(RETRY_S)
            else:
                self._report_drops()

    def _write_turn(self, sizes: WholeWrites) -> None:
        """Write the queued lines, up to about `TURN_BYTES`; raises `OSError`."""
        written = 0
        while written < TURN_BYTES:
            taken = self.queue.take(sizes.max_bytes())
            if not taken.lines:
                return
            sizes.wait_for(taken.text_bytes + len(taken.lines))
            self._write(taken)
            written += taken.text_bytes
            self._busy_since = time.monotonic()

    def _write(self, taken: Taken) -> None:
        """Write lines, or as many of them as possible; raises `OSError`."""
        head = b"\n" if self.lock.is_torn else b""
        block = head + b"\n".join([*(text for text, _ in taken.lines), b""])
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[_write_some(self.descriptor, rest) :]
        except OSError:
            written = block[: len(block) - len(rest)]
            if written:
                self.lock.is_torn = not written.endswith(b"\n")
            whole = written[len(head) :].count(b"\n")
            self.queue.release(taken, lost=taken.lines[whole:])
            raise
        self.lock.is_torn = False
        self.queue.release(taken)

    def _report_drops(self) -> None:
        new = self.queue.dropped - self._reported
        if not new or self.report is None:
            return
        now = time.monotonic()
        self._report_at = min(self._report_at, now + REPORT_AFTER_S)
        if self.queue.is_drained or now >= self._report_at:
            self._report_at = inf
            self._reported += new
            self.report(new)


def _write_some(descriptor: int, text: memoryview) -> int:
    """Write, waiting for the reader; return the number of bytes written."""
    while True:
        with suppress(BlockingIOError):
            return os.write(descriptor, text)
        # The descriptor is shared with a program that has made it non-blocking.
        writable = select.poll()
        writable.register(descriptor, select.POLLOUT)
        writable.poll()


class _RawText(RawIOBase):
    """The binary end of a text stream, which adds to the queue of an output."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._output.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._output.descriptor)

    def write(self, text: Any) -> int:
        self._output.queue.put(bytes(text).removesuffix(b"\n"), Kind.TEXT)
        return len(text)


STDOUT: Final = Output(1)
STDERR: Final = Output(2)
_OUTPUTS: Final = (STDOUT, STDERR)


def open_closed_streams() -> None:
    """Open /dev/null for each standard descriptor that was closed at the start.

    Otherwise a socket or a database gets its number, and with it what is printed.
    """
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(opened, True)  # noqa: FBT003


def replace_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` streams that neither block nor fail.

    For processes that serve: whatever prints there must not end or stop them.
    """
    sys.stdout = _text_stream(STDOUT)
    # One queue keeps the order of what goes to one terminal or file.
    sys.stderr = _text_stream(STDOUT if os.path.sameopenfile(1, 2) else STDERR)


def flush() -> None:
    """Wait until all lines are written, for at most `FLUSH_S`."""
    give_up_at = time.monotonic() + FLUSH_S
    for output in _OUTPUTS:
        output.flush(give_up_at)


def _text_stream(output: Output) -> TextIOWrapper:
    return TextIOWrapper(
        _RawText(output),  # type: ignore[arg-type]
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


atexit.register(flush)
for _output in _OUTPUTS:
    REGISTRY.before_scrape(_output.add_drops)
    _output.survive_forks()
