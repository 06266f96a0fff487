"""Checks of a reload: would the service start with the present code and settings?

A check runs the same command line with `--check` in a process of its own, so that it
reads everything anew and cannot disturb the running service.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Final

from service.server.handover import COMMAND, Handover

OPTION: Final = "--check"
VALID: Final = "copilot-usage: the service would start"
"""The output of a successful check. Its exit status may be lost: see `Check.poll`."""
PROGRAM_NAME: Final = "copilot-usage: "
DECORATION: Final = re.compile(r"^[\s│]+|[\s│]+$")
WORD: Final = re.compile(r"\w")


class Check:
    """A check that runs; `sockets` are the descriptors that a reload would inherit."""

    def __init__(self, sockets: Sequence[int], limit_s: float) -> None:
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [*COMMAND, OPTION],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._errors,
                env=Handover(sockets=list(sockets)).environment,
                pass_fds=sockets,
                # Signals of the terminal are for the service.
                start_new_session=True,
            )
        except OSError as error:
            self._errors.write(str(error).encode())

    def poll(self) -> str | None:
        """Return the reason for a refusal, or "" if there is none; None meanwhile."""
        if self._process is not None and self._process.poll() is None:
            if time.monotonic() < self._deadline:
                return None
            return f"the check has not ended within {self._limit_s:g} s"
        # By the output: the master of workers collects the exit status of any child.
        if VALID in _read(self._output).splitlines():
            return ""
        return reason_in(_read(self._errors)) or "the check ended without a reason"

    def close(self) -> None:
        """End the check if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._errors.close()


def reason_in(errors: str) -> str:
    """Return the last line with words, without the name of the program."""
    lines = [DECORATION.sub("", line) for line in errors.splitlines()]
    worded = [line for line in lines if WORD.search(line)]
    return worded[-1].removeprefix(PROGRAM_NAME) if worded else ""


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
