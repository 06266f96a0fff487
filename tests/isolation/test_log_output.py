"""A log whose reader ends or stops: the service answers, and lines are counted."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.isolation.piping import Pipe, Serving, forking, serving
from tests.launcher import Launcher
from tests.patience import GIVE_UP_S
from tests.running import ROOT, ask_once, exit_status, until

WORKERS: Final = pytest.mark.parametrize("workers", [1, 2])
SMALL_QUEUE: Final[dict[str, Any]] = {"logging__max_queue_bytes": 65_536}
FULL: Final = Path("/dev/full")
LONG_PATH: Final = "/" + "x" * 4_000
"""Its line in the log fills a queue sooner."""


Serve = Callable[..., AbstractContextManager[Serving]]


@pytest.fixture
def serve(launcher: Launcher) -> Serve:
    """A factory of services, as forks that start at once."""
    return partial(forking, launcher)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that is closed at the end."""
    made = Pipe()
    yield made
    made.close()


async def until_dropped(service: Serving) -> None:
    """Send requests until the service has dropped lines of their log."""
    async with asyncio.timeout(GIVE_UP_S):
        while not (await service.dropped())["info"]:
            for _ in range(50):
                assert (await ask_once(service.port, LONG_PATH)).status == 404


async def ends_well(service: Serving) -> None:
    """Stop it, and expect that it reports no failure."""
    service.process.send_signal(signal.SIGTERM)
    assert await exit_status(service.process) == 0


async def replaced_workers(service: Serving, killed: set[int]) -> None:
    """Kill workers, and wait for as many others."""
    count = len(service.workers())
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    await until(lambda: len(service.workers() - killed) == count)


# --- the reader has ended -----------------------------------------------------------


@WORKERS
async def test_a_closed_pipe_ends_nothing(
    serve: Serve, pipe: Pipe, workers: int
) -> None:
    """The reader of the log ends; requests are answered, and lines are counted."""
    options = f"--workers={workers}"
    with serve(options, stdout=pipe.writer, usage__own_process_bytes=1) as service:
        await service.until_up(workers)
        pipe.close()
        async with asyncio.timeout(GIVE_UP_S):
            while not (await service.dropped())["info"]:
                assert (await ask_once(service.port, "/usage")).status == 200

        assert (await ask_once(service.port, "/usage")).status == 200
        await ends_well(service)


async def test_workers_are_replaced_without_a_reader(serve: Serve, pipe: Pipe) -> None:
    """A worker is killed after the reader has ended; another takes its place."""
    with serve("--workers=2", stdout=pipe.writer) as service:
        await service.until_up(2)
        pipe.close()
        await replaced_workers(service, {min(service.workers())})

        assert (await ask_once(service.port, "/usage")).status == 200
        await ends_well(service)


@pytest.mark.parametrize("command", ["serve", "serve --workers=2", "sandbox"])
async def test_a_reader_of_one_line(serve: Serve, pipe: Pipe, command: str) -> None:
    """The reader ends after the first line, as `head -1`, and the server answers on."""
    name, *options = command.split()
    path = "/usage" if name == "serve" else "/messages/current-period"
    with serve(*options, command=name, stdout=pipe.writer) as service:
        await asyncio.to_thread(os.read, pipe.reader, 1)
        pipe.close()
        await service.until_up()

        assert (await ask_once(service.port, path)).status == 200
        await ends_well(service)


# --- the reader does not read -------------------------------------------------------


@WORKERS
async def test_a_stalled_pipe_blocks_nothing(
    serve: Serve, pipe: Pipe, workers: int
) -> None:
    """Lines are dropped while nobody reads; afterwards the log says how many."""
    options = f"--workers={workers}"
    with serve(options, stdout=pipe.writer, **SMALL_QUEUE) as service:
        pipe.close_writer()
        await service.until_up(workers)
        await until_dropped(service)
        assert (await ask_once(service.port, "/health/live")).status == 200
        assert (await ask_once(service.port, "/usage")).status == 200

        pipe.read_on()
        await until(lambda: bool(pipe.events("log.dropped")))
        await ends_well(service)

    reports = pipe.events("log.dropped")
    assert pipe.rest() == b""
    assert all(sum(each["kinds"].values()) == each["lines"] for each in reports)
    assert sum(each["kinds"].get("info", 0) for each in reports) >= 1
    assert [line["event"] for line in pipe.lines()][-1] == "service.stopped"


@WORKERS
async def test_a_stalled_pipe_does_not_delay_the_end(
    serve: Serve, pipe: Pipe, workers: int
) -> None:
    """SIGTERM ends the service while nobody reads, and leaves whole lines only."""
    options = f"--workers={workers}"
    with serve(options, stdout=pipe.writer, **SMALL_QUEUE) as service:
        pipe.close_writer()
        await service.until_up(workers)
        await until_dropped(service)

        await ends_well(service)

    pipe.read_on()
    assert pipe.rest() == b""
    assert pipe.events("service.started")


