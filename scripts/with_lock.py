"""Run a command while no other command of the same checkout sets anything up.

    with_lock.py COMMAND...

The lock is on an open file that the command inherits. The kernel releases it with the
last process that has the file open. A killed `make` leaves no stale lock, and an
installer that outlives its `make` still keeps the next one waiting.
"""

import fcntl
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

LOCK: Final = Path(__file__).resolve().parent.parent / ".cache" / "set-up.lock"
BEYOND_SHELL: Final = 10
"""The first file descriptor that POSIX shells cannot name."""
WAITING: Final = "Another make is at work in this folder; waiting for it …\n"


def acquire(path: Path) -> int:
    """Wait for the lock and return its file descriptor."""
    while True:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        _lock(descriptor)
        if _is_open_file(path, descriptor):
            return descriptor
        os.close(descriptor)  # `make clean` has removed it: lock its successor


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stdout.write(WAITING)
        sys.stdout.flush()
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_open_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def main() -> NoReturn:
    """Replace this process by the command, with the lock held."""
    descriptor = acquire(LOCK)
    # The copy is inherited, and shell scripts cannot redirect it by accident.
    fcntl.fcntl(descriptor, fcntl.F_DUPFD, BEYOND_SHELL)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - without a shell, on purpose


if __name__ == "__main__":
    main()
