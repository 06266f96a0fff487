"""Workers: the same snapshots in this process and in a child, and the child's end."""

import asyncio
import gc
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from structlog.typing import EventDict

from service.usage.errors import WorkerLost
from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.snapshots import worker as module
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.errors import (
    CursorExpired,
    MessageNotFound,
    RevisionGone,
    TextsMissing,
)
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.selection import Cursor, Selection
from service.usage.snapshots.store import Logging, SnapshotStore
from service.usage.snapshots.worker import (
    INLINE_MESSAGES,
    MAX_CALLS,
    InlineWorker,
    ProcessWorker,
    Worker,
    Workers,
)
from tests.leftovers import child_pids, open_files, wait_for_end
from tests.patience import GIVE_UP_S
from tests.reference import body_of, message

Until = Callable[[Callable[[], bool]], Awaitable[None]]

DEFAULT: Final = TEXT_RULES.id
OTHER: Final = TOKEN_ESTIMATE.id
LOGGING: Final = Logging("a1", 100)
MESSAGES: Final = [message(n, "rent " * n, report_id=7 + n % 2) for n in range(40)]
MANY: Final = bytearray(body_of(MESSAGES * 4_000))
REPORTS: Final = ResolvedReports([ReportPrice("Lease", 6100), None], [1])


async def add(
    worker: Worker,
    number: int = 1,
    messages: list[dict[str, Any]] = MESSAGES,
    reports: ResolvedReports = REPORTS,
) -> None:
    """Load and build a snapshot."""
    await worker.load(number, bytearray(body_of(messages)), None)
    await worker.compute(
        SnapshotStore.build, number, None, reports, LOGGING, plan=DEFAULT
    )


async def every_answer_of(worker: Worker, number: int = 1) -> list[object]:
    """Return the answer to every query."""
    page = Selection(limit=3)
    return [
        *[bytes(await worker.answer(number, DEFAULT, each)) for each in FORMATS],
        await worker.query(SnapshotStore.extract, number, DEFAULT, JSON, page),
        await worker.query(SnapshotStore.explain, number, DEFAULT, 3),
        await worker.query(SnapshotStore.daily, number, DEFAULT, "Europe/London"),
        await worker.query(SnapshotStore.by_report, number, DEFAULT),
        await worker.query(SnapshotStore.price, number, DEFAULT, LOGGING),
        await worker.query(SnapshotStore.messages, number),
        await worker.pack(number, DEFAULT),
    ]


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


async def test_both_workers_answer_alike(worker: ProcessWorker) -> None:
    """No byte, value or error shows in which process a snapshot is."""
    inline = InlineWorker()
    await add(inline)

    assert await every_answer_of(worker) == await every_answer_of(inline)
    each: Worker
    for each in (worker, inline):
        assert each.has(1)
        assert not each.has(2)
        gone = Selection(cursor=Cursor(0, 99))
        with pytest.raises(MessageNotFound, match="no message 99"):
            await each.query(SnapshotStore.explain, 1, DEFAULT, 99)
        with pytest.raises(CursorExpired):
            await each.query(SnapshotStore.extract, 1, DEFAULT, JSON, gone)
        with pytest.raises(RevisionGone):
            await each.query(SnapshotStore.by_report, 2, DEFAULT)
        with pytest.raises(msgspec.ValidationError, match=r"\$\.messages\[0\]"):
            await each.load(2, bytearray(b'{"messages":[{}]}'), None)
        assert each.has(1)


async def test_both_workers_adopt_alike(worker: ProcessWorker) -> None:
    """Packed columns of either worker are answered from in the other."""
    inline = InlineWorker()
    await inline.adopt(5, await worker.pack(1, DEFAULT))
    await worker.adopt(6, await inline.pack(5, DEFAULT))

    assert inline.has(5)
    assert worker.has(6)
    assert await every_answer_of(inline, 5) == await every_answer_of(worker, 6)
    for each, number in ((inline, 5), (worker, 6)):
        with pytest.raises(TextsMissing):
            await each.query(SnapshotStore.price, number, OTHER, LOGGING)
        with pytest.raises(msgspec.DecodeError):
            await each.adopt(9, b"nonsense")
        assert not each.has(9)


async def test_an_answer_of_the_child_is_shared_memory(worker: ProcessWorker) -> None:
    """A large answer is not copied, and outlives its snapshot."""
    answer = await worker.answer(1, DEFAULT, JSON)
    again = await worker.answer(1, DEFAULT, JSON)
    assert type(answer) is type(again) is mmap.mmap
    worker.drop(1)
    await worker.close()
    assert bytes(answer) == bytes(again)
    assert bytes(answer).startswith(b'{"usage":[{')


async def test_a_large_period_may_be_empty(worker: ProcessWorker) -> None:
    """A body of much else than messages gives an answer without a byte."""
    await add(worker, 2, [], ResolvedReports((), ()))

    assert bytes(await worker.answer(2, DEFAULT, JSON)) == b'{"usage":[]}'
    assert await worker.answer(2, DEFAULT, "application/x-ndjson") == b""


async def test_messages_that_are_unchanged_are_not_sent(worker: ProcessWorker) -> None:
    """Upstream's 304 needs no body: the child has the messages."""
    assert (await worker.load(2, None, 1)).messages == len(MESSAGES)
    with pytest.raises(RevisionGone):
        await worker.load(3, None, 2)


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
async def test_a_query_on_many_messages_leaves_the_event_loop(
    *, is_large: bool
) -> None:
    """Only what takes microseconds runs where it keeps other requests waiting."""
    worker = InlineWorker()
    count = INLINE_MESSAGES + is_large
    await add(worker, 1, [message(n) for n in range(count)], ResolvedReports((), ()))

    def thread(_store: SnapshotStore, _number: int) -> threading.Thread:
        return threading.current_thread()

    ran_in_main = await worker.query(thread, 1) is threading.main_thread()
    assert ran_in_main is not is_large


