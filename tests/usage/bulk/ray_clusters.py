"""The command on Ray, in .venv-ray, and clusters of Ray that tests start and kill."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.patience import GIVE_UP_S

LOOK_AGAIN_S: Final = 0.005
ROOT: Final = Path(__file__).parents[3]
PYTHON: Final = ROOT / ".venv-ray" / "bin" / "python"
SMALL_UNITS: Final = """
import sys
from service.usage.bulk import inputs
inputs.UNIT_BYTES = int(sys.argv.pop(1))
from service.__main__ import main
main()
"""
"""The command with units of the size of its first argument."""
HEAD: Final = """
import sys
import ray
ray.__version__ = sys.argv.pop(1) or ray.__version__
from ray.scripts.scripts import main
main()
"""
"""The command `ray`, of the version in its first argument."""

needs_ray = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-ray; run make ray")


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path, since Ray puts sockets below it."""
    folder = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    yield Path(folder)
    kill_all(Path(folder))
    shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """Variables that keep Ray on this machine, and its files in a folder."""
    return os.environ | {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def start_price(
    folder: Path, *arguments: str | Path, unit_bytes: int = 32 * 1024 * 1024
) -> "subprocess.Popen[str]":
    """Start the command, with its output in a pipe."""
    command = (PYTHON, "-c", SMALL_UNITS, str(unit_bytes), "price", *arguments)
    return subprocess.Popen(  # noqa: S603
        command,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(command: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for the end of a command; returns its status and its output."""
    printed, _ = command.communicate(timeout=GIVE_UP_S)
    return command.returncode, printed


@contextmanager
def running_head(folder: Path, version: str = "") -> Iterator[str]:
    """Start the head of a cluster with two cores; yields its address."""
    options = ("--head", "--port=0", "--num-cpus=2", "--include-dashboard=false")
    own = (f"--temp-dir={folder}", "--node-ip-address=127.0.0.1")
    memory = (
        f"--object-store-memory={80 * 1024 * 1024}",
        f"--plasma-directory={folder}",
    )
    subprocess.run(  # noqa: S603
        [PYTHON, "-c", HEAD, version, "start", *options, *own, *memory],
        cwd=folder,
        env=environment(folder),
        check=True,
        capture_output=True,
        timeout=GIVE_UP_S,
    )
    try:
        yield (folder / "ray_current_cluster").read_text().strip()
    finally:
        kill_all(folder)


def processes(folder: Path, mark: str = "") -> list[int]:
    """The processes that run in a folder, and whose command has a text."""
    found = []
    for each in Path("/proc").iterdir():
        with suppress(OSError):
            if each.name.isdecimal() and (each / "cwd").readlink() == folder:
                command = (each / "cmdline").read_bytes()
                if command and mark.encode() in command:
                    found.append(int(each.name))
    return found


def kill_all(folder: Path, mark: str = "") -> int:
    """Kill the processes that `processes` finds; returns how many they were."""
    found = processes(folder, mark)
    for each in found:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return len(found)


def wait_for_records(output: Path, count: int) -> None:
    """Wait until a run has finished so many units."""
    units = output.parent / f".{output.name}.work" / "units"
    wait_until(lambda: len(list(units.glob("*.record"))) >= count)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, while a run goes on."""
    end = time.monotonic() + GIVE_UP_S
    while not holds():
        assert time.monotonic() < end, "the run does not go on"
        time.sleep(LOOK_AGAIN_S)
