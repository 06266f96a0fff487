"""The sandbox's server: plays copilot's API and vPIC, counts, faults on demand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from service.sandbox.copilot import Copilot
from service.sandbox.faults import ELSEWHERE, FAULTS, Call, FaultDraw, Reply
from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.periods import Period
from service.sandbox.vpic import VPIC_PATH, Vpic, is_vpic
from service.sandbox.vpic_faults import VPIC_FAULTS

DEFAULTS: Final = SandboxOptions()
BACKLOG: Final = 1024
SHUTDOWN_TIMEOUT_S: Final = 1.0


class Sandbox:
    """What the sandbox answers, how, and what it has been asked.

    Everything may be changed while it runs. `calls` counts the requests received,
    faulted ones too, by the path as it was sent, percent-encoded.
    """

    def __init__(self, options: SandboxOptions) -> None:
        self.calls: Counter[str] = Counter()
        self.max_in_flight = 0
        self._handling: set[asyncio.Task[Any] | None] = set()
        self._options = options
        self._rng = Random(options.seed)  # noqa: S311
        self._draw = FaultDraw(options.faults, self._rng)
        self._copilot = Copilot(options)
        self._vpic = Vpic(options.seed)

    @property
    def in_flight(self) -> int:
        """Requests being handled now."""
        return len(self._handling)

    @property
    def options(self) -> SandboxOptions:
        """The options in force. Another size or seed makes another period."""
        return self._options

    @options.setter
    def options(self, options: SandboxOptions) -> None:
        previous, self._options = self._options, options
        if options.faults is not previous.faults:
            self.faults = options.faults
        self._copilot.take(options)
        self._vpic.seed = options.seed

    @property
    def faults(self) -> Faults:
        """The faults in force; setting them begins their `times` anew."""
        return self._options.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._options = msgspec.structs.replace(self._options, faults=faults)
        self._draw = FaultDraw(faults, self._rng)

    @property
    def period(self) -> Period:
        """The period served, generated when first needed."""
        return self._copilot.period

    @period.setter
    def period(self, period: Period) -> None:
        self._copilot.period = period

    @property
    def vins(self) -> Counter[str]:
        """How often each VIN, in capitals, was asked for; faulted requests count."""
        return self._vpic.vins

    def set_messages(self, messages: Sequence[Mapping[str, object]] | bytes) -> None:
        """Serve these messages, or these very bytes as the whole body."""
        self._copilot.set_messages(messages)

    def set_report(
        self, report_id: int | str, report: Mapping[str, object] | bytes | None
    ) -> None:
        """Serve this report, or these very bytes, for the id; `None` is a 404."""
        self._copilot.set_report(report_id, report)

    def set_vehicle(self, vin: str, fields: Mapping[str, object] | None) -> None:
        """Answer these fields for a VIN instead of the decoded ones; `None` resets."""
        self._vpic.set_vehicle(vin, fields)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request and account for it."""
        task = asyncio.current_task()
        self._handling.add(task)
        self.max_in_flight = max(self.max_in_flight, len(self._handling))
        try:
            return await self._answer(request)
        except ConnectionError:
            # The client left; aiohttp finds that out and drops this answer.
            return web.Response()
        finally:
            self._handling.discard(task)

    def leave_all(self) -> None:
        """Break off every request that is being handled."""
        for task in filter(None, self._handling):
            task.cancel()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        self.calls[path] += 1
        options = self._options
        question = await self._vpic.receive(request) if is_vpic(path) else None
        fault = self._draw.draw(path, FAULTS if question is None else VPIC_FAULTS)
        if fault is None and self._rng.random() < options.error_rate:
            fault = FAULTS["server_error"]
        if options.latency_ms:
            await asyncio.sleep(options.latency_ms / 1000)
        if question is None:
            reply = self._copilot.look_up(path)
        else:
            reply = self._vpic.answer(question)
        if fault is None:
            return _send(request, reply)
        return await fault(Call(request, reply, options.faults.retry_after))


class RunningSandbox(NamedTuple):
    """A sandbox that listens at `url` (no slash at its end)."""

    url: str
    sandbox: Sandbox


SANDBOX: Final = web.AppKey("SANDBOX", Sandbox)


def create_sandbox(options: SandboxOptions = DEFAULTS) -> web.Application:
    """Make the application; its `Sandbox` is `app[SANDBOX]`."""
    app = web.Application()
    app[SANDBOX] = Sandbox(options)
    app.router.add_get("/{path:(?s:.*)}", app[SANDBOX].handle, allow_head=False)
    for start in (VPIC_PATH, ELSEWHERE + VPIC_PATH):
        app.router.add_post(start + "/{path:(?s:.*)}", app[SANDBOX].handle)
    app.on_startup.append(_generate)
    app.on_shutdown.append(_leave_all)
    return app


@asynccontextmanager
async def running_sandbox(
    options: SandboxOptions = DEFAULTS, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningSandbox]:
    """Serve a sandbox for as long as the context lasts; port 0 picks a free one."""
    app = create_sandbox(options)
    runner = web.AppRunner(
        app,
        access_log=None,
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
    """Generate before listening: a big period takes seconds that block."""
    _ = app[SANDBOX].period


async def _leave_all(app: web.Application) -> None:
    app[SANDBOX].leave_all()


def _send(request: web.Request, reply: Reply) -> web.Response:
    headers = {"Content-Type": reply.content_type}
    if reply.etag is None:
        return web.Response(status=reply.status, body=reply.body, headers=headers)
    headers["ETag"] = f'"{reply.etag}"'
    if _is_held(request, reply.etag):
        return web.Response(status=304, headers=headers)
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def _is_held(request: web.Request, etag: str) -> bool:
    """Whether the client's `If-None-Match` names this tag (or any)."""
    tags = request.if_none_match or ()
    return any(tag.value in (etag, "*") for tag in tags)
