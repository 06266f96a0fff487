"""Tasks during the load: measuring memory, and stopping the upstream."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.load.processes import ROOT, resident_bytes, stop, tethered
from benchmarks.load.runner import Watch

WARM_UP: Final = 0.1
"""The share of a soak after which memory is first read: by then all is allocated."""
MOST_GROWTH: Final = 1.2
MEGABYTE: Final = 1_000_000
POLL_S: Final = 0.05
KILL_S: Final = 10.0


def nothing() -> Watch:
    """Only the answers matter."""
    return Watch(lambda _seconds: None, lambda _response: None, list)


class Memory:
    """The memory of the server's processes, from after the warm-up to the end."""

    def __init__(self, pid: int, requests: int) -> None:
        self._pid = pid
        self._warm = int(requests * WARM_UP)
        self._answers = 0
        self._before = 0

    def watch(self) -> Watch:
        """Reads it by the number of answers, so there is nothing to play."""
        return Watch(lambda _seconds: None, self._answered, self._verdict)

    def _answered(self, _response: Any) -> None:
        self._answers += 1
        if self._answers == self._warm:
            self._before = resident_bytes(self._pid)

    def _verdict(self) -> list[str]:
        after = resident_bytes(self._pid)
        if not after or not self._before:
            return [f"process {self._pid} could not be measured from warm-up to end"]
        print(
            f"memory: {self._before / MEGABYTE:.1f} MB after {self._warm:,} answers, "
            f"{after / MEGABYTE:.1f} MB after {self._answers:,}"
        )
        grown = after / self._before
        return [] if grown <= MOST_GROWTH else [f"memory grew {grown:.2f} times"]


class Outage:
    """Kills an upstream on this machine and starts the very same command again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        process = Path(f"/proc/{pid}")
        self._command = _split(process / "cmdline")
        self._environment = dict(
            each.partition("=")[::2] for each in _split(process / "environ")
        )
        if "sandbox" not in self._command:
            raise ValueError(f"not a sandbox: {shlex.join(self._command)}")
        self._again: subprocess.Popen[bytes] | None = None
        self._is_dead = False
        self._stale_while_dead = 0
        self._fresh_since = False

    def watch(self) -> Watch:
        """Plays it in the middle third of the run."""
        return Watch(self._play, self._answered, self._verdict)

    def close(self) -> None:
        """End the sandbox that was started again."""
        if self._again is not None:
            stop(self._again)

    def _play(self, seconds: float) -> None:
        time.sleep(seconds / 3)
        print(f"outage: end the upstream, process {self._pid}")
        end(self._pid)
        self._is_dead = True
        time.sleep(seconds / 3)
        self._again = subprocess.Popen(  # noqa: S603 - what has just run
            tethered(self._command),
            env=self._environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        print(f"outage: upstream is process {self._again.pid} now")
        self._is_dead = False

    def _answered(self, response: Any) -> None:
        is_stale = "stale" in response.headers.get("Cache-Status", "")
        if self._is_dead:
            self._stale_while_dead += is_stale
        elif self._again is not None:
            self._fresh_since |= not is_stale

    def _verdict(self) -> list[str]:
        print(
            f"outage: {self._stale_while_dead:,} stale answers while upstream was dead"
        )
        problems = []
        if not self._stale_while_dead:
            problems.append("no answer said it was stale: is cache.ttl_s short enough?")
        if not self._fresh_since:
            problems.append("no fresh answer after upstream was back")
        return problems


def end(pid: int) -> None:
    """End a process at once, and wait until its port is free."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + KILL_S
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _split(file: Path) -> list[str]:
    return [text for text in file.read_text().split("\0") if text]