async def test_a_killed_worker_frees_the_output(serve: Serve, pipe: Pipe) -> None:
    """Workers are killed while they wait for the reader; others write whole lines."""
    with serve("--workers=2", stdout=pipe.writer, **SMALL_QUEUE) as service:
        pipe.close_writer()
        await service.until_up(2)
        await until_dropped(service)
        killed = service.workers()
        await replaced_workers(service, killed)
        await service.until_up(2)

        pipe.read_on()
        await until(lambda: len(pipe.events("worker.exited")) == 2)
        await until(lambda: len(pipe.events("worker.started")) == 4)
        await ends_well(service)

    assert pipe.rest() == b""
    exits = {each["process.pid"]: each for each in pipe.events("worker.exited")}
    assert {exits[pid]["signal"] for pid in killed} == {"SIGKILL"}


# --- writing fails ------------------------------------------------------------------


@WORKERS
async def test_a_full_disk_ends_nothing(serve: Serve, workers: int) -> None:
    """Nothing can be written; requests are answered, and lines are counted."""
    with serve(f"--workers={workers}", stdout=FULL) as service:
        await service.until_up(workers)
        async with asyncio.timeout(GIVE_UP_S):
            while not (await service.dropped())["info"]:
                assert (await ask_once(service.port, "/usage")).status == 200

        await ends_well(service)


@pytest.mark.parametrize("redirections", [">&-", "2>&-", ">&- 2>&- <&-"])
async def test_closed_descriptors_are_not_used_for_files(redirections: str) -> None:
    """Without standard descriptors, what is printed reaches no other file."""
    with serving(redirections=redirections) as service:
        await service.until_up()
        assert (await ask_once(service.port, "/usage")).status == 200

        descriptors = Path(f"/proc/{service.process.pid}/fd")
        opened = {str((descriptors / number).readlink()) for number in "012"}
        assert opened == {os.devnull}
        await ends_well(service)


@WORKERS
@pytest.mark.parametrize("state", ["closed", "full"])
async def test_standard_error_blocks_nothing(
    serve: Serve, pipe: Pipe, workers: int, state: str
) -> None:
    """The addresses at the start cannot be printed, and the service serves."""
    if state == "closed":
        pipe.close_reader()
    else:
        pipe.fill()
    with serve(f"--workers={workers}", stderr=pipe.writer) as service:
        await service.until_up(workers)
        assert (await ask_once(service.port, "/usage")).status == 200
        await ends_well(service)


async def test_a_failed_start_keeps_its_exit_status(serve: Serve, pipe: Pipe) -> None:
    """A port in use ends the service with 1, also without a reader of the reason."""
    with serve() as first:
        await first.until_up()
        pipe.close_reader()
        port = f"--port={first.port}"
        for options in ([port], [port, "--workers=2"]):
            with serve(*options, stderr=pipe.writer) as second:
                assert await exit_status(second.process) == 1


# --- what is kept -------------------------------------------------------------------

STALLED: Final = """
import sys, time, structlog
from service.observability import log_output, logs
logs.configure("info", "json")
log = structlog.get_logger()
for number in range(30_000):
    log.info("credits.step", message_id=number)
log.info("test.info")
log.warning("test.warning")
log.error("test.error")
sys.stderr.write("logged")
sys.stderr.flush()
while not log_output.STDOUT.queue.is_empty:
    time.sleep(0.01)
"""


def test_steps_are_dropped_before_anything_else(pipe: Pipe) -> None:
    """More steps than the queue holds are logged; all other lines are kept."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", STALLED],
        stdout=pipe.writer,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        pipe.close_writer()
        assert process.stderr is not None
        assert process.stderr.read(6) == b"logged"
        pipe.read_on()
        assert process.wait(GIVE_UP_S) == 0

    assert pipe.rest() == b""
    *steps, last = [line["event"] for line in pipe.lines()]
    assert [each for each in steps if each != "credits.step"] == [
        "test.info",
        "test.warning",
        "test.error",
    ]
    (report,) = pipe.events("log.dropped")
    assert last == "log.dropped"
    assert report["kinds"] == {"detail": 30_000 - steps.count("credits.step")}


async def test_a_non_blocking_pipe_loses_nothing(serve: Serve, pipe: Pipe) -> None:
    """The descriptor is shared with a program that has made it non-blocking."""
    os.set_blocking(pipe.writer, False)
    with serve(stdout=pipe.writer) as service:
        pipe.close_writer()
        await service.until_up()
        for _ in range(50):
            await ask_once(service.port, LONG_PATH)
        pipe.read_on()
        await ends_well(service)

    assert pipe.rest() == b""
    paths = [each["url.path"] for each in pipe.events("http.request")]
    assert paths.count(LONG_PATH) == 50
    assert pipe.events("log.dropped") == []
