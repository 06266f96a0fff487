"""Clients that open a connection for each request, and what becomes of the requests."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.patience import GIVE_UP_S

HOST: Final = "127.0.0.1"
PAUSE_S: Final = 0.005
"""Time before the next try of a caller, so that refusals do not take the processor."""


class Tally:
    """Requests by their end, and the longest time of one."""

    def __init__(self) -> None:
        self.answered = 0
        self.refused = 0
        self.failures: list[str] = []
        self.longest_s = 0.0

    @property
    def requests(self) -> int:
        """All requests that were sent."""
        return self.answered + len(self.failures)

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {len(self.failures)} failures, "
            f"{self.refused} refused connections, longest {self.longest_s:.2f} s"
        )


@asynccontextmanager
async def calling(
    port: int, *, callers: int = 16, paths: Sequence[str] = ("/usage",)
) -> AsyncIterator[Tally]:
    """Send requests to a port while the context lasts, each on its own connection."""
    tally = Tally()
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(callers):
            path = paths[number % len(paths)]
            tasks.create_task(_call_repeatedly(port, path, tally, is_over))
        try:
            yield tally
        finally:
            is_over.set()


async def _call_repeatedly(
    port: int, path: str, tally: Tally, is_over: asyncio.Event
) -> None:
    while not is_over.is_set():
        started = time.perf_counter()
        try:
            async with asyncio.timeout(GIVE_UP_S):
                await _call(port, path)
        except ConnectionRefusedError:
            # No service listens: nothing was sent.
            tally.refused += 1
            await asyncio.sleep(PAUSE_S)
        except (OSError, EOFError, TimeoutError, AssertionError) as error:
            taken_s = time.perf_counter() - started
            tally.failures.append(f"{type(error).__name__}, {taken_s:.2f} s: {error}")
        else:
            tally.answered += 1
            tally.longest_s = max(tally.longest_s, time.perf_counter() - started)


async def _call(port: int, path: str) -> None:
    """Send one request; raises unless the whole answer arrives with status 200."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200 "), head
        length = re.search(r"Content-Length: (\d+)", head)
        assert length is not None, head
        await reader.readexactly(int(length[1]))
    finally:
        writer.transport.abort()
