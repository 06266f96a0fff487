"""The order of writes in SQLite: events first, and nobody starves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from service.storage.errors import StorageUnavailable
from service.storage.uses import Use
from service.storage.write_order import EVENTS_PER_TURN, MAX_EVENTS_S, WriteOrder
from tests.clock import LoopTime
from tests.patience import GIVE_UP_S

Until = Callable[[Callable[[], bool]], Awaitable[None]]
WAIT_S: Final = 5.0
TURN_S: Final = 0.02
NAMES: Final = {"e": Use.EVENTS, "v": Use.VEHICLES, "r": Use.RETENTION}


class Writers:
    """Writes that record their order, each with a turn of this duration."""

    def __init__(self, loop_time: LoopTime) -> None:
        self.order = WriteOrder(dict.fromkeys(Use, WAIT_S))
        self.turns = ""
        self._loop_time = loop_time

    async def write(self, name: str) -> None:
        """Write once; the letters of `NAMES` are the uses."""
        async with self.order.turn(NAMES[name]):
            self.turns += name
            self._loop_time.skip_s(TURN_S)

    async def queue(self, names: str) -> None:
        """Let writes wait in this order behind one of vehicles."""
        async with self.order.turn(Use.VEHICLES):
            tasks = [asyncio.create_task(self.write(each)) for each in names]
            await asyncio.sleep(0)
            self._loop_time.skip_s(TURN_S)
        await asyncio.gather(*tasks)


@pytest.fixture
def writers(loop_time: LoopTime) -> Writers:
    """An order that nobody uses yet."""
    return Writers(loop_time)


async def test_events_go_first(writers: Writers) -> None:
    """Events overtake the waiting writes of other uses, which take turns."""
    await writers.queue("vvvreee")

    assert writers.turns == "eee" + "vrvv"


async def test_other_uses_are_not_starved(writers: Writers) -> None:
    """While events wait, the others get about a tenth of the time."""
    await writers.queue("vr" + "e" * 40)

    first, second = writers.turns.index("v"), writers.turns.index("r")
    # The real time of a slow machine counts too.
    assert EVENTS_PER_TURN <= first <= 2 * EVENTS_PER_TURN
    assert EVENTS_PER_TURN <= second - first - 1 <= 2 * EVENTS_PER_TURN


async def test_the_time_of_events_is_bounded(
    writers: Writers, loop_time: LoopTime
) -> None:
    """After a long turn, another use has its next one after a bounded time."""
    async with writers.order.turn(Use.RETENTION):
        loop_time.skip_s(MAX_EVENTS_S)
        tasks = [asyncio.create_task(writers.write(each)) for each in "v" + "e" * 200]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    events = writers.turns.index("v")
    assert 0.9 * MAX_EVENTS_S / TURN_S <= events <= MAX_EVENTS_S / TURN_S + 1


async def test_a_wait_is_bounded(writers: Writers, loop_time: LoopTime) -> None:
    """A write that waits too long fails, and its place in the queue is free."""
    async with writers.order.turn(Use.EVENTS):
        late = asyncio.create_task(writers.write("v"))
        await asyncio.sleep(0)
        await loop_time.pass_s(WAIT_S)
        with pytest.raises(StorageUnavailable, match="other writes take too long"):
            await late
    async with asyncio.timeout(GIVE_UP_S):
        await writers.write("e")
    assert writers.turns == "e"


@pytest.mark.parametrize("is_late", [False, True], ids=["waiting", "with a turn"])
async def test_a_cancelled_write_passes_its_turn_on(
    writers: Writers, *, is_late: bool
) -> None:
    """A write that is cancelled blocks nobody, also if its turn has just come."""
    turn = writers.order.turn(Use.EVENTS)
    await turn.__aenter__()
    cancelled = asyncio.create_task(writers.write("v"))
    following = asyncio.create_task(writers.write("r"))
    await asyncio.sleep(0)
    if is_late:
        await turn.__aexit__(None, None, None)
    cancelled.cancel()
    if not is_late:
        await turn.__aexit__(None, None, None)
    async with asyncio.timeout(GIVE_UP_S):
        await following
    assert cancelled.cancelled()
    assert writers.turns == "r"
