"""Run a command, and end it with all its processes when its time is over.

    within.py SECONDS COMMAND...

The status is that of the command, or 124 when its time was over.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

TIME_IS_OVER: Final = 124
"""As of timeout(1), which macOS does not have."""
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_within(timeout_s: float, command: list[str]) -> int:
    """Run the command in a process group, which does not outlive this call.

    A signal that ends programs raises `SystemExit`, from now on.
    """
    # One that comes during the start must not leave a command that nobody ends.
    early: list[int] = []
    _handle(lambda number, _frame: early.append(number))
    # The lock on the set-up, if there is one, is for the command to hold.
    process = subprocess.Popen(command, start_new_session=True, close_fds=False)
    try:
        _handle(_end)
        for number in early:
            _end(number, None)
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"ended after {timeout_s:.0f} s: {' '.join(command)}\n")
        return TIME_IS_OVER
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _handle(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in ENDING:
        signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> None:
    """Read the arguments, run the command, end with its status."""
    sys.exit(run_within(float(sys.argv[1]), sys.argv[2:]))


if __name__ == "__main__":
    main()
