"""Services that start at once: forks of one process that has imported everything.

A service that is killed dozens of times would spend a minute on imports. What is run is
the command line itself, in a process of its own for each service.

`python -m tests.launcher` reads a JSON array a line: the options, the
environment and the log of a service to start, or the id of one to wait for.
"""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any, Final

from aiohttp.test_utils import unused_port

from service.__main__ import main
from service.storage import shared_store
from service.usage.pricing import text
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, ROOT, Answer, ask_once

OUTPUTS: Final = (1, 2)


class Launcher:
    """Starts services, and ends those that are left when it is closed."""

    def __init__(self) -> None:
        # What is killed has no time to say what it has covered, and starts faster so.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("COVERAGE_")
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.launcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def start(self, options: list[str], environment: dict[str, str], log: Path) -> int:
        """Start a service; gives its id."""
        return self._tell([options, environment, str(log)])

    def wait(self, process_id: int) -> int:
        """Wait for a service to end; gives its status, or less its signal."""
        return self._tell([process_id])

    def close(self) -> None:
        """End all that has not been waited for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(GIVE_UP_S) == 0
        self._process.stdout.close()

    def _tell(self, what: list[Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Service:
    """A service that can be killed and started again, always at the same port.

    `storage__url="…"` sets `storage.url`.
    """

    def __init__(self, launcher: Launcher, log: Path, **settings: object) -> None:
        self.port = unused_port()
        self.log = log
        self.process_id: int | None = None
        self._launcher = launcher
        self._environment = {
            f"COPILOT_USAGE_{key.upper()}": str(settings[key]) for key in settings
        }

    def start(self, *options: str) -> int:
        """Start it; it listens some time later. Gives its process id."""
        given = ["serve", f"--port={self.port}", *options]
        self.process_id = self._launcher.start(given, self._environment, self.log)
        return self.process_id

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process_id is not None
        os.kill(self.process_id, number)

    def kill(self) -> None:
        """End it, with no time for anything; fails where it has ended by itself."""
        self.tell(signal.SIGKILL)
        assert self._wait() == -signal.SIGKILL, self.log.read_text()

    async def stop(self) -> int:
        """Tell it to end, and give its status."""
        self.tell(signal.SIGTERM)
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


def launch() -> None:
    """Start and wait for services, as standard input says, until it ends."""
    _warm_up()
    running: set[int] = set()
    for line in sys.stdin:
        said = json.loads(line)
        if len(said) == 1:
            (process_id,) = said
            running.discard(process_id)
            answer = os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])
        else:
            answer = os.fork()
            if not answer:
                _serve(*said)
            running.add(answer)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    for process_id in running:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


def _warm_up() -> None:
    """Do what each start would do again: imports, tables, and a look at all memory."""
    # On a slow machine Redis is slow.
    vars(shared_store).update(CONNECT_S=GIVE_UP_S, COMMAND_S=GIVE_UP_S)
    text.prepare()
    sys.argv = ["copilot-usage", "config"]
    with redirect_stdout(StringIO()), suppress(SystemExit):
        main()
    gc.collect()
    gc.freeze()


def _serve(options: list[str], environment: dict[str, str], log: str) -> None:
    """Be the service, and nothing but it."""
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for output in OUTPUTS:
        os.dup2(file, output)
    sys.argv = ["copilot-usage", *options]
    main()
    sys.exit(0)


if __name__ == "__main__":
    launch()
