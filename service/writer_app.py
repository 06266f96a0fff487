"""The application of `copilot-usage writer`: a writer of events, health and metrics.

It needs the database and the queue, and serves no other requests.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web

from service.keys.cached_keys import open_keys
from service.observability import http_metrics
from service.observability import tracing as telemetry
from service.settings import Settings, SettingsError
from service.storage.database import open_database
from service.storage.uses import UseLimits
from service.web import health, problems, system
from service.web.auth import AUTHENTICATOR, Authenticator
from service.web.key_rates import KeyRates
from service.web.limits import LIMITS, Limits, limit_requests
from service.web.request_context import REPORTS, Reports, request_context
from service.web.routes import Endpoints

ENDPOINTS = (*health.endpoints, *system.metrics_endpoints)


def create_writer_app(settings: Settings) -> web.Application:
    """Return the application of a writer; raises `SettingsError` without a queue."""
    if not settings.events.queue_url:
        raise SettingsError("events.queue_url: a writer needs it")
    limits = Limits(settings)
    reports = Reports(
        access_log=settings.logging.access,
        kinds=problems.KINDS,
        slow_request_s=settings.logging.slow_request_s,
    )
    app = web.Application(
        middlewares=[request_context(reports), limit_requests(limits)],
        client_max_size=settings.server.max_body_bytes,
    )
    app[REPORTS] = reports
    app[LIMITS] = limits
    app[health.TRAFFIC] = health.Traffic()
    app.add_routes(Endpoints(ENDPOINTS).routes())
    app.cleanup_ctx.append(partial(_open_resources, settings=settings))
    return app


async def _open_resources(
    app: web.Application, *, settings: Settings
) -> AsyncIterator[None]:
    from service.events.queue.tasks import until_cancelled
    from service.events.queue.writer import open_writer

    limits = UseLimits(settings.limits.queue_wait_s, settings.events.max_queries)
    async with AsyncExitStack() as stack:
        stack.callback(http_metrics.flush)
        await stack.enter_async_context(telemetry.tracing(settings.telemetry))
        database = await stack.enter_async_context(
            open_database(settings.storage, limits)
        )
        keys = await stack.enter_async_context(open_keys(settings.events, database, ()))
        rates = KeyRates(settings.limits, None)
        stack.push_async_callback(rates.close)
        app[AUTHENTICATOR] = Authenticator(settings, keys, app[LIMITS].clients, rates)
        writer = await stack.enter_async_context(open_writer(settings.events, database))
        # In a worker of the service, the publisher measures the stream.
        await stack.enter_async_context(until_cancelled(writer.stream.run()))
        app[health.TRAFFIC].checks.append(writer.check_ready)
        yield
