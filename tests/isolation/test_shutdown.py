"""SIGTERM ends the service within its grace, whatever hangs."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from service.keys.store import SANDBOX_KEY
from service.settings import StorageSettings
from tests.events.conftest import event
from tests.isolation.conftest import Run
from tests.isolation.proxy import proxying
from tests.launcher import unmeasured
from tests.leftovers import processes, wait_for_end
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, ROOT, Running, ask_once, exit_status, until

STUCK_S: Final = 1_000.0
"""What hangs, hangs for longer than any test waits."""
BRIEF: Final = {"server__drain_s": 0.1, "server__shutdown_grace_s": 5.0}
FORCED: Final = "service.shutdown_forced"
NUMBERS: Final = [pytest.param(1, id="one"), pytest.param(2, id="two workers")]

SCRIPT: Final = f"""
import asyncio, atexit, signal, subprocess, sys, time
from aiohttp import web
from msgspec.structs import replace
from service.observability import logs
from service.server.process import ReloadingProcess
from service.server.runner import listening, run
from service.server.shutdown import exit_in_order
from service.settings import load

logs.configure("info", "json")
server = replace(load().settings.server, port=0, drain_s=0.1, shutdown_grace_s=2.0)
app = web.Application()
process = ReloadingProcess(server)

async def block(request):
    print("begun", flush=True)
    time.sleep({STUCK_S})

async def ignore_cancellation(request):
    print("begun", flush=True)
    while True:
        try:
            await asyncio.sleep({STUCK_S})
        except asyncio.CancelledError:
            pass

async def use_a_thread(request):
    print("begun", flush=True)
    asyncio.get_running_loop().run_in_executor(None, time.sleep, {STUCK_S})
    return web.Response()

async def never_close(app):
    yield
    await asyncio.sleep({STUCK_S})

async def have_a_child(app):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.send_signal(signal.SIGSTOP)
    print(child.pid, flush=True)
    yield
    await asyncio.to_thread(child.wait)

async def have_a_hanging_exit_handler(app):
    atexit.register(time.sleep, {STUCK_S})
    yield

app.router.add_get("/block", block)
app.router.add_get("/ignore", ignore_cancellation)
app.router.add_get("/thread", use_a_thread)
"""
RUN: Final = """
def announce(url):
    print(url, flush=True)

run(listening(app, server, process.ending), announce, process)
exit_in_order(process.ending)
"""


Scripted = tuple[subprocess.Popen[str], list[str]]
"""A server's process, and the first lines that it has printed."""


@contextmanager
def scripted(*context: str, lines: int = 1) -> Iterator[Scripted]:
    """A server with these contexts of start and clean-up."""
    added = [f"app.cleanup_ctx.append({each})" for each in context]
    program = "\n".join([SCRIPT, *added, RUN])
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=unmeasured(),
    ) as process:
        try:
            assert process.stdout is not None
            printed = [process.stdout.readline().strip() for _ in range(lines)]
            yield process, printed
        finally:
            process.kill()


