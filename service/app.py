"""The application: the only place where the parts are put together.

`create_app` is what the command line serves and what the tests drive. Resources are
opened when it starts and closed, in reverse, when it ends.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType

from aiohttp import web
from aiohttp.typedefs import Middleware
from msgspec.structs import replace

from service import metrics as counted
from service import telemetry
from service.events import handlers as events
from service.events import messages as collected
from service.events.collector import open_collector
from service.events.keys import KeyRing, sandbox_key
from service.sandbox.options import SandboxOptions
from service.sandbox.server import running_sandbox
from service.sandbox.vpic import VPIC_PATH
from service.settings import Settings
from service.storage.database import Database, open_database
from service.storage.shared_store import SharedStore
from service.upstream.client import open_client
from service.usage import handlers as usage
from service.usage.cache import SnapshotCache
from service.usage.pricing import text
from service.usage.shared_cache import open_store
from service.usage.sources import CollectedMessages, MessageSource, UpstreamMessages
from service.vehicles import handlers as vehicles
from service.vehicles.export import open_exports
from service.vehicles.lookup import open_lookups, source_of
from service.web import dashboard, health, index, metrics
from service.web.context import ACCESS_LOG, request_context
from service.web.keys import GATE, Gate
from service.web.limits import LIMITS, Limits, add_rate_headers, limited
from service.web.openapi import add_documentation
from service.web.routes import Endpoints
from service.web.tracing import trace_request

CleanupContext = Callable[[web.Application], AsyncIterator[None]]


def create_app(
    settings: Settings, *, is_storage_checked: bool = False
) -> web.Application:
    """The whole service, ready to be served.

    `is_storage_checked` says that `check_storage` has been called: a storage that has
    gone away since then does not keep it from starting.
    """
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
    app[dashboard.DASHBOARD] = dashboard.read_dashboard()
    declared = (usage, *_optional(settings), dashboard, index, health, metrics)
    endpoints = Endpoints(each for module in declared for each in module.endpoints)
    app.add_routes(endpoints.routes())
    app.add_routes(dashboard.file_routes())
    add_documentation(app, endpoints)
    app.cleanup_ctx.append(_resources(settings, is_storage_checked=is_storage_checked))
    return app


def _optional(settings: Settings) -> Iterator[ModuleType]:
    """The domains that can be turned off."""
    if settings.events.enabled:
        yield events
    if settings.vehicles.enabled:
        yield vehicles


def _middlewares(settings: Settings) -> list[Middleware]:
    context = request_context(access_log=settings.logging.access)
    return [trace_request, context] if settings.telemetry.traces else [context]


def _resources(settings: Settings, *, is_storage_checked: bool) -> CleanupContext:
    async def opened(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(counted.flush)
            await stack.enter_async_context(telemetry.tracing(settings.telemetry))
            calling = await stack.enter_async_context(called(settings))
            client = await stack.enter_async_context(
                open_client(calling.upstream, calling.breaker)
            )
            store = await stack.enter_async_context(open_store(settings))
            source: MessageSource = UpstreamMessages(client)
            if settings.needs_storage:
                database = await stack.enter_async_context(
                    open_database(settings.storage, is_checked=is_storage_checked)
                )
                await stack.enter_async_context(_keeping(app, calling, database, store))
                if settings.usage.source == "events":
                    kept = collected.CollectedMessages(database)
                    source = CollectedMessages(kept)
            text.prepare()
            cache = SnapshotCache(settings, client, source, store=store)
            stack.push_async_callback(cache.close)
            app[usage.SNAPSHOTS] = cache
            yield

    return opened


@asynccontextmanager
async def called(settings: Settings) -> AsyncIterator[Settings]:
    """The settings by which others are called; the sandbox, if wanted, runs meanwhile.

    It then stands in the place of all of them.
    """
    if not settings.sandbox.enabled:
        yield settings
        return
    async with running_sandbox(sandbox_options(settings)) as sandbox:
        yield replace(
            settings,
            upstream=replace(settings.upstream, base_url=sandbox.url),
            vehicles=replace(settings.vehicles, base_url=sandbox.url + VPIC_PATH),
        )


@asynccontextmanager
async def _keeping(
    app: web.Application,
    settings: Settings,
    database: Database,
    store: SharedStore | None,
) -> AsyncIterator[None]:
    """Collect events of whoever has a key, and look vehicles up, where wanted."""
    async with AsyncExitStack() as stack:
        if settings.events.enabled:
            fixed = [sandbox_key()] if settings.sandbox.enabled else []
            ring = KeyRing(database, settings.events.key_ttl_s, fixed=fixed)
            app[GATE] = Gate(settings, ring)
            app[events.COLLECTOR] = await stack.enter_async_context(
                open_collector(settings.events, database)
            )
        if settings.vehicles.enabled:
            app[vehicles.LOOKUPS] = await stack.enter_async_context(
                open_lookups(settings, database, store)
            )
            app[vehicles.EXPORTS] = await stack.enter_async_context(
                open_exports(settings.storage, source_of(settings))
            )
        yield


async def check_storage(settings: Settings) -> None:
    """Open what is kept on disk, once, before workers do: none is to fail by itself.

    Raises `StorageUnusable`, and `SettingsError` for types of no use.
    """
    if not settings.needs_storage:
        return
    async with open_database(settings.storage) as database:
        if settings.events.enabled:
            async with open_collector(settings.events, database):
                pass


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
