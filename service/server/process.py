"""A process that serves until a signal, and that SIGHUP reloads.

A reload executes the same command line again, in the same process. New code and new
settings take effect, and connections wait in the listening sockets meanwhile.
"""

import asyncio
import os
import signal
import time
from contextlib import closing, suppress
from typing import Final

from service.server import handover, lifecycle
from service.server.checks import Check
from service.server.handover import Handover, execute_again
from service.server.listener import CannotStart
from service.server.predecessors import RETIRE, STOP, Predecessors
from service.server.shutdown import STOP_SIGNALS, Budget, Ending, on_signal
from service.settings import ServerSettings

LOOK_AGAIN_S: Final = 0.05
TERMINAL: Final = "/dev/tty"


class Process:
    """A process that a stop signal ends in order, and a second one at once."""

    def __init__(self, ending: Ending | None = None) -> None:
        self.ending = ending or Ending()
        self.is_open = False
        self._unhandled: list[int] = []

    def handle_signals(self) -> None:
        """Handle signals from now on, also while the server opens."""
        for each in STOP_SIGNALS:
            on_signal(each, self._stop)

    async def wait(self) -> None:
        """Wait until the server, which is open now, is to be closed."""
        while not self.ending.is_stopping:
            await self.ending.signalled.wait()

    def finish(self) -> None:
        """Do the last step, after the server is closed."""

    def _stop(self) -> None:
        # A second signal then has its default effect, which ends the process.
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if not self.ending.stop():
            self._unhandled.append(signal.SIGTERM)
        # Opening may compute for seconds, during which the loop does nothing.
        if not self.is_open:
            raise SystemExit(0)


class ReloadingProcess(Process):
    """A process that SIGHUP reloads, unless the service would not start again."""

    def __init__(self, server: ServerSettings) -> None:
        self._budget = Budget.of(server)
        super().__init__(Ending(self._budget.limit_s, self._budget.grace_s))
        handed = handover.take_over()
        self.inherited = handover.inherited_sockets(handed.sockets)
        self._predecessors = Predecessors(handed)
        self._unhandled = handed.signals
        self._check_s = server.reload_check_s
        self._is_requested = False
        self._ends_with_terminal = ends_with_terminal()
        # Connections wait in inherited sockets, so a stop signal must not end the
        # process before it has answered them.
        self.is_open = bool(self.inherited)

    def handle_signals(self) -> None:
        """Also handle SIGHUP, and signals that came before there was a handler."""
        super().handle_signals()
        on_signal(signal.SIGHUP, self._hang_up)
        signals, self._unhandled = self._unhandled, []
        handover.handle_late_signals(handover.HANDLED, signals)

    async def wait(self) -> None:
        """Wait for a stop signal, or for a reload that would succeed."""
        is_moved = not set(self.inherited) & set(self.ending.sockets)
        self._predecessors.replace(STOP if is_moved else RETIRE)
        while not self.ending.is_stopping:
            if self._is_requested and await self._would_start():
                self._begin_reload()
                return
            if not self._is_requested:
                await self.ending.signalled.wait()
                self.ending.signalled.clear()

    def finish(self) -> None:
        """Execute the program again, if this is a reload."""
        self._predecessors.end(time.monotonic() + self._budget.requests_s)
        if self.ending.commit():
            self._execute_again()

    async def _would_start(self) -> bool:
        """Check a reload; another SIGHUP meanwhile has the check begin again."""
        self._is_requested = False
        descriptors = [each.fileno() for each in self.ending.sockets]
        with closing(Check(descriptors, self._check_s)) as check:
            while (refusal := check.poll()) is None:
                await asyncio.sleep(LOOK_AGAIN_S)
                if self._is_requested or self.ending.is_stopping:
                    return False
        if refusal:
            lifecycle.log_reload_refused(refusal)
        return not refusal

    def _begin_reload(self) -> None:
        lifecycle.log_reloading()
        self.ending.keeps_listening = True
        self.ending.limit(self._execute_at_once)

    def _execute_again(self, *, in_order: bool = True) -> None:
        execute_again(self._hand_over, in_order=in_order)

    def _hand_over(self) -> Handover:
        descriptors = [each.fileno() for each in self.ending.sockets]
        return Handover(sockets=descriptors, signals=self._unhandled)

    def _execute_at_once(self) -> None:
        with suppress(CannotStart):
            self._execute_again(in_order=False)
        os._exit(1)

    def _hang_up(self) -> None:
        if self._ends_with_terminal and not has_terminal():
            self._stop()
            return
        self._is_requested = True
        self.ending.wake()


def ends_with_terminal() -> bool:
    """Return whether SIGHUP may mean that the terminal of this process was closed."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup(1)
    return has_terminal() and not is_ignored


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
