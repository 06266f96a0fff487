"""Services that start at once: forks of one process that has imported everything.

A service that is killed dozens of times would spend a minute on imports. What is run is
the command line itself, in a process of its own for each service.

`python -m tests.launcher FD` receives JSON arrays from a socket. One has the options
and the environment of a command to start, whose outputs are passed with it, or the id
of a process to wait for.
"""

import asyncio
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Any, Final

from service.__main__ import main
from service.server import handover
from service.storage import redis_store
from service.usage import shared_cache
from service.usage.pricing import text
from service.web import shared_buckets
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import LOOK_AGAIN_S, ROOT, Answer, Running, ask_once, variables

OUTPUTS: Final = (1, 2)
LOADED_ON_USE: Final = (
    *("alembic.command", "asyncpg", "gunicorn.arbiter", "jsonschema_rs"),
    *(
        "nats.js.kv",
        "redis.asyncio",
        "service.server.workers",
        "sqlalchemy.dialects.postgresql",
    ),
)
"""Modules that each fork would load again, though a start alone needs none of them."""
MAX_BYTES: Final = 1 << 16
CLOCK_AHEAD_S: Final = "TEST_CLOCK_AHEAD_S"
"""A variable for a service: seconds by which its clock is ahead of this machine's."""


def unmeasured() -> dict[str, str]:
    """The environment of a process whose coverage is not measured.

    What is killed has no time to say what it has covered, and starts faster so.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COVERAGE_")
    }


class Launcher:
    """Starts services, and ends those that are left when it is closed."""

    def __init__(self, code: Path = ROOT) -> None:
        # One message of this kind of socket is received whole.
        kind = socket.SOCK_SEQPACKET
        self._socket, other = socket.socketpair(socket.AF_UNIX, kind)
        self._alone = Lock()
        with other:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "tests.launcher", str(other.fileno())],
                pass_fds=[other.fileno()],
                cwd=code,
                env=unmeasured() | {"PYTHONPATH": f"{code}:{ROOT}"},
            )

    def start(self, options: list[str], environment: dict[str, str], log: Path) -> int:
        """Start a command with one file for its outputs; gives its id."""
        with log.open("ab") as file:
            return self.start_on([file.fileno()] * 2, options, environment)

    def start_on(
        self, outputs: list[int], options: list[str], environment: dict[str, str]
    ) -> int:
        """Start a command with these standard outputs; gives its id."""
        return self._request([options, environment], outputs)

    def wait(self, process_id: int) -> int:
        """Wait for a service to end; gives its status, or less its signal."""
        return self._request([process_id])

    def close(self) -> None:
        """End all that has not been waited for."""
        self._socket.close()
        assert self._process.wait(GIVE_UP_S) == 0

    def _request(self, message: list[Any], outputs: list[int] | None = None) -> int:
        with self._alone:
            text = json.dumps(message).encode()
            socket.send_fds(self._socket, [text], outputs or [])
            return int(self._socket.recv(MAX_BYTES))


class Forked:
    """A process of a launcher, with the methods of `subprocess.Popen` for it."""

    def __init__(self, launcher: Launcher, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._launcher = launcher
        self._handle = os.pidfd_open(pid)

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def poll(self) -> int | None:
        """Its status, or None while it runs."""
        return self._look(0.0)

    def wait(self, timeout: float | None = GIVE_UP_S) -> int:
        """Its status, once it has ended."""
        status = self._look(timeout)
        if status is None:
            raise TimeoutError(f"process {self.pid} has not ended")
        return status

    def kill(self) -> None:
        """End it, if it still runs."""
        self.send_signal(signal.SIGKILL)

    def close(self, *, kills: bool = True) -> int:
        """Forget it after its end, for which it may be killed; gives its status."""
        if kills:
            self.kill()
        status = self.wait()
        os.close(self._handle)
        return status

    def _look(self, timeout: float | None) -> int | None:
        if (
            self.returncode is None
            and select.select([self._handle], [], [], timeout)[0]
        ):
            self.returncode = self._launcher.wait(self.pid)
        return self.returncode


@contextmanager
def forked(
    launcher: Launcher,
    log: Path,
    *options: str,
    port: int | None = 0,
    **settings: object,
) -> Iterator[Running]:
    """Serve as `running` does, but in a fork; standard error goes to `errors`.

    Without a port, that of the settings is used.
    """
    errors = log.with_suffix(".errors")
    with log.open("ab") as out, errors.open("ab") as err:
        chosen = [] if port is None else ["--port", str(port)]
        command = ["serve", *chosen, *options]
        outputs = [out.fileno(), err.fileno()]
        pid = launcher.start_on(outputs, command, variables(settings))
    process = Forked(launcher, pid)
    service = Running(process, 0, log)
    try:
        while not (starts := service.events("service.started")):
            assert process.poll() is None, errors.read_text()
            select.select([], [], [], LOOK_AGAIN_S)
        yield service._replace(port=int(starts[0]["url.full"].rpartition(":")[2]))
    finally:
        process.close()


class Service:
    """A service that can be killed and started again, always at the same port.

    `storage__url="…"` sets `storage.url`.
    """

    command = "serve"

    def __init__(self, launcher: Launcher, log: Path, **settings: object) -> None:
        self.port = free_port()
        self.log = log
        self.process_id: int | None = None
        self._launcher = launcher
        self._environment = {
            f"COPILOT_USAGE_{key.upper()}": str(settings[key]) for key in settings
        }

    def set_clock(self, ahead_s: float) -> None:
        """Have its clock be ahead of this machine's, from its next start."""
        self._environment[CLOCK_AHEAD_S] = str(ahead_s)

    def start(self, *options: str) -> int:
        """Start it; it listens some time later. Gives its process id."""
        given = [self.command, f"--port={self.port}", *options]
        self.process_id = self._launcher.start(given, self._environment, self.log)
        return self.process_id

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process_id is not None
        os.kill(self.process_id, number)

    def kill(self) -> None:
        """End it, with no time for anything; fails where it has ended by itself."""
        self.send_signal(signal.SIGKILL)
        assert self._wait() == -signal.SIGKILL, self.log.read_text()

    async def stop(self) -> int:
        """Tell it to end, and give its status."""
        self.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Its status, once it has ended."""
        async with asyncio.timeout(GIVE_UP_S):
            return await asyncio.to_thread(self._wait)

    def _wait(self) -> int:
        assert self.process_id is not None
        process_id, self.process_id = self.process_id, None
        return self._launcher.wait(process_id)

    async def until_up(self) -> None:
        """Wait for it to listen."""
        async with asyncio.timeout(GIVE_UP_S):
            while await self._asked() is None:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _asked(self) -> Answer | None:
        try:
            return await ask_once(self.port, "/health/live")
        except (OSError, asyncio.IncompleteReadError):
            return None


def launch(descriptor: str) -> None:
    """Start and wait for services, as standard input says, until it ends."""
    _warm_up()
    running: set[int] = set()
    requests = socket.socket(fileno=int(descriptor))
    while True:
        text, outputs, *_ = socket.recv_fds(requests, MAX_BYTES, len(OUTPUTS))
        if not text:
            break
        said = json.loads(text)
        if len(said) == 1:
            (process_id,) = said
            running.discard(process_id)
            answer = os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])
        else:
            answer = os.fork()
            if not answer:
                requests.close()
                _serve(outputs, *said)
            running.add(answer)
        for each in outputs:
            os.close(each)
        requests.send(str(answer).encode())
    for process_id in running:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


def _warm_up() -> None:
    """Do what each start would do again: imports, tables, and a look at all memory."""
    for name in LOADED_ON_USE:
        import_module(name)
    # On a slow machine Redis is slow.
    vars(redis_store).update(CONNECT_S=GIVE_UP_S, COMMAND_S=GIVE_UP_S)
    vars(shared_cache).update(LOOK_S=GIVE_UP_S)
    vars(shared_buckets).update(MAX_WAIT_S=GIVE_UP_S)
    text.prepare()
    sys.argv = ["copilot-usage", "config"]
    with redirect_stdout(StringIO()), suppress(SystemExit):
        main()
    gc.collect()
    gc.freeze()


def _serve(outputs: list[int], options: list[str], environment: dict[str, str]) -> None:
    """Be the service, and nothing but it."""
    _set_clock_ahead(float(environment.pop(CLOCK_AHEAD_S, 0)))
    os.environ.update(environment)
    # As if it had been started so: a reload starts the same again.
    handover.ENVIRONMENT.update(environment)
    handover.COMMAND[:] = [sys.executable, "-m", "service", *options]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for output, descriptor in zip(OUTPUTS, outputs, strict=True):
        os.dup2(descriptor, output)
        os.close(descriptor)
    sys.argv = ["copilot-usage", *options]
    main()
    sys.exit(0)


def _set_clock_ahead(seconds: float) -> None:
    """Have the functions of `time` return another time, as a wrong clock does."""
    if seconds:
        now, now_ns, ahead_ns = time.time, time.time_ns, round(seconds * 1e9)
        vars(time).update(
            time=lambda: now() + seconds, time_ns=lambda: now_ns() + ahead_ns
        )


if __name__ == "__main__":
    launch(sys.argv[1])
