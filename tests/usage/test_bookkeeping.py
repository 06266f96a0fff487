"""Bookkeepers: the same books in this process and in a child, and the child's end."""

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

from service.usage import bookkeeping
from service.usage.bookkeeping import (
    CALLERS,
    Bookkeeper,
    InlineBookkeeper,
    ProcessBookkeeper,
)
from service.usage.books import Books
from service.usage.errors import BooksLost, CursorExpired, MessageNotFound, UsageError
from service.usage.formats import FORMATS, JSON
from service.usage.model import Report
from service.usage.rating import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.reports import Settled
from service.usage.selection import Cursor, Selection
from tests.leftovers import child_pids, open_files, wait_for_end
from tests.patience import GIVE_UP_S
from tests.reference import message

Until = Callable[[Callable[[], bool]], Awaitable[None]]

MESSAGES: Final = [message(n, "rent " * n, report_id=7 + n % 2) for n in range(40)]
SETTLED: Final = Settled({"7": Report(7, "Lease", 61), "8": None}, {"8"})
EVERYTHING: Final = Selection()


def body_of(messages: list[dict[str, Any]]) -> bytearray:
    return bytearray(msgspec.json.encode({"messages": messages}))


async def keep(
    keeper: Bookkeeper, messages: list[dict[str, Any]], settled: Settled = SETTLED
) -> None:
    """One whole refresh."""
    await keeper.load(body_of(messages))
    await keeper.call(Books.settle, settled, TEXT_RULES, 100)
    await keeper.call(Books.commit)


async def everything_in(keeper: Bookkeeper) -> list[object]:
    """What the books say, by every question that there is."""
    return [
        *[bytes(await keeper.answer(TEXT_RULES, each)) for each in FORMATS],
        bytes(await keeper.answer(TOKEN_ESTIMATE, JSON)),
        await keeper.call(Books.extract, TEXT_RULES, JSON, Selection(limit=3)),
        await keeper.call(Books.explain, TEXT_RULES, 3),
        await keeper.call(Books.daily, TEXT_RULES, "Europe/London"),
        await keeper.call(Books.by_report, TEXT_RULES),
        await keeper.call(Books.tell, TEXT_RULES, 3),
    ]


@pytest.fixture
async def keeper() -> AsyncIterator[ProcessBookkeeper]:
    """Keeps the messages above in a child."""
    keeper = ProcessBookkeeper()
    await keep(keeper, MESSAGES)
    yield keeper
    await keeper.close()


def child_of(keeper: ProcessBookkeeper) -> int:
    """The process id of the child."""
    process: Any = keeper._manager._process  # type: ignore[union-attr]
    pid: int = process.pid
    return pid


async def test_both_keep_the_same_books(keeper: ProcessBookkeeper) -> None:
    """Where the books are shows in no byte, value or error."""
    inline = InlineBookkeeper()
    await keep(inline, MESSAGES)

    assert await everything_in(keeper) == await everything_in(inline)
    for each in (keeper, inline):
        assert not each.is_lost
        assert type(await each.answer(TEXT_RULES, JSON)) is (
            mmap.mmap if each is keeper else bytes
        )
        gone = Selection(cursor=Cursor(0, 99))
        with pytest.raises(MessageNotFound, match="no message 99"):
            await each.call(Books.explain, TEXT_RULES, 99)
        with pytest.raises(CursorExpired):
            await each.call(Books.extract, TEXT_RULES, JSON, gone)
        with pytest.raises(msgspec.ValidationError, match=r"\$\.messages\[0\]"):
            await each.load(bytearray(b'{"messages":[{}]}'))


async def test_a_large_period_may_be_empty(keeper: ProcessBookkeeper) -> None:
    """A body of much else than messages gives an answer without a byte."""
    await keep(keeper, [], Settled({}, set()))

    assert bytes(await keeper.answer(TEXT_RULES, JSON)) == b'{"usage":[]}'
    assert await keeper.answer(TEXT_RULES, "application/x-ndjson") == b""


# A child that dies.


async def test_a_dead_child_is_a_loss_and_the_next_refresh_heals(
    keeper: ProcessBookkeeper,
) -> None:
    """Calls fail as `BooksLost`, all of them, until another child has the period."""
    kept_before = not keeper.is_lost
    os.kill(child_of(keeper), signal.SIGKILL)
    wait_for_end(child_of(keeper))
    assert (kept_before, keeper.is_lost) == (True, True)

    ended = await asyncio.gather(
        *(keeper.call(Books.explain, TEXT_RULES, 3) for _ in range(2 * CALLERS)),
        keeper.answer(TEXT_RULES, JSON),
        return_exceptions=True,
    )
    assert {type(each) for each in ended} == {BooksLost}
    await keeper.load(body_of(MESSAGES))
    assert keeper.is_lost, "what is loaded is not yet committed"
    with pytest.raises(BooksLost):
        await keeper.call(Books.by_report, TEXT_RULES)

    await keep(keeper, MESSAGES)

    assert (await keeper.call(Books.explain, TEXT_RULES, 3)).message_id == 3


