"""Serving until a signal: in processes of their own, since signals are per process."""

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession, web
from msgspec.structs import replace

from service.serving import listening
from service.settings import load
from tests.patience import GIVE_UP_S
from tests.running import (
    Answer,
    ask_once,
    exit_status,
    hammer,
    running,
    until,
    until_unready,
)

ROOT: Final = Path(__file__).parent.parent
DRAIN_S: Final = 3.0
"""Long enough for a slow machine to see the service drain."""
SERVER: Final = replace(load().settings.server, port=0, drain_s=0)

PREAMBLE: Final = """
import os, signal
from contextlib import asynccontextmanager
from service.serving import CannotStart, run

def send(name):
    os.kill(os.getpid(), getattr(signal, name))

@asynccontextmanager
async def server():
    print("opened", flush=True)
    try:
        yield "http://here"
    finally:
        print("closed", flush=True)
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_closes_in_order(name: str) -> None:
    """A server is open when it is announced, and closed before the process goes on."""
    done = run_script(f"""
        def announce(url):
            print(url, flush=True)
            send("{name}")

        run(server(), announce)
        print("goes on")
    """)
    assert done.stdout.split("\n") == ["opened", "http://here", "closed", "goes on", ""]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_opening_ends_at_once(name: str) -> None:
    """Opening may be long computation; a signal does not wait for its end."""
    done = run_script(f"""
        @asynccontextmanager
        async def slow():
            send("{name}")
            while True:
                pass
            yield ""

        run(slow(), print)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_second_signal_ends_at_once() -> None:
    """Closing may take its grace; who signals twice does not want to wait for it."""
    done = run_script("""
        @asynccontextmanager
        async def reluctant():
            yield "http://here"
            send("SIGTERM")
            print("closed in order", flush=True)

        run(reluctant(), lambda url: send("SIGTERM"))
    """)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_an_address_of_no_use_is_told() -> None:
    """A server that cannot open raises `CannotStart` with the system's reason."""
    done = run_script("""
        @asynccontextmanager
        async def broken():
            raise OSError(99, "Cannot assign requested address")
            yield ""

        try:
            run(broken(), print)
        except CannotStart as error:
            print(error)
    """)
    assert done.stdout == "cannot listen: Cannot assign requested address\n"


async def test_listening_tells_the_real_port() -> None:
    """Port 0 takes a free one, and the URL given is where the application answers."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", answer)
    server = replace(SERVER, shutdown_grace_s=GIVE_UP_S)
    async with listening(app, server) as url, ClientSession() as session:
        response = await session.get(url)
        assert (response.status, await response.text()) == (200, "here")
    assert not url.endswith((":0", "/"))


async def test_listening_finishes_what_is_in_flight() -> None:
    """A request that is being handled when the closing begins still has its answer."""
    begun, closing = asyncio.Event(), asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        begun.set()
        await closing.wait()
        return web.Response(text="here")

    async def note(_app: web.Application) -> None:
        closing.set()

    app = web.Application()
    app.router.add_get("/", answer)
    app.on_shutdown.append(note)
    server = replace(SERVER, shutdown_grace_s=GIVE_UP_S)
    async with ClientSession() as session:
        async with listening(app, server) as url:
            request = asyncio.create_task(session.get(url))
            await begun.wait()
        response = await request
        assert await response.text() == "here"


# --- draining -----------------------------------------------------------------------


async def test_no_request_fails_while_draining(tmp_path: Path) -> None:
    """Under load SIGTERM makes it unready, and yet each request is answered whole.

    Its connections close between requests only, new ones are taken for a while, and
    the process ends with 0.
    """
    with running(tmp_path / "log", server__drain_s=DRAIN_S) as service:
        answers: list[Answer] = []
        async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as callers:
            for number in range(8):
                path = "/usage" if number % 2 else "/usage?limit=5"
                callers.create_task(hammer(service.port, path, answers))
            await until(lambda: len(answers) >= 200)
            service.process.send_signal(signal.SIGTERM)
            ready = await until_unready(service.port)
            late = await ask_once(service.port, "/usage")
        status = await exit_status(service.process)

    assert {each.status for each in answers} == {200}
    assert sum(each.is_last for each in answers) == 8
    assert json.loads(ready.body)["code"] == "not_ready"
    assert (late.status, late.is_last) == (200, True)
    assert status == 0


async def test_draining_ends_what_is_in_flight(tmp_path: Path) -> None:
    """An answer that takes longer than the drain still arrives before the end."""
    slow = {"server__drain_s": 0.0, "sandbox__latency_ms": 500.0}
    with running(tmp_path / "log", **slow) as service:
        asked = asyncio.create_task(ask_once(service.port, "/usage"))
        await until(lambda: bool(service.events("usage.refresh.started")))
        service.process.send_signal(signal.SIGTERM)

        assert (await asked).status == 200
        assert await exit_status(service.process) == 0


async def test_a_second_signal_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    """Whoever signals twice wants the end now, and not after the drain."""
    long = {"server__drain_s": 1_000.0, "server__shutdown_grace_s": 2_000.0}
    with running(tmp_path / "log", **long) as service:
        service.process.send_signal(signal.SIGTERM)
        await until_unready(service.port)
        service.process.send_signal(signal.SIGTERM)

        assert await exit_status(service.process) == -signal.SIGTERM
