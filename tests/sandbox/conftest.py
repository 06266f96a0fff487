"""A running sandbox, and a client session with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, ClientTimeout

from service.sandbox.server import RunningSandbox, running_sandbox
from tests.patience import GIVE_UP_S


@asynccontextmanager
async def timing_out(running: RunningSandbox) -> AsyncIterator[None]:
    """Raise `TimeoutError` when the sandbox has received a request of the block."""
    calls = running.sandbox.calls
    before = calls.total()

    async def expire(deadline: asyncio.Timeout) -> None:
        while calls.total() == before:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0)
        deadline.reschedule(asyncio.get_running_loop().time())

    async with asyncio.timeout(None) as deadline:
        expiry = asyncio.create_task(expire(deadline))
        try:
            yield
        finally:
            expiry.cancel()


@pytest.fixture
async def running() -> AsyncIterator[RunningSandbox]:
    """A sandbox on a free port, with the default period."""
    async with running_sandbox() as running:
        yield running


@pytest.fixture
async def session(running: RunningSandbox) -> AsyncIterator[ClientSession]:
    """A session whose base URL is the sandbox."""
    timeout = ClientTimeout(total=GIVE_UP_S)
    async with ClientSession(running.url, timeout=timeout) as session:
        yield session


@pytest.fixture(autouse=True)
def _quiet_server(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if the server logs a warning, whatever faults and disconnects occur."""
    yield
    assert caplog.get_records("call") == []


@pytest.fixture
def until_idle() -> Callable[[RunningSandbox], Awaitable[None]]:
    """Wait until a sandbox has no request in flight."""

    async def wait(running: RunningSandbox) -> None:
        async with asyncio.timeout(GIVE_UP_S), ClientSession(running.url) as session:
            while running.sandbox.in_flight:
                await (await session.get("/nothing-here")).read()

    return wait
