"""Run a command, and end it with all its processes when its time is over.

    within.py SECONDS COMMAND...

The status is that of the command, or 124 when its time was over.
"""

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import Final, NoReturn

TIME_IS_OVER: Final = 124
"""As of timeout(1), which macOS does not have."""


def run_within(timeout_s: float, command: list[str]) -> int:
    """Run the command in a process group, which does not outlive this call."""
    # The lock on the set-up, if there is one, is for the command to hold.
    process = subprocess.Popen(command, start_new_session=True, close_fds=False)
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"ended after {timeout_s:.0f} s: {' '.join(command)}\n")
        return TIME_IS_OVER
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> None:
    """Read the arguments, run the command, end with its status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    sys.exit(run_within(float(sys.argv[1]), sys.argv[2:]))


if __name__ == "__main__":
    main()
