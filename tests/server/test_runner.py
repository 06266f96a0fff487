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
from msgspec.structs import replace

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

ROOT: Final = Path(__file__).parents[2]
DRAIN_S: Final = 3.0
"""Long enough for a slow machine to see the service drain."""
SERVER: Final = replace(load().settings.server, port=0, drain_s=0)

PREAMBLE: Final = """
import os, signal
from contextlib import asynccontextmanager
from service.server.runner import CannotStart, run

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
    """The server is announced while open, and closed before `run` returns."""
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
    """A signal interrupts a long computation while opening."""
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


# --- draining -----------------------------------------------------------------------


async def test_no_request_fails_while_draining(tmp_path: Path) -> None:
    """Under load, SIGTERM makes it unready, and each request is answered completely.

    Connections are closed between requests, and the exit status is 0.
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


async def test_shutdown_finishes_requests_in_flight(tmp_path: Path) -> None:
    """An answer that takes longer than the drain still arrives before the end."""
    slow = {"server__drain_s": 0.0, "sandbox__latency_ms": 500.0}
    with running(tmp_path / "log", **slow) as service:
        request = asyncio.create_task(ask_once(service.port, "/usage"))
        await until(lambda: bool(service.events("usage.refresh.started")))
        service.process.send_signal(signal.SIGTERM)

        assert (await request).status == 200
        assert await exit_status(service.process) == 0


async def test_a_second_signal_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    """A second signal ends the process before the drain is over."""
    long = {"server__drain_s": 1_000.0, "server__shutdown_grace_s": 2_000.0}
    with running(tmp_path / "log", **long) as service:
        service.process.send_signal(signal.SIGTERM)
        await until_unready(service.port)
        service.process.send_signal(signal.SIGTERM)

        assert await exit_status(service.process) == -signal.SIGTERM
