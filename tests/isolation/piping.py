"""Services whose standard output, or standard error, is a pipe of the test."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.launcher import Forked, Launcher
from tests.leftovers import processes
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import LOOK_AGAIN_S, ROOT, Process, ask_once, until, variables

DROPPED: Final = re.compile(r'log_lines_dropped_total\{kind="(\w+)"\} (\S+)')


class Pipe:
    """A pipe whose reading end the test holds, and may read in the background."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._read = bytearray()
        self._thread: threading.Thread | None = None

    def fill(self) -> None:
        """Write until nothing more fits, as long as nobody reads."""
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, b"x" * 100)
        except BlockingIOError:
            os.set_blocking(self.writer, True)

    def read_on(self) -> None:
        """Read to the end, in a thread."""
        self._thread = threading.Thread(target=self._read_all)
        self._thread.start()

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines that were read; fails where one is not JSON."""
        whole = bytes(self._read).rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of one event that were read."""
        return [line for line in self.lines() if line["event"] == name]

    def rest(self) -> bytes:
        """What follows the last line feed, once all writers have ended."""
        assert self._thread is not None
        self._thread.join(GIVE_UP_S)
        assert not self._thread.is_alive()
        return bytes(self._read).rpartition(b"\n")[2]

    def close(self) -> None:
        """Close what is open of it."""
        for descriptor in (self.reader, self.writer):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader = self.writer = -1

    def close_reader(self) -> None:
        """Close the reading end."""
        os.close(self.reader)
        self.reader = -1

    def close_writer(self) -> None:
        """Close the writing end, so that the pipe ends with the other writers."""
        os.close(self.writer)
        self.writer = -1

    def _read_all(self) -> None:
        while part := os.read(self.reader, 65_536):
            self._read += part


class Serving(NamedTuple):
    """A serving process and its port."""

    process: Process
    port: int

    async def until_up(self, workers: int = 1) -> None:
        """Wait until it answers, and has started all workers."""
        async with asyncio.timeout(GIVE_UP_S):
            while not await self._answers():  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(LOOK_AGAIN_S)
        if workers > 1:
            await until(lambda: len(self.workers()) == workers)

    def workers(self) -> set[int]:
        """The ids of its child processes that have not ended."""
        children = [each for each in processes() if each.parent == self.process.pid]
        return {each.pid for each in children if each.command}

    async def dropped(self) -> Counter[str]:
        """The log lines that were dropped so far, by kind."""
        text = (await ask_once(self.port, "/metrics")).body.decode()
        return Counter({kind: int(float(n)) for kind, n in DROPPED.findall(text)})

    async def _answers(self) -> bool:
        try:
            await ask_once(self.port, "/health/live")
        except (OSError, asyncio.IncompleteReadError):
            return False
        return True


@contextmanager
def forking(
    launcher: Launcher,
    *options: str,
    stdout: int | Path | None = None,
    stderr: int | None = None,
    command: str = "serve",
    **settings: Any,
) -> Iterator[Serving]:
    """Serve as `serving` does, but in a fork, which starts at once."""
    port = free_port()
    own = ["--sandbox"] if command == "serve" else []
    with open(os.devnull, "wb") as nothing, ExitStack() as stack:  # noqa: PTH123
        if isinstance(stdout, Path):
            stdout = stack.enter_context(stdout.open("wb")).fileno()
        unused = nothing.fileno()
        outputs = [unused if each is None else each for each in (stdout, stderr)]
        line = [command, *own, f"--port={port}", *options]
        pid = launcher.start_on(outputs, line, _variables(settings))
    process = Forked(launcher, pid)
    try:
        yield Serving(process, port)
    finally:
        process.close()


@contextmanager
def serving(
    *options: str, stderr: int = subprocess.DEVNULL, redirections: str = ""
) -> Iterator[Serving]:
    """Serve on the sandbox, with redirections of the shell."""
    port = free_port()
    program = [sys.executable, "-m", "service", "serve", "--sandbox", f"--port={port}"]
    line = ["sh", "-c", f'exec "$@" {redirections}', "sh", *program, *options]
    with subprocess.Popen(  # noqa: S603
        line,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd=ROOT,
        text=True,
        env={**os.environ, **_variables({})},
    ) as process:
        try:
            yield Serving(process, port)
        finally:
            process.kill()


def _variables(settings: dict[str, object]) -> dict[str, str]:
    return variables({"server__drain_s": 0.0, **settings})