# Snapshots that nobody needs.


async def test_a_dropped_snapshot_is_gone(worker: ProcessWorker, until: Until) -> None:
    """Neither worker keeps it, and the drop waits for nothing."""
    inline = InlineWorker()
    await add(inline)
    each: Worker
    for each in (inline, worker):
        each.drop(1)
        each.drop(1)
        assert not each.has(1)
    with pytest.raises(RevisionGone):
        await inline.query(SnapshotStore.messages, 1)

    async def is_gone() -> bool:
        try:
            await worker.query(SnapshotStore.messages, 1)
        except RevisionGone:
            return True
        return False

    async with asyncio.timeout(GIVE_UP_S):
        while not await is_gone():
            pass


async def test_workers_are_chosen_by_size() -> None:
    """From the configured size on, a period is kept in the child."""
    workers = Workers(1000)
    assert isinstance(workers.choose(999), InlineWorker)
    assert isinstance(workers.choose(1000), ProcessWorker)
    assert workers.choose(10**9) is workers.choose(1000)
    assert workers.choose(0) is workers.choose(999)
    await workers.close()


# A child that dies.


async def test_a_dead_child_is_a_loss_and_the_next_refresh_heals(
    worker: ProcessWorker,
) -> None:
    """Calls fail as `WorkerLost`, all of them, until another child has a snapshot."""
    had_it = worker.has(1)
    os.kill(child_of(worker), signal.SIGKILL)
    wait_for_end(child_of(worker))
    assert (had_it, worker.has(1)) == (True, False)

    ended = await asyncio.gather(
        *(
            worker.query(SnapshotStore.explain, 1, DEFAULT, 3)
            for _ in range(2 * MAX_CALLS)
        ),
        return_exceptions=True,
    )
    assert {type(each) for each in ended} == {WorkerLost}
    await worker.load(2, bytearray(body_of(MESSAGES)), 1)
    assert not worker.has(2), "messages are loaded, and not yet built"

    await add(worker, 2)

    assert worker.has(2)
    assert not worker.has(1)
    await worker.query(SnapshotStore.explain, 2, DEFAULT, 3)


async def test_children_that_die_at_work_leave_nothing(worker: ProcessWorker) -> None:
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

    assert files[-1] <= files[0] + MAX_CALLS


def calls_of(worker: ProcessWorker, number: int) -> list[Any]:
    """Return one call for each thread that waits for the child."""
    return [
        worker.query(SnapshotStore.by_report, number, DEFAULT) for _ in range(MAX_CALLS)
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


# A child that hangs.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have children checked at once."""
    monkeypatch.setattr(module, "CHECK_AFTER_S", 0.05)
    monkeypatch.setattr(module, "PING_S", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_a_hung_child_is_killed_and_replaced(
    worker: ProcessWorker, log_entries: list[EventDict]
) -> None:
    """Every call fails in time, and the next refresh works."""
    pid, children = child_of(worker), child_pids()
    stop(pid)
    calls = [
        *(worker.query(SnapshotStore.by_report, 1, DEFAULT) for _ in range(2)),
        worker.answer(1, DEFAULT, JSON),
        worker.load(2, bytearray(body_of(MESSAGES)), 1),
    ]
    async with asyncio.timeout(GIVE_UP_S):
        ended = await asyncio.gather(*calls, return_exceptions=True)

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


async def test_more_calls_than_threads_do_not_hide_a_hung_child(
    worker: ProcessWorker, impatient: None
) -> None:
    """The check does not wait for a thread that itself waits for the child."""
    stop(child_of(worker))
    calls = calls_of(worker, 1) + calls_of(worker, 1) + calls_of(worker, 1)
    async with asyncio.timeout(GIVE_UP_S):
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ended} == {WorkerLost}


async def test_a_busy_child_is_not_killed(
    worker: ProcessWorker,
    monkeypatch: pytest.MonkeyPatch,
    log_entries: list[EventDict],
) -> None:
    """A child that uses the processor computes, however late its ping is answered."""
    pid = child_of(worker)
    monkeypatch.setattr(module, "CHECK_AFTER_S", 0.001)
    monkeypatch.setattr(module, "PING_S", 0.1)
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


async def test_queries_of_a_dead_child_start_no_other(worker: ProcessWorker) -> None:
    """A child without any snapshot could answer none of them."""
    os.kill(child_of(worker), signal.SIGKILL)
    wait_for_end(child_of(worker))
    children = child_pids() - {child_of(worker)}
    worker.drop(1)
    for call in (
        worker.query(SnapshotStore.by_report, 1, DEFAULT),
        worker.answer(1, DEFAULT, JSON),
        worker.pack(1, DEFAULT),
        worker.load(2, None, 1),
        worker.compute(SnapshotStore.build, 2, 1, REPORTS, LOGGING, plan=DEFAULT),
    ):
        with pytest.raises(WorkerLost):
            await call
    assert child_pids() == children


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


# The end.


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


async def test_closing_an_unused_worker() -> None:
    """A service that never met a large period has nothing to end."""
    children = child_pids()
    worker, inline = ProcessWorker(), InlineWorker()
    assert not worker.has(1)
    worker.drop(1)
    await worker.close()
    worker.drop(1)
    await add(inline)
    await inline.close()

    assert not inline.has(1)
    with pytest.raises(RevisionGone):
        await inline.query(SnapshotStore.messages, 1)
    assert child_pids() == children


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
