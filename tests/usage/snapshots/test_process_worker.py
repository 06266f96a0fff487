"""The process worker: the child's life cycle, and calls when it dies or stops."""

import asyncio
import gc
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from structlog.typing import EventDict

from service.usage.errors import WorkerLost
from service.usage.snapshots import process_worker as module
from service.usage.snapshots.build import ResolvedReports
from service.usage.snapshots.errors import (
    RevisionGone,
)
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.memory_files import MIN_MAPPED_BYTES
from service.usage.snapshots.process import SWITCH_INTERVAL_S
from service.usage.snapshots.process_worker import QUERY_THREADS, ProcessWorker
from service.usage.snapshots.store import SnapshotStore
from tests.leftovers import child_pids, open_files, wait_for_end
from tests.patience import GIVE_UP_S
from tests.reference import body_of, message
from tests.usage.snapshots.test_worker import DEFAULT, LOGGING, MESSAGES, REPORTS, add

MANY: Final = bytearray(body_of(MESSAGES * 4_000))


@pytest.fixture
async def worker() -> AsyncIterator[ProcessWorker]:
    """Keeps the messages above in a child, as snapshot 1."""
    worker = ProcessWorker()
    await add(worker)
    yield worker
    await worker.close()


def child_of(worker: ProcessWorker) -> int:
    """Return the process id of the child, which only the worker itself needs."""
    assert worker._child is not None
    return worker._child.pid


def mapped_by(process_id: int) -> int:
    """Return the number of shared files in memory that a process has mapped."""
    return Path(f"/proc/{process_id}/maps").read_text().count("/memfd")


async def test_an_answer_of_the_child_is_shared_memory(worker: ProcessWorker) -> None:
    """A large answer is not copied, and outlives its snapshot."""
    answer = await worker.answer(1, DEFAULT, JSON)
    again = await worker.answer(1, DEFAULT, JSON)
    assert type(answer) is type(again) is mmap.mmap
    worker.drop(1)
    await worker.close()
    assert bytes(answer) == bytes(again)
    assert bytes(answer).startswith(b'{"usage":[{')


async def test_a_large_answer_is_not_copied(worker: ProcessWorker) -> None:
    """The child makes it in memory that this process maps, and that outlives it."""
    await add(worker, 2, list(map(message, range(20_000))), ResolvedReports((), ()))
    answer = await worker.answer(2, DEFAULT, JSON)
    assert len(answer) > MIN_MAPPED_BYTES
    worker.drop(2)
    await worker.close()
    usage = msgspec.json.decode(answer)["usage"]
    assert [each["message_id"] for each in usage] == list(range(20_000))


async def test_an_answer_whose_child_has_ended_is_lost(
    worker: ProcessWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child may end after it has named the file, and before that is opened."""
    monkeypatch.setattr(worker, "_call", lambda *_call: "/proc/0/fd/0")
    with pytest.raises(WorkerLost, match="has ended"):
        await worker.answer(1, DEFAULT, JSON)


async def test_threads_of_the_child_take_short_turns(worker: ProcessWorker) -> None:
    """A query waits for the interpreter while another thread computes."""
    assert await worker.run(sys.getswitchinterval) == pytest.approx(SWITCH_INTERVAL_S)


async def test_a_large_period_may_be_empty(worker: ProcessWorker) -> None:
    """A body of much else than messages gives an answer without a byte."""
    await add(worker, 2, [], ResolvedReports((), ()))

    assert bytes(await worker.answer(2, DEFAULT, JSON)) == b'{"usage":[]}'
    assert await worker.answer(2, DEFAULT, "application/x-ndjson") == b""


@pytest.mark.parametrize("end", [b"]", b'],"x":"\\ud800\xff"}'])
async def test_a_child_frees_a_body_that_it_refuses(
    worker: ProcessWorker, end: bytes
) -> None:
    """The memory of the body is free when the error has come, not one call later."""
    mapped = mapped_by(child_of(worker))
    with pytest.raises(msgspec.DecodeError):
        await worker.load(2, MANY[:-2] + end, 1)

    assert mapped_by(child_of(worker)) == mapped


async def test_a_drop_takes_no_lock(worker: ProcessWorker) -> None:
    """The garbage collector may drop a snapshot while this thread submits a call."""
    with worker._threads._shutdown_lock:
        worker.drop(1)

    assert not worker.has(1)


async def test_messages_that_are_unchanged_are_not_sent(worker: ProcessWorker) -> None:
    """Upstream's 304 needs no body: the child has the messages."""
    assert (await worker.load(2, None, 1)).messages == len(MESSAGES)
    with pytest.raises(RevisionGone):
        await worker.load(3, None, 2)


async def test_a_dead_child_is_a_loss_and_the_next_refresh_heals(
    worker: ProcessWorker,
) -> None:
    """Calls fail as `WorkerLost`, all of them, until another child has a snapshot."""
    had_it = worker.has(1)
    os.kill(child_of(worker), signal.SIGKILL)
    wait_for_end(child_of(worker))
    assert (had_it, worker.has(1)) == (True, False)

    children = child_pids()
    worker.drop(1)
    calls = [
        *calls_of(worker, 1),
        worker.answer(1, DEFAULT, JSON),
        worker.pack(1, DEFAULT),
        worker.load(2, None, 1),
        worker.compute(SnapshotStore.build, 2, 1, REPORTS, LOGGING, plan=DEFAULT),
    ]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ended} == {WorkerLost}
    assert child_pids() == children, "only a load with a body starts another child"
    await worker.load(2, bytearray(body_of(MESSAGES)), 1)
    assert not worker.has(2), "messages are loaded, and not yet built"

    await add(worker, 2)

    assert worker.has(2)
    assert not worker.has(1)
    await worker.query(SnapshotStore.explain, 2, DEFAULT, 3)


