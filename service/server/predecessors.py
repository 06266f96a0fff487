"""Worker processes that a reload has left, until their replacements serve."""

import os
import shutil
import signal
import time
from contextlib import suppress
from typing import Final

from service.server import lifecycle
from service.server.handover import Handover

RETIRE: Final = signal.SIGTERM
"""Ends a worker, whose listening sockets stay open."""
STOP: Final = signal.SIGUSR2
"""Ends a worker as the service stops: it accepts the last connections."""
LOOK_AGAIN_S: Final = 0.05


class Predecessors:
    """The workers of the program that this process ran before.

    They serve until `replace` is called. They are still children of this process, and
    write their metrics to `folders`.
    """

    def __init__(self, handed: Handover) -> None:
        self.are_moved = False
        """Whether this program listens at another address than they do."""
        self._pids = set(handed.workers)
        self.folders = handed.folders
        self._are_replaced = False
        self._serving = 0
        self._output, self._input = os.pipe()
        os.set_blocking(self._output, False)
        os.set_blocking(self._input, False)

    @property
    def pids(self) -> list[int]:
        """Those that have not ended, as far as known."""
        return sorted(self._pids)

    def report_serving(self) -> None:
        """Tell the master, from a new worker, that it serves."""
        with suppress(BlockingIOError):
            os.write(self._input, b".")

    def replace_by(self, workers: int) -> None:
        """Replace them once so many new workers serve."""
        if self._pids and not self._are_replaced:
            with suppress(BlockingIOError):
                self._serving += len(os.read(self._output, 4_096))
            if self._serving >= workers:
                self.replace(STOP if self.are_moved else RETIRE)

    def replace(self, number: signal.Signals) -> None:
        """End them in order, by `RETIRE` or `STOP`."""
        self._are_replaced = True
        self.look()
        for pid in self._pids:
            os.kill(pid, number)

    def look(self) -> bool:
        """Collect those that have ended; return whether all have."""
        for pid in self.pids:
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                self._pids.discard(pid)
                continue
            if ended:
                self.collect(pid, status)
        if not self._pids:
            for folder in self.folders:
                shutil.rmtree(folder, ignore_errors=True)
            self.folders = []
        return not self._pids

    def collect(self, pid: int, status: int) -> None:
        """Forget a child that has ended, if it is one of them."""
        if pid in self._pids:
            self._pids.discard(pid)
            exit_code = os.waitstatus_to_exitcode(status)
            was_asked = self._are_replaced
            lifecycle.log_worker_exited(pid, exit_code, was_asked=was_asked)

    def end(self, deadline: float) -> None:
        """End them in order, and kill them at a time of `time.monotonic`."""
        if not self._are_replaced:
            self.replace(STOP)
        while not self.look() and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
