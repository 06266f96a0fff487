"""First answer after the start of a process, with a compiled and migrated service.

A start imports modules, opens the storage and fetches the messages from an upstream
that takes 50 ms for each answer. `-X importtime` lists the modules that are loaded
until the first answer. Their imports are compared with those of the libraries that
every such service needs, by the processor time of processes that do nothing else.
"""

import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.load.processes import (
    CALL_S,
    OWN_TREE,
    Missing,
    family,
    get,
    sandbox,
    stop,
    tethered,
)
from benchmarks.report import Result, maximum, unmeasured
from benchmarks.upstreams import free_port

ROUNDS: Final = 7
UPSTREAM: Final = ("--messages", "110", "--latency-ms", "50")
FIRST_ANSWER_S: Final = 1.2
IMPORTS_RATIO: Final = 1.5
LIBRARIES: Final = (
    *("aiohttp.web", "msgspec", "structlog", "numpy"),
    "sqlalchemy.ext.asyncio",
)
POLL_S: Final = 0.002
WITH_TIMES: Final = ("-X", "importtime")
IMPORT_LINE: Final = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s+(\S+)")
LAST_OF_PYTHON: Final = "site"
"""Python imports it, and what comes before it, at each start."""
CPU_FIELDS: Final = slice(11, 13)
"""User and system time in /proc/PID/stat, counted from the field after the name."""
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
IMPORT_ALL: Final = """
import contextlib, importlib, sys, time
{prelude}
began = time.process_time()
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
print(time.process_time() - began)
"""
OWN_PRELUDE: Final = "import gc; gc.disable()"
"""The service imports without garbage collections."""
ANSWER: Final = f"first answer, to {FIRST_ANSWER_S:g} s"
IMPORTS: Final = "imports until then, to those of the libraries"


class Start(NamedTuple):
    """Seconds until the first answer, and the processor time until then."""

    answer_s: float
    cpu_s: float


def run() -> list[Result]:
    """Start the service and import the libraries, in turns."""
    try:
        return _judge(*_measure())
    except (Missing, OSError, subprocess.SubprocessError) as error:
        return [unmeasured(name, error) for name in (ANSWER, IMPORTS)]


def _judge(
    starts: Sequence[Start], own: Sequence[float], libraries: Sequence[float]
) -> list[Result]:
    answer_s, cpu_s = (statistics.median(each) for each in zip(*starts, strict=True))
    ratio = statistics.median(a / b for a, b in zip(own, libraries, strict=True))
    note = f"{answer_s:.2f} s, of which {cpu_s:.2f} s on the processor"
    imported = (
        f"{statistics.median(own):.3f} s of {statistics.median(libraries):.3f} s on "
        f"the processor, for {', '.join(LIBRARIES)}"
    )
    return [
        maximum(ANSWER, answer_s / FIRST_ANSWER_S, 1, note),
        maximum(IMPORTS, ratio, IMPORTS_RATIO, imported),
    ]


def _measure() -> tuple[list[Start], list[float], list[float]]:
    starts, own, libraries = [], [], []
    with sandbox(*UPSTREAM) as upstream, tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        # The first start compiles and migrates.
        _start(upstream.url, where)
        _start(upstream.url, where, *WITH_TIMES)
        modules = _loaded(_errors(where).read_text())
        for _ in range(ROUNDS):
            starts.append(_start(upstream.url, where))
            libraries.append(_import_s(LIBRARIES))
            own.append(_import_s(modules, OWN_PRELUDE))
    return starts, own, libraries


def _loaded(report: str) -> list[str]:
    """Return the modules of a report, without those that Python itself loads."""
    names = IMPORT_LINE.findall(report)
    return names[names.index(LAST_OF_PYTHON) + 1 :]


def _start(upstream_url: str, folder: Path, *python_options: str) -> Start:
    """Start the service until its first answer; standard error goes to a file."""
    port = free_port()
    command = [str(OWN_TREE.python), *python_options]
    command += OWN_TREE.command("serve", "--port", str(port))[1:]
    with _errors(folder).open("wb") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            tethered(command),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=OWN_TREE.root,
            env=_environment(upstream_url, folder),
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/usage", process)
            answered = time.perf_counter()
            return Start(answered - started, sum(map(_cpu_s, family(process.pid))))
        finally:
            stop(process)


def _environment(upstream_url: str, folder: Path) -> dict[str, str]:
    environment = OWN_TREE.environment | {
        "COPILOT_USAGE_UPSTREAM__BASE_URL": upstream_url,
        "COPILOT_USAGE_STORAGE__URL": f"sqlite+aiosqlite:///{folder}/service.db",
        "COPILOT_USAGE_SERVER__DRAIN_S": "0",
    }
    # Otherwise each start would compile the whole service.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once the service answers; raise `Missing` if it ends before."""
    deadline = time.monotonic() + CALL_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Missing(f"the service ended with {process.returncode}")
        try:
            get(url)
        except ConnectionError:
            time.sleep(POLL_S)
        except OSError as error:
            if not isinstance(getattr(error, "reason", None), ConnectionError):
                raise
            time.sleep(POLL_S)
        else:
            return
    raise Missing("the service does not answer")


def _import_s(modules: Sequence[str], prelude: str = "") -> float:
    """Return the processor time of importing modules in a new process."""
    program = IMPORT_ALL.format(prelude=prelude)
    done = subprocess.run(  # noqa: S603 - our own command
        [str(OWN_TREE.python), "-c", program, *modules],
        check=True,
        stdout=subprocess.PIPE,
        cwd=OWN_TREE.root,
        env=OWN_TREE.environment,
    )
    return float(done.stdout)


def _errors(folder: Path) -> Path:
    return folder / "errors"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[CPU_FIELDS])) / TICKS_PER_S