async def test_children_that_die_during_calls_release_everything(
    worker: ProcessWorker,
) -> None:
    """Calls that computed fail; neither process, file nor socket is left of them."""
    others, files = child_pids() - {child_of(worker)}, []
    for number in range(1, 7):
        pid = child_of(worker)
        stop(pid)
        work = [asyncio.create_task(call) for call in calls_of(worker, number)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        failed = await asyncio.gather(*work, return_exceptions=True)
        assert {type(each) for each in failed} == {WorkerLost}

        await add(worker, number + 1)
        await asyncio.gather(*calls_of(worker, number + 1))
        assert child_pids() - others == {child_of(worker)}
        gc.collect()  # frames of the errors still refer to connections
        files.append(len(open_files()))

    assert files[-1] <= files[0] + QUERY_THREADS


def calls_of(worker: ProcessWorker, number: int) -> list[Any]:
    """Return one call for each thread that waits for the child."""
    return [
        worker.query(SnapshotStore.by_report, number, DEFAULT)
        for _ in range(QUERY_THREADS)
    ]


def stop(pid: int) -> None:
    """Keep a child from answering, for certain."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere"])
async def test_a_child_that_cannot_start_is_a_loss(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """A machine without room for another process fails refreshes, not the service."""
    gc.collect()
    children, files, worker = child_pids(), open_files(), ProcessWorker()
    monkeypatch.setattr(sys, "executable", program)

    with pytest.raises(WorkerLost, match="does not start"):
        await worker.load(1, bytearray(body_of(MESSAGES)), None)
    assert not worker.has(1)
    await worker.close()

    assert child_pids() <= children
    assert open_files() == files


@pytest.fixture
def impatient(worker: ProcessWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have children checked at once, except for the first one while it starts."""
    assert worker.has(1)
    monkeypatch.setattr(module, "CHECK_AFTER_S", 0.05)
    # A busy machine may give no time to a child for so long.
    monkeypatch.setattr(module, "PING_S", 1.0)


@pytest.mark.usefixtures("impatient")
async def test_a_hung_child_is_killed_and_replaced(
    worker: ProcessWorker,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """More calls than threads all fail in time, and the next refresh works."""
    pid, children = child_of(worker), child_pids()
    stop(pid)
    calls = [
        worker.load(2, bytearray(body_of(MESSAGES)), 1),
        worker.answer(1, DEFAULT, JSON),
        *(calls_of(worker, 1) + calls_of(worker, 1)),
    ]
    async with asyncio.timeout(GIVE_UP_S):
        ended = await asyncio.gather(*calls, return_exceptions=True)
    # The next child may be starved for longer while it starts.
    monkeypatch.undo()

    assert {type(each) for each in ended} == {WorkerLost}
    assert not worker.has(1)
    assert pid not in child_pids()
    stopped = [each for each in log_entries if each["event"] == "usage.worker.stopped"]
    assert [each["process.pid"] for each in stopped] == [pid]
    await add(worker, 3)
    assert worker.has(3)
    assert child_of(worker) != pid
    assert len(child_pids()) == len(children)


@pytest.mark.usefixtures("impatient")
async def test_a_hung_child_does_not_keep_the_event_loop_waiting(
    worker: ProcessWorker,
) -> None:
    """Other requests are served, and a caller may leave, while a call hangs."""
    stop(child_of(worker))
    call = asyncio.create_task(worker.query(SnapshotStore.by_report, 1, DEFAULT))
    await asyncio.sleep(0)
    worker.drop(1)
    assert not worker.has(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_busy_child_is_not_killed(
    worker: ProcessWorker,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """A child that uses the processor computes, however late its ping is answered."""
    pid = child_of(worker)
    monkeypatch.setattr(module, "CHECK_AFTER_S", 0.001)
    # Long enough for a tick of the processor on a busy machine.
    monkeypatch.setattr(module, "PING_S", 0.5)
    loaded = await worker.load(2, MANY, 1)

    assert loaded.messages == len(MESSAGES) * 4_000
    assert child_of(worker) == pid
    assert worker.has(1)
    assert [each["event"] for each in log_entries] == []


async def test_no_call_takes_for_ever(
    worker: ProcessWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that a living child does not end is given up."""
    stop(child_of(worker))
    with monkeypatch.context() as patch:
        patch.setattr(module, "CHECK_AFTER_S", 0.01)
        patch.setattr(module, "MAX_CALL_S", 0.05)
        with pytest.raises(WorkerLost, match="no answer in"):
            await worker.query(SnapshotStore.by_report, 1, DEFAULT)

    assert not worker.has(1), "the child would not answer the next call either"
    await add(worker, 2)
    assert worker.has(2)


SLEEPER: Final = """#!/bin/sh
exec sleep 600
"""


@pytest.mark.parametrize("is_closed", [False, True], ids=["hangs", "closed"])
async def test_a_child_that_hangs_as_it_starts_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_closed: bool
) -> None:
    """Neither a refresh nor the end of the service waits for it for ever."""
    program = tmp_path / "python"
    program.write_text(SLEEPER)
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(module, "STOP_S", 0.05)
    if not is_closed:
        monkeypatch.setattr(module, "CHECK_AFTER_S", 0.05)
        monkeypatch.setattr(module, "PING_S", 0.2)
    children, worker = child_pids(), ProcessWorker()
    loading = asyncio.create_task(worker.load(1, bytearray(b"{}"), None))
    async with asyncio.timeout(GIVE_UP_S):
        if is_closed:
            while child_pids() == children:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await worker.close()
        with pytest.raises(WorkerLost, match="does not start"):
            await loading
        await worker.close()
    assert child_pids() == children


async def test_closing_leaves_no_process_and_no_file() -> None:
    """The child is ended and reaped, and no descriptor stays open."""
    warm = ProcessWorker()
    await add(warm)
    await warm.close()
    gc.collect()
    children, files = child_pids(), open_files()
    worker = ProcessWorker()

    await add(worker)
    answer = await worker.answer(1, DEFAULT, JSON)
    assert child_of(worker) in child_pids()
    await worker.close()

    assert bytes(answer).startswith(b'{"usage":[{'), "an answer outlives its worker"
    del answer
    gc.collect()
    assert child_pids() == children
    assert open_files() == files


async def test_closing_ends_a_hung_child(
    worker: ProcessWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed where it does not end by itself."""
    monkeypatch.setattr(module, "STOP_S", 0.05)
    pid = child_of(worker)
    stop(pid)
    calls = [asyncio.create_task(each) for each in calls_of(worker, 1)]
    await asyncio.sleep(0)

    async with asyncio.timeout(GIVE_UP_S):
        await worker.close()
        await asyncio.gather(*calls, return_exceptions=True)

    assert pid not in child_pids()


async def test_a_call_that_was_given_up_starts_no_child_after_the_end() -> None:
    """A refresh cancelled before its child was started does not start one later."""
    worker = ProcessWorker()
    await worker.close()
    children = child_pids()

    with pytest.raises(WorkerLost):
        await worker.load(1, bytearray(body_of(MESSAGES)), None)

    assert child_pids() == children


async def test_closing_does_not_wait_for_computing(worker: ProcessWorker) -> None:
    """Calls whose end nobody waits for are broken off, and fail as a loss."""
    calls = [asyncio.create_task(worker.load(n, MANY, None)) for n in range(8)]
    await asyncio.sleep(0)

    await worker.close()

    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert WorkerLost in {type(each) for each in ended}


PARENT: Final = """
import asyncio, sys
from service.usage.snapshots.worker import ProcessWorker

async def main():
    worker = ProcessWorker()
    await worker.load(1, bytearray(b'{"messages":[]}'), None)
    print(worker._child.pid, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_a_child_ends_with_its_parent() -> None:
    """Even a parent that was killed, and could not close anything, leaves no child."""
    with subprocess.Popen(  # noqa: S603 - it runs this interpreter
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait(GIVE_UP_S)

        wait_for_end(child)
