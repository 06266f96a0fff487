"""Resources in the background: work with them, errors, and closing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from service.cli.background import Background, in_background
from tests.patience import GIVE_UP_S


class Resource:
    """Something that is opened and closed on a loop."""

    def __init__(self, *, opening: str = "", closing: str = "") -> None:
        self.events: list[str] = []
        self._opening = opening
        self._closing = closing

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Resource"]:
        """Open it, or fail at that."""
        if self._opening:
            raise ConnectionError(self._opening)
        try:
            yield self
        finally:
            await asyncio.sleep(0)
            self.events.append("closed")
            if self._closing:
                raise ConnectionError(self._closing)

    async def double(self, number: int) -> int:
        """Work for a while."""
        await asyncio.sleep(0)
        self.events.append(f"doubled {number}")
        return 2 * number

    async def hang(self) -> None:
        """Work for ever."""
        try:
            await asyncio.Event().wait()
        finally:
            self.events.append("given up")


def test_work_in_the_background() -> None:
    """Work is started from another thread, which waits for its result."""
    resource = Resource()
    with in_background(resource.open()) as background:
        begun = [
            background.start(partial(Resource.double, number=number))
            for number in (1, 2)
        ]
        assert [each.result(GIVE_UP_S) for each in begun] == [2, 4]
    assert resource.events == ["doubled 1", "doubled 2", "closed"]


def test_what_cannot_be_closed() -> None:
    """The error of closing is not lost."""
    with (
        pytest.raises(ConnectionError, match="no way out"),
        in_background(Resource(closing="no way out").open()),
    ):
        pass


def fail(background: Background[Resource]) -> None:
    """Start endless work, and fail meanwhile."""
    hanging = background.start(Resource.hang)
    # Its turn comes after that of what was begun before.
    background.start(lambda it: it.double(1)).result(GIVE_UP_S)
    hanging.cancel()
    raise KeyboardInterrupt


def test_it_is_closed_whatever_happens() -> None:
    """An interrupt closes the resource and cancels its work."""
    resource = Resource()
    with pytest.raises(KeyboardInterrupt), in_background(resource.open()) as background:
        fail(background)
    assert resource.events == ["doubled 1", "given up", "closed"]
