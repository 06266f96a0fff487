"""The sandbox's server: plays both upstream calls, counts them, faults on demand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from random import Random
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import web

from service.sandbox.faults import (
    ELSEWHERE,
    FAULTS,
    JSON,
    MESSAGES_PATH,
    REPORTS_PREFIX,
    Call,
    FaultDraw,
    Reply,
)
from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.periods import Period, generate_period

DEFAULTS: Final = SandboxOptions()
UNKNOWN: Final = Reply(404, b'{"error":"no such thing"}')
BACKLOG: Final = 1024
SHUTDOWN_TIMEOUT_S: Final = 1.0


class Sandbox:
    """What the sandbox answers, how, and what it has been asked.

    Everything may be changed while it runs. `calls` counts the GET requests
    received, faulted ones too, by the path as it was sent, percent-encoded.
    """

    def __init__(self, options: SandboxOptions) -> None:
        self.calls: Counter[str] = Counter()
        self.max_in_flight = 0
        self._handling: set[asyncio.Task[Any] | None] = set()
        self._options = options
        self._rng = Random(options.seed)  # noqa: S311
        self._draw = FaultDraw(options.faults, self._rng)
        self._period: Period | None = None
        self._messages = UNKNOWN

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
        if _what_decides_the_period(options) != _what_decides_the_period(previous):
            self._period = None

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
        period = self._period
        if period is None:
            period = self.period = generate_period(self._options)
        return period

    @period.setter
    def period(self, period: Period) -> None:
        self._period = period
        body = period.messages_body
        if body is not self._messages.body:
            etag = blake2b(body, digest_size=16).hexdigest()
            self._messages = Reply(200, body, etag)

    def set_messages(self, messages: Sequence[Mapping[str, object]] | bytes) -> None:
        """Serve these messages, or these very bytes as the whole body."""
        is_body = isinstance(messages, bytes)
        body = _as_body(messages if is_body else {"messages": messages})
        self.period = msgspec.structs.replace(self.period, messages_body=body)

    def set_report(
        self, report_id: int | str, report: Mapping[str, object] | bytes | None
    ) -> None:
        """Serve this report, or these very bytes, for the id; `None` is a 404."""
        reports = dict(self.period.reports)
        reports.pop(str(report_id), None)
        if report is not None:
            reports[str(report_id)] = _as_body(report)
        self.period = msgspec.structs.replace(self.period, reports=reports)

    def look_up(self, path: str) -> Reply:
        """Find the healthy answer for a raw path."""
        place = path.removeprefix(ELSEWHERE)
        period = self.period
        if place == MESSAGES_PATH:
            return self._messages
        segment = place.removeprefix(REPORTS_PREFIX)
        if segment == place or "/" in segment:
            return UNKNOWN
        body = period.reports.get(unquote(segment))
        return UNKNOWN if body is None else Reply(200, body)

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
        fault = self._draw.draw(path)
        if fault is None and self._rng.random() < options.error_rate:
            fault = FAULTS["server_error"]
        if options.latency_ms:
            await asyncio.sleep(options.latency_ms / 1000)
        reply = self.look_up(path)
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


def _what_decides_the_period(options: SandboxOptions) -> tuple[int, int, int]:
    return options.messages, options.reports, options.seed


def _as_body(given: object) -> bytes:
    return given if isinstance(given, bytes) else msgspec.json.encode(given)


def _send(request: web.Request, reply: Reply) -> web.Response:
    if reply.etag is None:
        return web.Response(status=reply.status, body=reply.body, headers=JSON)
    headers = {**JSON, "ETag": f'"{reply.etag}"'}
    if _is_held(request, reply.etag):
        return web.Response(status=304, headers=headers)
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def _is_held(request: web.Request, etag: str) -> bool:
    """Whether the client's `If-None-Match` names this tag (or any)."""
    tags = request.if_none_match or ()
    return any(tag.value in (etag, "*") for tag in tags)
