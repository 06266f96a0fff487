"""The service as a process, and clients that send requests continuously."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from tests.patience import GIVE_UP_S

ROOT: Final = Path(__file__).parent.parent
SERVICE: Final = (sys.executable, "-m", "service")
SERVE: Final = (*SERVICE, "serve", "--port", "0")
COMMAND: Final = (*SERVE, "--sandbox")
LOOK_AGAIN_S: Final = 0.01
USUAL: Final = {
    "sandbox__enabled": True,
    # Unless a test is about events, it makes no database in the working directory.
    "events__enabled": False,
    "periods__enabled": False,
    # Unless a test is about that, only requests call upstream.
    "health__warm_up": False,
    # A slow machine exceeds none of these.
    "upstream__timeout_s": 60.0,
    "upstream__deadline_s": 300.0,
    "server__shutdown_grace_s": 60.0,
}
READY: Final = "/health/ready"


class Process(Protocol):
    """A process of a service: `subprocess.Popen`, or a fork."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = ...) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Running(NamedTuple):
    """A serving process, its port and its log."""

    process: Process
    port: int
    log: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        # The last line may be written in this moment.
        whole = self.log.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if line["event"] == name]


@contextmanager
def running(log: Path, *options: str, **settings: object) -> Iterator[Running]:
    """Serve, on the sandbox by default; `server__drain_s=1` sets `server.drain_s`."""
    with started(log, [*SERVE, *options], settings) as service:
        yield service


@contextmanager
def started(
    log: Path,
    command: Sequence[str],
    settings: Mapping[str, object],
    folder: Path = ROOT,
) -> Iterator[Running]:
    """Run a command that serves, with these settings over the usual ones."""
    with (
        log.open("wb") as out,
        subprocess.Popen(  # noqa: S603
            command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **variables(settings)},
        ) as process,
    ):
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
            assert found, said + process.stderr.read()
            yield Running(process, int(found[1]), log)
        finally:
            process.kill()


def variables(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment for these settings over the usual ones; None omits one."""
    return {
        f"COPILOT_USAGE_{key.upper()}": str(value)
        for key, value in {**USUAL, **settings}.items()
        if value is not None
    }


class Answer(NamedTuple):
    """One whole answer."""

    status: int
    is_last: bool
    """The connection closes after it."""
    body: bytes


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> Answer:
    """Send a request on an open connection; raises for an incomplete answer."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"Content-Length: (\d+)", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    return Answer(int(head.split()[1]), "Connection: close" in head, body)


async def ask_once(port: int, path: str) -> Answer:
    """Send a request on a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await ask(reader, writer, path)
    finally:
        writer.close()
        await writer.wait_closed()


async def hammer(port: int, path: str, answers: list[Answer]) -> None:
    """Send requests on one connection, until an answer is the last."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        is_last = False
        while not is_last:
            answers.append(await ask(reader, writer, path))
            is_last = answers[-1].is_last
        assert await reader.read() == b""
    finally:
        writer.close()
        await writer.wait_closed()


async def exit_status(process: Process) -> int:
    """Wait for the exit status of a process."""
    async with asyncio.timeout(GIVE_UP_S):
        return await asyncio.to_thread(process.wait)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(GIVE_UP_S):
        while not holds():  # noqa: ASYNC110 - it sets no event of ours
            await asyncio.sleep(LOOK_AGAIN_S)


async def until_ready(port: int) -> None:
    """Wait until a process is ready: on a slow machine the first fetch takes long."""
    async with asyncio.timeout(GIVE_UP_S):
        while (await ask_once(port, READY)).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)


async def until_unready(port: int) -> Answer:
    """Wait until a process is unready because it drains, and return that answer."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            answer = await ask_once(port, READY)
            if answer.status != 200 and b"warming up" not in answer.body:
                return answer
            await asyncio.sleep(LOOK_AGAIN_S)


def said_without(module: str, **sections: dict[str, object]) -> str:
    """Return the error of settings in a process without a module.

    The process makes the service with the shipped settings first.
    """
    program = f"""
import sys
sys.modules[{module!r}] = None
from service.app import create_app
from service.settings import SettingsError, load
create_app(load().settings)
try:
    load(options={sections!r})
except SettingsError as error:
    print(error)
"""
    ran = subprocess.run(  # noqa: S603 - it runs this interpreter
        [sys.executable, "-c", program],
        env=dict(os.environ),
        capture_output=True,
        check=True,
        text=True,
    )
    return ran.stdout.rstrip("\n")