async def stopped(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Send SIGTERM; gives the lines that it logs until it ends, with status 0."""
    process.send_signal(signal.SIGTERM)
    output, _ = await asyncio.to_thread(process.communicate, None, GIVE_UP_S)
    assert process.returncode == 0, output
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(
    "path, place",
    [
        pytest.param("/block", "block", id="blocked loop"),
        pytest.param("/ignore", "ignore_cancellation", id="endless handler"),
        pytest.param("/thread", "uvloop_0", id="stuck thread"),
    ],
)
async def test_a_stuck_request_does_not_delay_the_end(path: str, place: str) -> None:
    """The process ends with status 0, and one line names what was still open."""
    with scripted() as (process, (url,)):
        async with asyncio.timeout(GIVE_UP_S), ClientSession() as session:
            request = asyncio.create_task(session.get(url + path))
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "begun\n"
            lines = await stopped(process)
            request.cancel()
            await asyncio.wait([request])

    assert [each["event"] for each in lines] == [FORCED]
    assert place in " ".join(lines[0]["open"])


async def test_a_hanging_clean_up_does_not_delay_the_end() -> None:
    """The line names the resource, also inside the generators that open resources."""
    with scripted("never_close") as (process, _):
        (line,) = await stopped(process)

    assert line["event"] == FORCED
    assert "never_close" in " ".join(line["open"])


async def test_an_exit_handler_that_hangs_is_no_forced_shutdown() -> None:
    """The process ends within its grace, and reports nothing: all its work is done."""
    with scripted("have_a_hanging_exit_handler") as (process, _):
        assert await stopped(process) == []


async def test_no_child_outlives_a_forced_end() -> None:
    """A child that does not notice the end of its parent is killed."""
    with scripted("have_a_child", lines=2) as (process, (child, _)):
        (line,) = await stopped(process)

    assert f"process {child}" in line["open"]
    wait_for_end(int(child))


# --- the service --------------------------------------------------------------------


async def end(service: Running) -> None:
    """Send SIGTERM and wait for the end, which must have status 0."""
    service.process.send_signal(signal.SIGTERM)
    assert await exit_status(service.process) == 0


async def until_growth(service: Running, line: bytes) -> None:
    """Wait until the metrics do not have this line any more."""
    async with asyncio.timeout(GIVE_UP_S):
        while line in (await ask_once(service.port, "/metrics")).body:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)


async def until_queued(service: Running) -> None:
    """Wait until an event waits to be written."""
    await until_growth(service, b"\ncopilot_usage_events_backlog 0.0\n")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("workers", NUMBERS)
async def test_a_hanging_upstream(
    run: Run, workers: int, silent: int, tmp_path: Path
) -> None:
    """A request that waits for the upstream is cut off when the grace is over."""
    hanging = {
        "sandbox__enabled": False,
        "upstream__base_url": f"http://127.0.0.1:{silent}",
        "server__workers": workers,
    }
    with run(tmp_path / "log", **BRIEF, **hanging) as service:
        request = asyncio.create_task(ask_once(service.port, "/usage"))
        await until(lambda: bool(service.events("usage.refresh.started")))
        await end(service)

        with pytest.raises((OSError, EOFError)):
            await request
        assert service.events(FORCED) == []


@pytest.mark.parametrize("workers", NUMBERS)
async def test_a_client_that_does_not_read(
    run: Run, workers: int, tmp_path: Path
) -> None:
    """An answer that is hardly read is dropped when the grace is over."""
    large = {"sandbox__messages": 5_000, "server__workers": workers}
    with run(tmp_path / "log", **BRIEF, **large) as service:
        await ask_once(service.port, "/usage?limit=1")
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            # More than the kernel buffers.
            client.sendall(50 * b"GET /usage HTTP/1.1\r\nHost: a.test\r\n\r\n")
            assert await asyncio.to_thread(client.recv, 1)
            await until_growth(service, b"\ncopilot_usage_unsent_bytes 0.0\n")
            await end(service)
        assert service.events(FORCED) == []


@pytest.mark.parametrize("workers", NUMBERS)
async def test_a_database_that_does_not_answer(
    run: Run, workers: int, tmp_path: Path
) -> None:
    """Events that cannot be written do not delay the end; the line names the writer."""
    file = tmp_path / "events.db"
    locked = {
        "events__enabled": True,
        "storage__url": f"sqlite+aiosqlite:///{file}",
        "storage__lock_timeout_s": STUCK_S,
        "storage__timeout_s": STUCK_S,
        "server__workers": workers,
    }
    with run(tmp_path / "log", **BRIEF, **locked) as service:
        await ask_once(service.port, "/health/live")
        writer = sqlite3.connect(file, isolation_level=None)
        writer.execute("BEGIN EXCLUSIVE")
        url = f"http://127.0.0.1:{service.port}/events"
        async with ClientSession(headers={"X-API-Key": SANDBOX_KEY}) as session:
            request = asyncio.create_task(session.post(url, json=event()))
            await until_queued(service)
            await end(service)
            await asyncio.wait([request])
            assert request.exception() is not None
        writer.close()

    # On a slow machine the master is late too, and logs a line of its own.
    forced = service.events(FORCED)
    assert {each["level"] for each in forced} == {"error"}
    assert any("service.events" in " ".join(each["open"]) for each in forced)


@pytest.mark.parametrize(
    "workers, grace_s",
    [
        pytest.param(1, 1.0, id="one, forced"),
        pytest.param(1, 8.0, id="one, in order"),
        pytest.param(2, 1.0, id="two workers, forced"),
    ],
)
async def test_a_stuck_pricing_process(
    run: Run, grace_s: float, workers: int, tmp_path: Path
) -> None:
    """A pricing process that is stopped does not delay the end, and does not stay."""
    stuck = {
        "usage__own_process_bytes": 1,
        "server__drain_s": 0.1,
        "server__shutdown_grace_s": grace_s,
        "server__workers": workers,
    }
    with run(tmp_path / "log", **stuck) as service:
        await ask_once(service.port, "/usage?limit=1")
        pricing = [
            each.pid
            for each in processes()
            if "service.usage.snapshots.process" in each.command
            and each.parent in family(service.process.pid)
        ]
        assert len(pricing) == 1
        os.kill(pricing[0], signal.SIGSTOP)
        await end(service)
        wait_for_end(pricing[0])


def family(pid: int) -> set[int]:
    """A process and its children."""
    return {pid} | {each.pid for each in processes() if each.parent == pid}


# --- with PostgreSQL ----------------------------------------------------------------


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.parametrize("workers", NUMBERS)
async def test_postgresql_that_stops_answering(
    run: Run, workers: int, storage: StorageSettings, tmp_path: Path
) -> None:
    """A database whose packets are lost does not delay the end."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxying("127.0.0.1", 5432))
        stored = {
            "events__enabled": True,
            "storage__url": storage.url.replace(":5432", f":{proxy.port}"),
            "storage__timeout_s": STUCK_S,
            "server__workers": workers,
        }
        opening = run(tmp_path / "log", **BRIEF, **stored)
        # In a thread, because the start needs the proxy.
        service = await asyncio.to_thread(stack.enter_context, opening)
        session = ClientSession(headers={"X-API-Key": SANDBOX_KEY})
        await stack.enter_async_context(session)
        url = f"http://127.0.0.1:{service.port}/events"
        async with session.post(url, json=event()) as answer:
            assert answer.status == 202
        proxy.drop()
        request = asyncio.create_task(session.post(url, json=event()))
        await until_queued(service)
        await end(service)
        await asyncio.wait([request])
        assert request.exception() is not None
