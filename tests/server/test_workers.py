"""Worker processes: they share a port, are replaced, and end together."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from tests.patience import GIVE_UP_S
from tests.running import (
    ROOT,
    Answer,
    Running,
    ask_once,
    exit_status,
    hammer,
    running,
    until,
    until_unready,
)

TWO: Final = ("--workers", "2")


async def started(service: Running, count: int) -> list[int]:
    """The ids of the workers, once so many have started in all."""
    await until(lambda: len(service.events("worker.started")) >= count)
    return [each["process.pid"] for each in service.events("worker.started")]


async def test_workers_serve_and_drain_together(tmp_path: Path) -> None:
    """Two serve one port; SIGTERM drains both, no request fails, and the end is 0."""
    with running(tmp_path / "log", *TWO, server__drain_s=3.0) as service:
        workers = await started(service, 2)
        answers: list[Answer] = []
        async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as callers:
            for _ in range(8):
                callers.create_task(hammer(service.port, "/usage", answers))
            await until(lambda: len(answers) >= 200)
            service.process.send_signal(signal.SIGTERM)
            await until_unready(service.port)
        status = await exit_status(service.process)

        assert {each.status for each in answers} == {200}
        assert sum(each.is_last for each in answers) == 8
        assert status == 0
        exited = service.events("worker.exited")
        assert {each["process.pid"] for each in exited} == set(workers)
        assert {(each["level"], each["exit_code"]) for each in exited} == {("info", 0)}
        (stopping,), (stopped,) = map(
            service.events, ("service.stopping", "service.stopped")
        )
        assert stopping["process.pid"] == stopped["process.pid"] == service.process.pid


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """Another takes its place, the kill is in the log, and the service goes on."""
    with running(tmp_path / "log", *TWO, server__drain_s=0.0) as service:
        killed, *_ = await started(service, 2)
        os.kill(killed, signal.SIGKILL)

        *_, replacement = await started(service, 3)

        assert (await ask_once(service.port, "/usage")).status == 200
        metrics = (await ask_once(service.port, "/metrics")).body
        assert b'workers_exited_total{cause="died"} 1.0' in metrics
        assert b'workers_exited_total{cause="asked"} 0.0' in metrics
        (exited,) = service.events("worker.exited")
        assert (exited["level"], exited["process.pid"]) == ("warning", killed)
        assert (exited["exit_code"], exited["signal"]) == (None, "SIGKILL")
        os.kill(replacement, 0)
        service.process.send_signal(signal.SIGINT)
        assert await exit_status(service.process) == 0


async def test_request_ids_differ_between_workers(tmp_path: Path) -> None:
    """Forked processes do not name their requests alike."""
    with running(tmp_path / "log", *TWO, server__drain_s=0.0) as service:
        await started(service, 2)
        for _ in range(40):
            await ask_once(service.port, "/health/live")
        service.process.send_signal(signal.SIGTERM)
        assert await exit_status(service.process) == 0

        ids = [each["request_id"] for each in service.events("http.request")]
        assert len(set(ids)) == len(ids) == 40


async def test_a_second_signal_ends_workers_at_once(tmp_path: Path) -> None:
    """A second signal does not wait for the drain."""
    long = {"server__drain_s": 1_000.0, "server__shutdown_grace_s": 2_000.0}
    with running(tmp_path / "log", *TWO, **long) as service:
        await started(service, 2)
        service.process.send_signal(signal.SIGTERM)
        await until_unready(service.port)
        service.process.send_signal(signal.SIGTERM)

        assert await exit_status(service.process) == 0


SHARING_OUTPUT: Final = """
import os
from service.observability.line_queue import Kind
from service.observability.log_output import STDOUT

def write(mark):
    for _ in range(100):
        for _ in range(100):
            STDOUT.queue.put(mark * 1_000, Kind.INFO)
        while not STDOUT.queue.is_empty:
            pass

STDOUT.lock.share()
STDOUT.queue.put(b"z" * 1_000, Kind.INFO)
child = os.fork()
write(b"x" if child else b"y")
if child:
    os.waitpid(child, 0)
"""


def test_workers_do_not_mix_their_lines() -> None:
    """A pipe takes long writes in parts; each line is whole all the same, and once."""
    command = [sys.executable, "-c", SHARING_OUTPUT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:  # noqa: S603
        assert process.stdout is not None
        lines = [line.rstrip(b"\n") for line in process.stdout]

    assert Counter(lines) == {
        b"x" * 1_000: 10_000,
        b"y" * 1_000: 10_000,
        b"z" * 1_000: 1,
    }
