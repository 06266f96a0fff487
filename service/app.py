"""The application: the only place where the parts are put together.

`create_app` is what the command line serves and what the tests drive. Resources are
opened when it starts and closed, in reverse, when it ends.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

from aiohttp import web
from aiohttp.typedefs import Middleware
from msgspec.structs import replace

from service import metrics as counted
from service import telemetry
from service.sandbox.options import SandboxOptions
from service.sandbox.server import running_sandbox
from service.settings import Settings
from service.upstream.client import open_client
from service.usage import handlers as usage
from service.usage import text
from service.usage.period import CurrentPeriod
from service.usage.sharing import open_store
from service.web import health, index, metrics
from service.web.context import ACCESS_LOG, request_context
from service.web.limits import LIMITS, Limits, add_rate_headers, limited
from service.web.openapi import add_documentation
from service.web.routes import Endpoints
from service.web.tracing import trace_request

CleanupContext = Callable[[web.Application], AsyncIterator[None]]


def create_app(settings: Settings) -> web.Application:
    """The whole service, ready to be served."""
    limits = Limits(settings)
    app = web.Application(
        middlewares=[*_middlewares(settings), limited(limits)],
        client_max_size=settings.server.max_body_bytes,
    )
    app[ACCESS_LOG] = settings.logging.access
    app[LIMITS] = limits
    app[health.TRAFFIC] = health.Traffic()
    if limits.has_rates:
        app.on_response_prepare.append(add_rate_headers)
    declared = (usage, index, health, metrics)
    endpoints = Endpoints(each for module in declared for each in module.endpoints)
    app.add_routes(endpoints.routes())
    add_documentation(app, endpoints)
    app.cleanup_ctx.append(_resources(settings))
    return app


def _middlewares(settings: Settings) -> list[Middleware]:
    context = request_context(access_log=settings.logging.access)
    return [trace_request, context] if settings.telemetry.traces else [context]


def _resources(settings: Settings) -> CleanupContext:
    async def opened(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(counted.flush)
            await stack.enter_async_context(telemetry.tracing(settings.telemetry))
            calling = settings
            if settings.sandbox.enabled:
                sandbox = await stack.enter_async_context(
                    running_sandbox(sandbox_options(settings))
                )
                upstream = replace(settings.upstream, base_url=sandbox.url)
                calling = replace(settings, upstream=upstream)
            client = await stack.enter_async_context(open_client(calling))
            store = await stack.enter_async_context(open_store(settings))
            text.prepare()
            period = CurrentPeriod(settings, client, store=store)
            stack.push_async_callback(period.close)
            app[usage.PERIOD] = period
            yield

    return opened


def sandbox_options(settings: Settings) -> SandboxOptions:
    """The embedded sandbox as the settings want it."""
    wanted = settings.sandbox
    return SandboxOptions(
        messages=wanted.messages,
        reports=wanted.reports,
        seed=wanted.seed,
        latency_ms=wanted.latency_ms,
        error_rate=wanted.error_rate,
    )
