"""Execution of the command line again, in the same process.

The program that replaces this one inherits the process id, the listening sockets and
the worker processes. A variable of the environment names them.
"""

import atexit
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import msgspec
from msgspec import Struct

from service.server.listener import CannotStart

VARIABLE: Final = "_COPILOT_USAGE_HANDOVER"
ENVIRONMENT: Final = {key: os.environ[key] for key in os.environ if key != VARIABLE}
"""The environment that the process was started with."""
COMMAND: Final = [sys.executable, *sys.orig_argv[1:]]
HANDLED: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Handover(Struct, frozen=True):
    """Descriptors, process ids and folders that a program inherits.

    `signals` have arrived while the program was replaced, and are not handled yet.
    """

    sockets: list[int] = []
    workers: list[int] = []
    folders: list[str] = []
    signals: list[int] = []

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the program that inherits this."""
        return ENVIRONMENT | {VARIABLE: msgspec.json.encode(self).decode()}


def take_over() -> Handover:
    """Return what this process has inherited, once; child processes never see it."""
    text = os.environ.pop(VARIABLE, "{}")
    try:
        return msgspec.json.decode(text, type=Handover)
    except msgspec.MsgspecError:
        return Handover()


def inherited_sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    """Return the listening sockets of these descriptors."""
    sockets: list[socket.socket] = []
    for each in descriptors:
        with suppress(OSError):
            inherited = socket.socket(fileno=each)
            inherited.set_inheritable(False)
            inherited.setblocking(False)  # noqa: FBT003
            sockets.append(inherited)
    return sockets


def handle_late_signals(
    numbers: Sequence[signal.Signals], unhandled: Sequence[int]
) -> None:
    """Have these signals handled, which now have handlers, from now on.

    `unhandled` are those that arrived before.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    for each in unhandled:
        signal.raise_signal(each)


def execute_again(
    hand_over: Callable[[], Handover], *, in_order: bool = True
) -> NoReturn:
    """Replace the program of this process by a new one of the same command line.

    It gets the result of `hand_over`. Without `in_order`, functions that the exit of
    the interpreter calls are skipped. Raises `CannotStart`.
    """
    # Until the new program has handlers, a signal would end the process. The mask and
    # pending signals outlast execve(2).
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    if in_order:
        atexit._run_exitfuncs()
    # As late as possible, with the signals that were received until now.
    handover = hand_over()
    for each in handover.sockets:
        os.set_inheritable(each, True)  # noqa: FBT003
    try:
        os.execve(COMMAND[0], COMMAND, handover.environment)  # noqa: S606
    except OSError as error:
        raise CannotStart(f"cannot execute {COMMAND[0]}: {error.strerror}") from error
