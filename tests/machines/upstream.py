"""An upstream that counts its calls, and answers when a test lets it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from service.sandbox.options import SandboxOptions
from service.sandbox.server import SANDBOX, create_sandbox
from tests.running import until

MESSAGES: Final = "/messages/current-period"


class SlowUpstream:
    """Holds calls for messages while it is closed; the others are answered."""

    def __init__(self) -> None:
        self.app = create_sandbox(SandboxOptions(messages=0, reports=0))
        self.app.middlewares.append(self._hold)
        self.sandbox = self.app[SANDBOX]
        self.url = ""
        self.held = 0
        """Calls that wait now."""
        self._is_open = asyncio.Event()
        self._is_open.set()

    @property
    def fetches(self) -> int:
        """The number of calls for messages so far."""
        return self.sandbox.calls[MESSAGES]

    def set_messages(self, messages: list[dict[str, object]]) -> None:
        """Serve these messages."""
        self.sandbox.set_messages(messages)

    def close(self) -> None:
        """Hold calls from now on."""
        self._is_open.clear()

    def open(self) -> None:
        """Answer the calls that are held, and further ones."""
        self._is_open.set()

    async def until_fetched(self, number: int) -> None:
        """Wait until so many calls for messages have arrived."""
        await until(lambda: self.fetches >= number)

    @web.middleware
    async def _hold(self, request: web.Request, handler: Handler) -> Any:
        # The answer is made when the call arrives, as that of a slow network.
        answer = await handler(request)
        if request.path == MESSAGES:
            self.held += 1
            try:
                await self._is_open.wait()
            finally:
                self.held -= 1
        return answer


@asynccontextmanager
async def slow_upstream() -> AsyncIterator[SlowUpstream]:
    """Run an upstream on a free port."""
    upstream = SlowUpstream()
    async with TestServer(upstream.app) as server:
        upstream.url = str(server.make_url("")).rstrip("/")
        yield upstream
        upstream.open()
