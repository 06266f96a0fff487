"""The lock on the set-up: real processes of a checkout that is a folder of the test."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

import pytest

from scripts.with_lock import WAITING

SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "with_lock.py"
GIVE_UP_S: Final = 60
HOLD: Final = "echo begun; read line; echo ended"
"""It holds the lock until its standard input closes."""


class Start(Protocol):
    """Starts a command in a shell under the lock of the checkout."""

    def __call__(self, command: str) -> subprocess.Popen[str]: ...


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script in it, as in a checkout."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    return tmp_path


@pytest.fixture
def start(checkout: Path) -> Iterator[Start]:
    """A factory of processes, which are killed at the end with all they started."""
    with ExitStack() as stack:

        def run(command: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(  # noqa: S603
                [
                    sys.executable,
                    checkout / "scripts/with_lock.py",
                    "sh",
                    "-c",
                    command,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(kill_group, process.pid)
            return process

        yield run


def kill_group(pid: int) -> None:
    """Kill a process and its children, if any of them lives."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_second_waits_for_the_first(start: Start) -> None:
    """It says so in one line, and its command starts when the first one has ended."""
    first = start(HOLD)
    assert line_of(first) == "begun\n"
    second = start("echo mine")
    assert line_of(second) == WAITING
    first.communicate("\n", GIVE_UP_S)
    assert second.communicate(timeout=GIVE_UP_S)[0] == "mine\n"


def test_a_kill_releases_the_lock(start: Start) -> None:
    """A process that is killed leaves no lock behind."""
    first = start(HOLD)
    assert line_of(first) == "begun\n"
    kill_group(first.pid)
    first.wait(GIVE_UP_S)
    assert start("echo mine").communicate(timeout=GIVE_UP_S)[0] == "mine\n"


def test_what_outlives_its_parent_keeps_the_lock(start: Start) -> None:
    """An installer whose `make` was killed is waited for."""
    first = start("exec 3<&0; (echo begun; read line <&3) & wait")
    assert line_of(first) == "begun\n"
    first.kill()
    first.wait(GIVE_UP_S)
    second = start("echo mine")
    assert line_of(second) == WAITING
    assert first.stdin is not None
    first.stdin.close()
    assert second.communicate(timeout=GIVE_UP_S)[0] == "mine\n"


def test_a_removed_lock_is_replaced(start: Start, checkout: Path) -> None:
    """One that waited while `make clean` removed the file locks its successor."""
    first = start(HOLD)
    assert line_of(first) == "begun\n"
    second = start(HOLD)
    assert line_of(second) == WAITING
    (checkout / ".cache/set-up.lock").unlink()
    first.communicate("\n", GIVE_UP_S)
    assert line_of(second) == "begun\n"
    third = start("echo mine")
    assert line_of(third) == WAITING
    second.communicate("\n", GIVE_UP_S)
    assert third.communicate(timeout=GIVE_UP_S)[0] == "mine\n"


def test_the_status_is_that_of_the_command(start: Start) -> None:
    """A failed set-up fails under the lock too."""
    process = start("exit 3")
    process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 3
