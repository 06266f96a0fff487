"""The processes of a load run: started, pinned to a core, measured, ended by their id.

It needs nothing but the standard library: the load tools run in an environment of
their own, which knows nothing of the service but its command.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import IO, Final
from urllib.error import HTTPError

from benchmarks.load.loopback import loopback
from benchmarks.upstreams import free_port

ROOT: Final = Path(__file__).parents[2]
CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = CORES[0]
LOAD_CORE: Final = CORES[-1]
START_S: Final = 180.0
"""Generating a million messages takes its time."""
STOP_S: Final = 15.0
POLL_S: Final = 0.05
CALL_S: Final = 120.0
MEMORY_FILE: Final = "/memfd:"
BLOCK_BYTES: Final = 512
"""The unit of `st_blocks` (stat(2))."""


class Missing(Exception):
    """A tool or a feature is not there to be measured with; the text says which."""


@dataclass(frozen=True)
class Tree:
    """Source tree of the service, and the Python that has its dependencies."""

    root: Path
    python: Path

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `copilot-usage` with these arguments."""
        return [str(self.python), "-m", "service", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which no other tree's code can be imported."""
        # It precedes what is installed: an editable install names another tree.
        return {**os.environ, "PYTHONPATH": str(self.root), "PYTHONSAFEPATH": ""}


def _own_tree() -> Tree:
    python = ROOT / ".venv/bin/python"
    return Tree(ROOT, python if python.exists() else Path(sys.executable))


OWN_TREE: Final = _own_tree()
"""This checkout, in its own environment."""


@dataclass(frozen=True)
class Server:
    """A server of our own: where it answers, and its process."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The id of its first process."""
        return self.process.pid


def tool(name: str, package: str) -> str:
    """The path of a program; `Missing` names the Debian package that has it."""
    found = which(name) or which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise Missing(f"{name} is not installed: apt-get install {package}")
    return found


def pinned(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    """The command on these cores alone, where the machine can do that."""
    if which("taskset") is None:
        return list(command)
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def tethered(command: Sequence[str]) -> list[str]:
    """The command, ended by the system should this process die without ending it."""
    if which("setpriv") is None:
        return list(command)
    return ["setpriv", "--pdeathsig", "TERM", *command]


def pin_to(core: int) -> None:
    """Keep this process, and those it will start, on one core."""
    os.sched_setaffinity(0, {core})


@contextmanager
def running(
    command: Sequence[str],
    answers_at: str,
    *,
    output: int | IO[bytes] = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    tree: Tree = OWN_TREE,
) -> Iterator[Server]:
    """Run a server until the context ends; `Missing` where it does not start.

    `answers_at` is the URL that tells that it is there.
    """
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            tethered(command),
            stdout=output,
            stderr=complaints,
            cwd=tree.root,
            env={**tree.environment, **(environment or {})},
        )
        try:
            if not _answers(answers_at, process):
                complaints.seek(0)
                lines = complaints.read().decode(errors="replace").split("\n")
                raise Missing(f"does not start: {' '.join(lines[-3:]).strip()}")
            yield Server(answers_at.rpartition("/health")[0] or answers_at, process)
        finally:
            stop(process)


@contextmanager
def service(
    upstream_url: str,
    *options: str,
    cores: Sequence[int] = (SERVER_CORE,),
    output: int | IO[bytes] = subprocess.DEVNULL,
    tree: Tree = OWN_TREE,
    **settings: str,
) -> Iterator[Server]:
    """The service against an upstream; settings as `cache__ttl_s="1"`."""
    port = free_port()
    command = tree.command("serve", "--port", str(port), *options)
    given = {f"COPILOT_USAGE_{name.upper()}": text for name, text in settings.items()}
    with running(
        pinned(cores, command),
        f"http://127.0.0.1:{port}/health/live",
        output=output,
        tree=tree,
        environment={
            "COPILOT_USAGE_UPSTREAM__BASE_URL": upstream_url,
            "COPILOT_USAGE_LOGGING__FORMAT": "json",
            "COPILOT_USAGE_EVENTS__ENABLED": "false",
            "COPILOT_USAGE_VEHICLES__ENABLED": "false",
            **given,
        },
    ) as server:
        yield server


@contextmanager
def sandbox(*options: str) -> Iterator[Server]:
    """The sandbox upstream on the load's core."""
    port = free_port()
    command = OWN_TREE.command("sandbox", "--port", str(port), *options)
    with running(pinned([LOAD_CORE], command), f"http://127.0.0.1:{port}") as server:
        yield server


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end; end it where it does not."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        listed = [
            each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")
        ]
    except OSError:
        return []
    children = [int(child) for text in listed for child in text.split()]
    return [pid, *(each for child in children for each in family(child))]


def resident_bytes(pid: int) -> int:
    """Return the memory of a process tree in bytes; shared pages count once (PSS).

    Files in memory count as a whole, since PSS has only the pages that are mapped.
    """
    processes = family(pid)
    return sum(map(_own_bytes, processes)) + _memory_file_bytes(processes)


def get(
    url: str, headers: Mapping[str, str] | None = None
) -> tuple[bytes, Mapping[str, str]]:
    """The body and the headers of a 200 on the loopback address."""
    request = urllib.request.Request(loopback(url), headers=dict(headers or {}))  # noqa: S310
    with urllib.request.urlopen(request, timeout=CALL_S) as response:  # noqa: S310
        return response.read(), response.headers


def _own_bytes(pid: int) -> int:
    """Return the memory of a process without that of files in memory."""
    try:
        sums = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    rows = [line.split() for line in sums.splitlines()]
    kilobytes = {row[0]: int(row[1]) for row in rows if row[-1] == "kB"}
    return (kilobytes["Pss:"] - kilobytes["Pss_Shmem:"]) * 1024


def _memory_file_bytes(processes: Sequence[int]) -> int:
    """Return the size of the files in memory that these processes have open."""
    sizes: dict[int, int] = {}
    for pid in processes:
        for each in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):  # closed meanwhile
                if str(each.readlink()).startswith(MEMORY_FILE):
                    found = each.stat()
                    sizes[found.st_ino] = found.st_blocks * BLOCK_BYTES
    return sum(sizes.values())


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process answers before it ends or the time is over."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=START_S).close()  # noqa: S310 - loopback
        except HTTPError:
            return True
        except OSError:
            time.sleep(POLL_S)
        else:
            return True
    return False
