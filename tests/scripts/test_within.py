"""Commands that have a time limit."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from scripts.within import ENDING, TIME_IS_OVER, run_within

GIVE_UP_S: Final = 60
SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "within.py"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give pytest its handlers of signals back."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_is_that_of_the_command(status: int) -> None:
    """A command that ends in time is not touched."""
    assert run_within(GIVE_UP_S, ["sh", "-c", f"exit {status}"]) == status


def test_a_command_that_takes_too_long_ends_with_its_children(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No process is left that has the output open, and the line names the command."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # noqa: FBT003
    endless = "sh -c 'while :; do sleep 60; done' & wait"
    assert run_within(0.1, ["sh", "-c", endless]) == TIME_IS_OVER
    os.close(writing)
    with os.fdopen(reading, "rb") as output:
        assert output.read() == b""
    assert capfd.readouterr().err == f"ended after 0 s: sh -c {endless}\n"


def test_ctrl_c_ends_the_command() -> None:
    """Its group is its own, so a terminal's signal would not reach it."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, SCRIPT, "60", "sh", "-c", "echo begun; sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.stdout.read() == ""
        assert process.wait(GIVE_UP_S) == 143


def test_a_signal_during_the_start_ends_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends what the start has just made, and not only this process."""
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(SystemExit, match="143"):
        run_within(GIVE_UP_S, ["sleep", "600"])
    assert started[0].returncode == -signal.SIGKILL
