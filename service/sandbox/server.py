"""The server of the sandbox: fakes of copilot's API and vPIC, with faults."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from service.sandbox.fake_copilot import FakeCopilot
from service.sandbox.fake_vpic import VPIC_PATH, FakeVpic, is_vpic
from service.sandbox.fake_vpic_faults import VPIC_FAULTS
from service.sandbox.faults import FAULTS, REDIRECT_PREFIX, Call, FaultDraw, Reply
from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.periods import Period

DEFAULTS: Final = SandboxOptions()
BACKLOG: Final = 1024
SHUTDOWN_TIMEOUT_S: Final = 1.0


class Sandbox:
    """Answers requests, and counts them; everything may be changed while it runs.

    `calls` counts the received requests, also those that get a fault, by their
    percent-encoded path.
    """

    def __init__(self, options: SandboxOptions) -> None:
        self.calls: Counter[str] = Counter()
        self.max_in_flight = 0
        self._handling: set[asyncio.Task[Any] | None] = set()
        self._options = options
        self._rng = Random(options.seed)  # noqa: S311
        self._draw = FaultDraw(options.faults, self._rng)
        self._copilot = FakeCopilot(options)
        self._vpic = FakeVpic(options.seed)

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return len(self._handling)

    @property
    def options(self) -> SandboxOptions:
        """The current options; another size or seed gives another period."""
        return self._options

    @options.setter
    def options(self, options: SandboxOptions) -> None:
        previous, self._options = self._options, options
        # A change of other options must not restart the `times` of the faults.
        if options.faults is not previous.faults:
            self.faults = options.faults
        self._copilot.set_options(options)
        self._vpic.seed = options.seed

    @property
    def faults(self) -> Faults:
        """The current faults; setting them restarts their `times`."""
        return self._options.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._options = msgspec.structs.replace(self._options, faults=faults)
        self._draw = FaultDraw(faults, self._rng)

    @property
    def period(self) -> Period:
        """The period that is served; it is generated on first use."""
        return self._copilot.period

    @period.setter
    def period(self, period: Period) -> None:
        self._copilot.period = period

    @property
    def vins(self) -> Counter[str]:
        """Number of requests for each VIN in capitals, also those that got a fault."""
        return self._vpic.vins

    def set_messages(self, messages: Sequence[Mapping[str, object]] | bytes) -> None:
        """Serve these messages, or these bytes as the whole body."""
        self._copilot.set_messages(messages)

    def set_report(
        self, report_id: int | str, report: Mapping[str, object] | bytes | None
    ) -> None:
        """Serve this report, or these bytes as its body; `None` is a 404."""
        self._copilot.set_report(report_id, report)

    def set_vehicle(self, vin: str, fields: Mapping[str, object] | None) -> None:
        """Replace decoded fields of a VIN by these; `None` resets."""
        self._vpic.set_vehicle(vin, fields)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request and count it."""
        task = asyncio.current_task()
        self._handling.add(task)
        self.max_in_flight = max(self.max_in_flight, len(self._handling))
        try:
            return await self._answer(request)
        except ConnectionError:
            # The client disconnected; aiohttp drops this answer.
            return web.Response()
        finally:
            self._handling.discard(task)

    def cancel_all(self) -> None:
        """Cancel all requests in flight."""
        for task in filter(None, self._handling):
            task.cancel()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        self.calls[path] += 1
        options = self._options
        query = await self._vpic.receive(request) if is_vpic(path) else None
        # Before the pause, so that requests get faults in the order of their arrival.
        fault = self._draw.draw(path, FAULTS if query is None else VPIC_FAULTS)
        if fault is None and self._rng.random() < options.error_rate:
            fault = FAULTS["server_error"]
        if options.latency_ms:
            await asyncio.sleep(options.latency_ms / 1000)
        if query is None:
            reply = self._copilot.reply_to(path)
        else:
            reply = self._vpic.reply_to(query)
        if fault is None:
            return _send(request, reply)
        return await fault(Call(request, reply, options.faults.retry_after))


class RunningSandbox(NamedTuple):
    """A sandbox that listens at `url`, which has no slash at its end."""

    url: str
    sandbox: Sandbox


SANDBOX: Final = web.AppKey("SANDBOX", Sandbox)


def create_sandbox(options: SandboxOptions = DEFAULTS) -> web.Application:
    """Return the application; its `Sandbox` is `app[SANDBOX]`."""
    app = web.Application()
    app[SANDBOX] = Sandbox(options)
    # An encoded newline belongs to the path; HEAD gets 405, as from copilot.
    app.router.add_get("/{path:(?s:.*)}", app[SANDBOX].handle, allow_head=False)
    for prefix in (VPIC_PATH, REDIRECT_PREFIX + VPIC_PATH):
        app.router.add_post(prefix + "/{path:(?s:.*)}", app[SANDBOX].handle)
    app.on_startup.append(_generate)
    app.on_shutdown.append(_cancel_all)
    return app


@asynccontextmanager
async def running_sandbox(
    options: SandboxOptions = DEFAULTS, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningSandbox]:
    """Serve a sandbox while the context lasts; port 0 chooses a free port."""
    app = create_sandbox(options)
    runner = web.AppRunner(
        app,
        access_log=None,
        # Ends an endless answer when its client disconnects.
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=BACKLOG)
        await site.start()
        yield RunningSandbox(site.name, app[SANDBOX])
    finally:
        await runner.cleanup()


async def _generate(app: web.Application) -> None:
    """Generate the period before listening: a large one blocks for seconds."""
    _ = app[SANDBOX].period


async def _cancel_all(app: web.Application) -> None:
    app[SANDBOX].cancel_all()


def _send(request: web.Request, reply: Reply) -> web.Response:
    headers = {"Content-Type": reply.content_type}
    if reply.etag is None:
        return web.Response(status=reply.status, body=reply.body, headers=headers)
    headers["ETag"] = f'"{reply.etag}"'
    if _matches(request, reply.etag):
        return web.Response(status=304, headers=headers)
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def _matches(request: web.Request, etag: str) -> bool:
    """Return True if `If-None-Match` names this ETag, or any."""
    tags = request.if_none_match or ()
    return any(tag.value in (etag, "*") for tag in tags)
