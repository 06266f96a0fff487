"""A sandbox that listens, and a client that asks it, for every test here."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, ClientTimeout

from service.sandbox.server import RunningSandbox, running_sandbox
from tests.patience import GIVE_UP_S


@asynccontextmanager
async def impatient(running: RunningSandbox) -> AsyncIterator[None]:
    """Raise `TimeoutError` when the sandbox has received a request made here."""
    calls = running.sandbox.calls
    before = calls.total()

    async def end(patience: asyncio.Timeout) -> None:
        while calls.total() == before:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0)
        patience.reschedule(asyncio.get_running_loop().time())

    async with asyncio.timeout(None) as patience:
        ending = asyncio.create_task(end(patience))
        try:
            yield
        finally:
            ending.cancel()


@pytest.fixture
async def running() -> AsyncIterator[RunningSandbox]:
    """A sandbox on a free port, holding the default period."""
    async with running_sandbox() as running:
        yield running


@pytest.fixture
async def session(running: RunningSandbox) -> AsyncIterator[ClientSession]:
    """A client of that sandbox; paths are enough."""
    timeout = ClientTimeout(total=GIVE_UP_S)
    async with ClientSession(running.url, timeout=timeout) as session:
        yield session


@pytest.fixture(autouse=True)
def _quiet_server(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No fault, and no client that leaves one, makes the server log a warning."""
    yield
    assert caplog.get_records("call") == []


@pytest.fixture
def settle() -> Callable[[RunningSandbox], Awaitable[None]]:
    """Wait until a sandbox handles nothing, making it answer small requests."""

    async def wait(running: RunningSandbox) -> None:
        async with asyncio.timeout(GIVE_UP_S), ClientSession(running.url) as session:
            while running.sandbox.in_flight:
                await (await session.get("/nothing-here")).read()

    return wait
