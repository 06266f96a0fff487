"""The master of the worker processes: it keeps, replaces and ends them."""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Final

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from service.admin import siblings
from service.observability import metrics
from service.server import lifecycle
from service.server.checks import Check
from service.server.handover import ENVIRONMENT, Handover, execute_again
from service.server.listener import CannotStart, close_all
from service.server.predecessors import RETIRE, STOP, Predecessors
from service.server.process import ends_with_terminal, has_terminal
from service.server.shutdown import STOP_SIGNALS, Ending, exit_now

LATER_S: Final = 0.1
"""Time of the master after the last of its workers."""
WORKER_STOP_SIGNALS: Final = (RETIRE, STOP, signal.SIGQUIT)
NO_CHILD: Final = (0, 0)
"""Result of `waitpid` if no child has ended."""


class Master(Arbiter):
    """gunicorn's master, with a bounded shutdown and reloads that are checked.

    It shuts down in order on the first Ctrl-C only. `replaced` are sockets of a former
    address, of which the workers have their own descriptors.
    """

    reexec_pid: int

    def __init__(
        self,
        app: BaseApplication,
        predecessors: Predecessors,
        replaced: Sequence[socket.socket],
        check_s: float,
    ) -> None:
        self._predecessors = predecessors
        self._replaced = replaced
        self._check_s = check_s
        self._check: Check | None = None
        self._asked_to_stop: set[int] = set()
        self._is_signalled = False
        self._is_stopping = False
        self._ends_with_terminal = ends_with_terminal()
        super().__init__(app)

    # --- signals --------------------------------------------------------------------

    def init_signals(self) -> None:
        """Handle signals from now on, also a SIGHUP that came while starting."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Queue a signal: the first stop signal as SIGTERM, further ones as SIGINT."""
        if sig == signal.SIGHUP and self._ends_with_terminal and not has_terminal():
            sig = signal.SIGTERM
        if sig in STOP_SIGNALS:
            sig = signal.SIGINT if self._is_signalled else signal.SIGTERM
            self._is_signalled = True
        super().signal(sig, frame)

    def handle_hup(self) -> None:
        """Check a reload; another SIGHUP meanwhile has the check begin again."""
        self._end_check()
        self._check = Check(self._descriptors(), self._check_s)

    def handle_usr2(self) -> None:
        """Ignore a signal with which gunicorn would start a second master."""

    # --- the loop -------------------------------------------------------------------

    def manage_workers(self) -> None:
        """Keep the number of workers; also replace old ones, and begin a reload."""
        super().manage_workers()
        close_all(self._replaced)
        self._predecessors.replace_by(self.num_workers)
        self._predecessors.look()
        refusal = self._check.poll() if self._check is not None else None
        if refusal is not None:
            self._end_check()
            self._reload_unless(refusal)

    def _reload_unless(self, refusal: str) -> None:
        if refusal:
            lifecycle.log_reload_refused(refusal)
            return
        lifecycle.log_reloading()
        metrics.keep_folder()
        siblings.keep_folder()
        try:
            execute_again(self._hand_over)
        except CannotStart as error:
            lifecycle.log_reload_refused(str(error))

    def _hand_over(self) -> Handover:
        predecessors = self._predecessors
        return Handover(
            sockets=self._descriptors(),
            workers=[*self.WORKERS, *predecessors.pids],
            folders=[
                *predecessors.folders,
                *temporary_folders(),
                str(self.app.admin_folder),
            ],
            # One that the loop has not looked at yet.
            signals=[signal.SIGTERM] if self._is_signalled else [],
        )

    def _descriptors(self) -> list[int]:
        sockets = [*self.LISTENERS, *self.app.admin_sockets]
        return [each.fileno() for each in sockets]

    def _end_check(self) -> None:
        if self._check is not None:
            self._check.close()
            self._check = None

    # --- workers that end -----------------------------------------------------------

    def reap_workers(self) -> None:
        """Forget the children that have ended; raises `HaltServer` if none can start.

        gunicorn's own method passes no hook the reason why a worker has ended.
        """
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != NO_CHILD:
                self._forget(*ended)
        if self._is_stopping:
            # A worker that was just forked has no handlers for signals yet.
            self.kill_workers(STOP)

    def _forget(self, pid: int, status: int) -> None:
        if pid == self.reexec_pid:
            self.reexec_pid = 0
        self._predecessors.collect(pid, status)
        worker = self.WORKERS.pop(pid, None)
        if worker is None:  # process 1 of a container gets the orphans of others
            return
        worker.tmp.close()
        metrics.child_exited(pid)
        exit_code = os.waitstatus_to_exitcode(status)
        was_asked = pid in self._asked_to_stop
        self._asked_to_stop.discard(pid)
        lifecycle.log_worker_exited(pid, exit_code, was_asked=was_asked)
        is_unable = exit_code in (self.WORKER_BOOT_ERROR, self.APP_LOAD_ERROR)
        if is_unable and not self._is_signalled:
            raise HaltServer("A worker failed to start.", exit_code)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal to a worker, and note the workers that have to stop."""
        if sig in WORKER_STOP_SIGNALS:
            self._asked_to_stop.add(pid)
        super().kill_worker(pid, sig)

    def kill_workers(self, sig: int) -> None:
        """Send a signal to all workers; SIGTERM would only retire them."""
        super().kill_workers(STOP if sig == RETIRE else sig)

    # --- the end --------------------------------------------------------------------

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """Stop all workers, and end this process; logs both."""
        self._is_signalled = True
        lifecycle.log_stopping()
        # Only now, because a process with threads should not fork.
        limit_s = self.cfg.graceful_timeout + LATER_S
        self.app.ending = Ending(limit_s, self.app.budget.grace_s)
        self.app.ending.limit(exit_now)
        try:
            super().halt(reason, exit_status)
        finally:
            lifecycle.log_stopped()

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002
        """Stop all workers, the former ones too."""
        self._end_check()
        self._predecessors.replace(STOP)
        self._is_stopping = graceful
        super().stop(graceful)
        self._is_stopping = False


def temporary_folders() -> list[str]:
    """Return the folder of the metrics, unless the operator has chosen it."""
    variable = metrics.FOLDER_VARIABLE
    return [] if variable in ENVIRONMENT else [os.environ[variable]]