async def test_children_that_die_at_work_leave_nothing(
    keeper: ProcessBookkeeper,
) -> None:
    """What was computing fails; neither process, file nor socket is left of it."""
    others, files = child_pids() - {child_of(keeper)}, []
    for _ in range(3):
        stop(child_of(keeper))
        work = asyncio.gather(*ask_from_each_thread(keeper), return_exceptions=True)
        await asyncio.sleep(0)
        os.kill(child_of(keeper), signal.SIGKILL)
        assert {type(each) for each in await work} == {BooksLost}

        await keep(keeper, MESSAGES)
        await asyncio.gather(*ask_from_each_thread(keeper))
        assert child_pids() - others == {child_of(keeper)}
        gc.collect()  # what the errors' frames still hold is no leak
        files.append(len(open_files()))

    assert files[-1] <= files[0] + CALLERS


def stop(pid: int) -> None:
    """Keep a child from answering, for certain."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def ask_from_each_thread(keeper: ProcessBookkeeper) -> list[Awaitable[object]]:
    """One call from each thread that waits for the child: each has its connection."""
    barrier, loop = threading.Barrier(CALLERS), asyncio.get_running_loop()

    def ask() -> object:
        barrier.wait(GIVE_UP_S)
        return keeper._remote(Books.by_report.__name__, TEXT_RULES)

    return [loop.run_in_executor(keeper._threads, ask) for _ in range(CALLERS)]


async def test_a_child_that_cannot_start_is_a_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine without room for another process fails refreshes, not the service."""
    children, keeper = child_pids(), ProcessBookkeeper()
    monkeypatch.setattr(bookkeeping, "_follow_parent", sys.exit)

    with pytest.raises(BooksLost):
        await keeper.load(body_of(MESSAGES))
    assert keeper.is_lost
    assert child_pids() <= children

    await keeper.close()


# How it ends.


async def test_closing_leaves_no_process_and_no_file() -> None:
    """The child is ended and reaped, and what it shared is let go."""
    warm = ProcessBookkeeper()
    await keep(warm, MESSAGES)
    await warm.close()
    children, files = child_pids(), open_files()
    keeper = ProcessBookkeeper()

    await keep(keeper, MESSAGES)
    answer = await keeper.answer(TEXT_RULES, JSON)
    pid = child_of(keeper)
    assert pid in child_pids()
    await keeper.close()

    assert bytes(answer).startswith(b'{"usage":[{'), "an answer outlives its books"
    del answer
    assert child_pids() == children
    assert open_files() == files


async def test_what_was_given_up_starts_no_child_after_the_end() -> None:
    """A refresh cancelled before its child was started does not start one then."""
    keeper = ProcessBookkeeper()
    await keeper.close()
    children = child_pids()

    with pytest.raises(BooksLost):
        keeper._load(body_of(MESSAGES))

    assert child_pids() == children


async def test_closing_does_not_wait_for_what_is_computed(
    keeper: ProcessBookkeeper,
) -> None:
    """Calls that have no end to wait for are broken off, and fail as a loss."""
    many = body_of(MESSAGES * 4_000)
    calls = [asyncio.create_task(keeper.load(many)) for _ in range(2 * CALLERS)]
    await asyncio.sleep(0)

    await keeper.close()

    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert BooksLost in {type(each) for each in ended}


async def test_closing_what_was_never_used() -> None:
    """A service that never met a large period has nothing to end."""
    children = child_pids()
    keeper = ProcessBookkeeper()
    assert keeper.is_lost
    await keeper.close()
    inline = InlineBookkeeper()
    await inline.close()

    with pytest.raises(UsageError):
        await inline.call(Books.explain, TEXT_RULES, 3)
    assert child_pids() == children


PARENT: Final = """
import asyncio, sys
from service.usage.bookkeeping import ProcessBookkeeper

async def main():
    keeper = ProcessBookkeeper()
    await keeper.load(bytearray(b'{"messages":[]}'))
    print(keeper._manager._process.pid, flush=True)
    sys.stdin.read()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """Even a parent that was killed, and could not close anything, leaves no child."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(  # noqa: S603
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait(GIVE_UP_S)

        wait_for_end(child)
