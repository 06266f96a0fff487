"""Serves until it is told to stop: opens, says where, waits for a signal, closes.

SIGTERM and Ctrl-C end a server in order; a second one ends it at once. In order is:
unready, serving on for a while in which every answer closes its connection, accepting
no more, finishing what is in flight.
"""

import asyncio
import errno
import gc
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Final, NoReturn

import uvloop
from aiohttp import web

from service.front import FrontRunner
from service.settings import Server
from service.web.connections import Bounds, ConnectionServer
from service.web.health import TRAFFIC

LISTEN_BACKLOG: Final = 1024
OTHER_PORT: Final = 11
"""Distance of the port that is suggested instead of one that is taken."""
PORT_LIMIT: Final = 65_535 - OTHER_PORT
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

Listening = AbstractAsyncContextManager[str]
"""Listens for as long as it is open, at the URL it gives (no slash at its end)."""


class CannotStart(Exception):
    """The server could not open: its address is taken, or is not of this machine."""

    @classmethod
    def at(cls, server: Server, error: OSError) -> "CannotStart":
        """Say why it cannot listen there, and how to use another port."""
        if error.errno != errno.EADDRINUSE:
            return cls(f"cannot listen: {error.strerror or error}")
        other = server.port + (OTHER_PORT if server.port < PORT_LIMIT else -OTHER_PORT)
        return cls(
            f"port {server.port} of {server.host} is taken; use another one: "
            f'--port {other}, or make run ARGS="--port {other}"'
        )


class ServiceRunner(FrontRunner):
    """Runs the service within the bounds of the settings, and drains at the end."""

    def __init__(self, app: web.Application, server: Server) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=server.keepalive_s,
            lingering_time=server.header_timeout_s,
            max_line_size=server.max_line_bytes,
            max_field_size=server.max_field_bytes,
            shutdown_timeout=server.shutdown_grace_s - server.drain_s,
        )
        self._bounds = Bounds.of(server)
        self._drain_s = server.drain_s

    async def _make_server(self) -> ConnectionServer:
        return ConnectionServer.of(await super()._make_server(), self._bounds)

    async def cleanup(self) -> None:
        """Drain, if anything is served; then close. Takes `shutdown_grace_s` in all."""
        if self.sites:
            await self._drain()
        await super().cleanup()

    async def _drain(self) -> None:
        if TRAFFIC in self.app:
            self.app[TRAFFIC].is_draining = True
        if isinstance(self.server, ConnectionServer):
            self.server.drain()
        # Whoever is cleaning up again, after being cancelled, has waited already.
        wait_s, self._drain_s = self._drain_s, 0.0
        await asyncio.sleep(wait_s)


@asynccontextmanager
async def listening(app: web.Application, server: Server) -> AsyncIterator[str]:
    """Serve an application; the URL has the real port where 0 was asked for."""
    runner = ServiceRunner(app, server)
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.host, server.port, backlog=LISTEN_BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise CannotStart.at(server, error) from error
        yield site.name
    finally:
        await runner.cleanup()


def run(server: Listening, announce: Callable[[str], None]) -> None:
    """Keep a server open until a signal; `announce` is given its URL.

    Raises `CannotStart`.
    """
    for number in STOP_SIGNALS:
        # Opening may compute for seconds, in which the loop sees no signal.
        signal.signal(number, _leave)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_signalled(server, announce))


async def _until_signalled(server: Listening, announce: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(server)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotStart(f"cannot listen: {reason}") from error
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, signalled.set)
        settle_memory()
        announce(url)
        await signalled.wait()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


def settle_memory() -> None:
    """Leave what start-up has made out of garbage collections: it is there to stay.

    A full collection would look at all of it, and the loop would stand still for that.
    """
    gc.collect()
    gc.freeze()


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
