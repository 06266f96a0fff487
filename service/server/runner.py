"""Running of a server until a signal, and its shutdown.

SIGTERM and Ctrl-C shut a server down in order; a second one ends it at once. In order,
it becomes unready, drains (each answer closes its connection), accepts the connections
that wait and closes its listening sockets, and finishes the requests in flight. SIGHUP
reloads the service: `process` has that.
"""

import asyncio
import gc
import math
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import chain
from typing import Any, Final

import uvloop
from aiohttp import web
from msgspec.structs import replace

from service.admin.ports import for_operators
from service.app import check_storage, create_app
from service.server import handover, lifecycle, listener
from service.server.connection_limit import AddressLimit
from service.server.connection_server import ConnectionServer
from service.server.connections import Bounds
from service.server.fast_path import FastPath
from service.server.listener import CannotStart
from service.server.post_path import PostPath
from service.server.process import Process, ReloadingProcess
from service.server.shutdown import Budget, Ending, exit_in_order
from service.settings import ServerSettings, Settings
from service.web.auth import AUTHENTICATOR
from service.web.health import TRAFFIC
from service.web.limits import LIMITS
from service.web.request_context import REPORTS
from service.web.unsent_bytes import UNSENT, UnsentBytes

SWITCH_INTERVAL_S: Final = 0.0002
"""Time after which a busy thread gives the interpreter to one that waits for it.

By default 5 ms, for which the thread that stores events would wait at each statement.
"""

Listening = AbstractAsyncContextManager[str]
"""A server that listens while it is open, with its URL (no slash at the end)."""


class ServiceRunner(web.AppRunner):
    """Runs the service with the limits of the settings, and drains at the end.

    The connections of `replaced`, sockets of a former address, are answered too.
    """

    def __init__(
        self,
        app: web.Application,
        server: ServerSettings,
        ending: Ending | None = None,
        replaced: Sequence[socket.socket] = (),
    ) -> None:
        budget = Budget.of(server)
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=server.keepalive_s,
            lingering_time=server.header_timeout_s,
            max_line_size=server.max_line_bytes,
            max_field_size=server.max_field_bytes,
            shutdown_timeout=budget.requests_s,
        )
        self._bounds = Bounds.of(server)
        self._addresses: AddressLimit | None = None
        if server.max_connections_per_address:
            clients = app[LIMITS].clients
            self._addresses = AddressLimit(server.max_connections_per_address, clients)
        self._unsent = app.get(UNSENT) or UnsentBytes(server.max_unsent_bytes)
        self._ending = ending or Ending()
        self._replaced = replaced
        self._drain_s = budget.drain_s
        self._admin_server: ConnectionServer | None = None
        self.warm_up_s: float | None = None
        """Maximum wait for the first refresh, in `setup`; None to start none."""
        self.admin_sockets: Sequence[socket.socket] = ()

    async def _make_server(self) -> ConnectionServer:
        served = await super()._make_server()
        if TRAFFIC in self.app:
            self.app[TRAFFIC].count_connections = self._count_connections
        shared = self._bounds, self._unsent, self._addresses
        server = ConnectionServer.of(served, *shared)
        # Not for operators: their port has other answers.
        server.fast_path = FastPath.of(self.app)
        if server.fast_path is not None:
            shared_parts = self.app[LIMITS], self.app[AUTHENTICATOR], self.app[REPORTS]
            server.posts = PostPath(*shared_parts)
        return server

    async def listen_to_operators(self, sockets: Sequence[socket.socket]) -> None:
        """Also serve these sockets, where no other request delays an operator's."""
        served = self.app._make_handler(**self._kwargs)
        served.request_handler = for_operators(served.request_handler)
        # They are never refused because of others, whose connections do not count.
        bounds = self._bounds._replace(max_loop_wait_s=math.inf)
        self._admin_server = server = ConnectionServer.of(served, bounds, self._unsent)
        for each in sockets:
            await OperatorSite(self, each, server).start()

    async def setup(self) -> None:
        """Open the application; it is ready for connections then."""
        await super().setup()
        if self.admin_sockets:
            await self.listen_to_operators(self.admin_sockets)
        if self._replaced and self.server is not None:
            await listener.close_in_order(self._replaced, self.server)
        if self.warm_up_s is not None and (start := self.app[TRAFFIC].warm_up):
            await self._ending.wait_unless_stopping(start(), self.warm_up_s)

    async def cleanup(self) -> None:
        """Drain a started server, then close it, within `shutdown_grace_s` in all."""
        if self.sites and self.server is not None:
            await self._drain()
            await self._stop_listening(self.server)
            if self._admin_server is not None:
                await self._finish_requests(self.server)
        await super().cleanup()

    def _servers(self) -> Iterator[ConnectionServer]:
        for each in (self.server, self._admin_server):
            if isinstance(each, ConnectionServer):
                yield each

    def _count_connections(self) -> int:
        return sum(len(each.connections) for each in self._servers())

    async def _finish_requests(self, server: web.Server) -> None:
        """Finish the requests in flight, those of operators meanwhile."""
        limit_s = self._shutdown_timeout
        servers = {server, *self._servers()}
        await asyncio.gather(*(each.shutdown(limit_s) for each in servers))

    async def _drain(self) -> None:
        for each in self._servers():
            each.drain()
        if TRAFFIC in self.app:
            for end_waits in self.app[TRAFFIC].on_stop:
                end_waits()
        # A second clean-up, after a cancelled one, must not wait again.
        wait_s, self._drain_s = self._drain_s, 0.0
        await self._ending.sleep_unless_stopping(wait_s)
        if not self._ending.keeps_listening:
            if TRAFFIC in self.app:
                self.app[TRAFFIC].is_draining = True
            await asyncio.sleep(wait_s)

    async def _stop_listening(self, server: web.Server) -> None:
        """Accept no connections any more, and leave none behind."""
        usual, admin = _duplicates(self.sites)
        self._ending.sockets = sockets = [*usual, *admin]
        if self._ending.keeps_listening:
            await self._stop_sites()
            await self._finish_requests(server)
        # A stop signal may have come meanwhile.
        if not self._ending.commit():
            await listener.finish_handshakes(sockets)
            await self._stop_sites()
            await listener.accept_waiting(usual, server)
            if self._admin_server is not None:
                await listener.accept_waiting(admin, self._admin_server)
            listener.close_all(sockets)

    async def _stop_sites(self) -> None:
        for each in self.sites:
            await each.stop()


