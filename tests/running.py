"""The service run as a process of its own, and callers who do not let up."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.patience import GIVE_UP_S

ROOT: Final = Path(__file__).parent.parent
COMMAND: Final = (
    *(sys.executable, "-m", "service"),
    *("serve", "--sandbox", "--port", "0"),
)
LOOK_AGAIN_S: Final = 0.01
USUAL: Final = {
    # Unless a test is about events, it makes no database in the working directory.
    "events__enabled": False,
    # A slow machine exceeds none of these.
    "upstream__timeout_s": 60.0,
    "upstream__deadline_s": 300.0,
    "server__shutdown_grace_s": 60.0,
}
READY: Final = "/health/ready"


class Running(NamedTuple):
    """A process that serves, where it does, and its log."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == name]


@contextmanager
def running(log: Path, *options: str, **settings: object) -> Iterator[Running]:
    """Serve on the sandbox; `server__drain_s=1` sets `server.drain_s`."""
    given = {
        f"COPILOT_USAGE_{key.upper()}": str(value)
        for key, value in (USUAL | settings).items()
    }
    with (
        log.open("wb") as out,
        subprocess.Popen(  # noqa: S603
            [*COMMAND, *options],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **given},
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


class Answer(NamedTuple):
    """One whole answer."""

    status: int
    is_last: bool
    """Whether the connection closes after it."""
    body: bytes


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> Answer:
    """Ask on a connection that is open; raises where the answer is not whole."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"Content-Length: (\d+)", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    return Answer(int(head.split()[1]), "Connection: close" in head, body)


async def ask_once(port: int, path: str) -> Answer:
    """Ask on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await ask(reader, writer, path)
    finally:
        writer.close()
        await writer.wait_closed()


async def hammer(port: int, path: str, answers: list[Answer]) -> None:
    """Ask again and again on one connection, until an answer says it is the last."""
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


async def exit_status(process: subprocess.Popen[str]) -> int:
    """How a process has ended, once it has."""
    async with asyncio.timeout(GIVE_UP_S):
        return await asyncio.to_thread(process.wait)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(GIVE_UP_S):
        while not holds():  # noqa: ASYNC110 - it sets no event of ours
            await asyncio.sleep(LOOK_AGAIN_S)


async def until_unready(port: int) -> Answer:
    """Wait for a process to want no new requests; gives the answer that says so."""
    async with asyncio.timeout(GIVE_UP_S):
        while (answer := await ask_once(port, READY)).status == 200:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
    return answer


def said_without(module: str, **sections: dict[str, object]) -> str:
    """What a process without a module says of settings, once it has made the service.

    It is told by the settings as shipped; these are those that need the module.
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