class OperatorSite(web.SockSite):
    """A socket that has a server of its own."""

    def __init__(
        self, runner: web.AppRunner, sock: socket.socket, server: web.Server
    ) -> None:
        super().__init__(runner, sock, backlog=listener.LISTEN_BACKLOG)
        self._own_server = server

    async def start(self) -> None:
        """Accept connections."""
        await web.BaseSite.start(self)
        self._server = await asyncio.get_running_loop().create_server(
            self._own_server, sock=self._sock, backlog=self._backlog
        )


def _duplicates(
    sites: set[web.BaseSite],
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Return other descriptors of the sites' sockets, which outlast the sites.

    The second list is of the sites for operators.
    """
    usual: list[socket.socket] = []
    admin: list[socket.socket] = []
    for site in sites:
        found = admin if isinstance(site, OperatorSite) else usual
        found += [each.dup() for each in _sockets_of(site)]
    return usual, admin


def _sockets_of(site: web.BaseSite) -> list[Any]:
    server: Any = site._server
    return list(server.sockets)


@asynccontextmanager
async def listening(
    app: web.Application,
    server: ServerSettings,
    ending: Ending | None = None,
    inherited: Sequence[socket.socket] = (),
    *,
    warms_up: bool = False,
) -> AsyncIterator[str]:
    """Serve an application; the URL has the actual port if the setting is 0.

    Inherited sockets are used if they have the address of the settings. With
    `warms_up`, the first refresh starts at once.
    """
    ending = ending or Ending()
    runner = ServiceRunner(app, server, ending)
    await runner.setup()
    try:
        # Now, because connections would otherwise wait for the application.
        sockets, replaced, admin = listener.listen_all(server, inherited)
        ending.sockets = [*sockets, *admin]
        if admin:
            await runner.listen_to_operators(admin)
        for each in sockets:
            site = web.SockSite(runner, each, backlog=listener.LISTEN_BACKLOG)
            await site.start()
        if replaced and runner.server is not None:
            await listener.close_in_order(replaced, runner.server)
        if warms_up and (start := app[TRAFFIC].warm_up):
            start()
        yield listener.url_of(server, sockets)
    finally:
        await runner.cleanup()


def serve(
    settings: Settings,
    announce: Callable[[str], None],
    make_app: Callable[[Settings], web.Application] = create_app,
) -> None:
    """Serve in this process until a signal, which ends it.

    Passes the URL to `announce`. Raises `CannotStart`, and the errors of opening the
    application.
    """
    process = ReloadingProcess(settings.server)
    app = make_app(settings)
    server = listening(
        app,
        settings.server,
        process.ending,
        process.inherited,
        warms_up=settings.health.warm_up,
    )
    run(logged(server, process.ending), announce, process)
    exit_in_order(process.ending)


@asynccontextmanager
async def logged(server: Listening, ending: Ending) -> AsyncIterator[str]:
    """Open a server, and log when it begins to stop and when it has stopped."""
    async with server as url:
        yield url
        if not ending.keeps_listening:
            lifecycle.log_stopping()
    if not ending.keeps_listening:
        lifecycle.log_stopped()


async def check(settings: Settings) -> None:
    """Open the application as a start would, without serving or migrating anything.

    Removes nothing either. Raises `CannotStart`, `StorageUnusable` and `SettingsError`.
    """
    # A new retention holds only once the service has started with it.
    keeping = replace(settings.events, retention_s=0.0)
    settings = replace(settings, events=keeping)
    inherited = handover.inherited_sockets(handover.take_over().sockets)
    listeners = listener.listen_all(settings.server, inherited)
    await check_storage(settings, may_migrate=False)
    runner = ServiceRunner(
        create_app(settings, is_storage_checked=True), settings.server
    )
    try:
        await runner.setup()
    finally:
        await runner.cleanup()
        listener.close_all(chain.from_iterable(listeners))


def run(
    server: Listening,
    announce: Callable[[str], None],
    process: Process | None = None,
) -> None:
    """Keep a server open until a signal, and pass its URL to `announce`.

    Raises `CannotStart`.
    """
    process = process or Process()
    process.handle_signals()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signalled(server, announce, process))
    finally:
        process.finish()


async def _until_signalled(
    server: Listening, announce: Callable[[str], None], process: Process
) -> None:
    process.ending.attach(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(server)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotStart(f"cannot listen: {reason}") from error
        process.is_open = True
        freeze_start_up_objects()
        announce(url)
        await process.wait()


def freeze_start_up_objects() -> None:
    """Exclude the objects of the start from garbage collections."""
    # They live as long as the process. A full collection would visit all of them, and
    # block the event loop meanwhile.
    gc.collect()
    gc.freeze()
