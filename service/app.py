"""The application, which connects all parts.

The commands and the tests call `create_app`. Resources are opened when it starts, and
closed in reverse order when it ends.
"""

import asyncio
from collections.abc import AsyncIterator, Container, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import ModuleType
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from service.admin import handlers as admin
from service.admin import problems as admin_problems
from service.admin.circuits import Circuit, DatabaseCircuit, UpstreamCircuit
from service.admin.ports import separate_ports
from service.admin.siblings import FOLDER, SIBLINGS, open_siblings
from service.admin.worker import Parts, Worker
from service.events import client_handlers as event_clients
from service.events import collected_messages as collected
from service.events import failed_handlers
from service.events import handlers as events
from service.events import problems as events_problems
from service.events.collector import check_events, open_collector
from service.events.feed_handlers import FOLLOWER
from service.events.follow import open_follower
from service.events.receiving import COLLECTOR
from service.keys import handlers as keys
from service.keys import problems as keys_problems
from service.keys.cached_keys import FixedKeys, open_keys
from service.keys.store import sandbox_key
from service.observability import http_metrics
from service.observability import tracing as telemetry
from service.sandbox.embedded import with_sandbox
from service.settings import Settings
from service.storage.database import Database, open_database
from service.storage.errors import StorageUnusable
from service.storage.maintenance import in_background
from service.storage.redis_holds import share_holds
from service.storage.redis_store import RedisStore
from service.storage.uses import UseLimits
from service.upstream.client import UpstreamClient, open_client
from service.upstream.profiles import COPILOT
from service.usage import export_handlers as exports
from service.usage import handlers as usage
from service.usage import problems as usage_problems
from service.usage.budgets import handlers as budgets
from service.usage.budgets import problems as budgets_problems
from service.usage.budgets.parts import open_budgets
from service.usage.cache import SnapshotCache
from service.usage.forecast.forecasts import Forecasts
from service.usage.lanes import open_lanes as open_usage_lanes
from service.usage.periods import handlers as periods
from service.usage.periods import problems as periods_problems
from service.usage.periods.calendar import Schedule
from service.usage.periods.keeping.closing import MonthSource
from service.usage.periods.keeping.tasks import running_keeping
from service.usage.periods.listing import Listing as PeriodListing
from service.usage.periods.reading.reader import KeptSnapshots
from service.usage.pricing import text
from service.usage.readiness import UsageReadiness
from service.usage.shared_store import open_store
from service.usage.snapshots.memory_files import ReceivedBody
from service.usage.sources import EventMessages, MessageSource, UpstreamMessages
from service.vehicles import cache_handlers
from service.vehicles import handlers as vehicles
from service.vehicles import problems as vehicles_problems
from service.vehicles.lanes import open_lanes
from service.vehicles.parts import open_vehicles
from service.web import bodies, health, problems, static_pages, system
from service.web.auth import AUTHENTICATOR, ApiKey, Authenticator, KeySource
from service.web.cors import add_cors
from service.web.key_rates import KeyRates
from service.web.limits import LIMITS, Limits, add_rate_headers, limit_requests
from service.web.links import PUBLIC_URL
from service.web.openapi import add_documentation
from service.web.openapi_problems import problems_of
from service.web.problems import Kinds
from service.web.request_context import REPORTS, Reports, request_context
from service.web.request_tracing import trace_request
from service.web.routes import Endpoints
from service.web.unsent_bytes import UNSENT, UnsentBytes

PROBLEM_KINDS: Final[Kinds] = {
    **problems.KINDS,
    **admin_problems.KINDS,
    **usage_problems.KINDS,
    **periods_problems.KINDS,
    **budgets_problems.KINDS,
    **events_problems.KINDS,
    **vehicles_problems.KINDS,
    **keys_problems.KINDS,
}
"""The kind of problem of each error."""


def create_app(
    settings: Settings, *, is_storage_checked: bool = False
) -> web.Application:
    """Return the whole service.

    With `is_storage_checked`, after a call of `check_storage`, it also starts while the
    storage is unavailable.
    """
    limits = Limits(settings)
    reports = Reports(
        access_log=settings.logging.access,
        kinds=PROBLEM_KINDS,
        slow_request_s=settings.logging.slow_request_s,
    )
    app = web.Application(
        middlewares=[*_middlewares(settings, reports), limit_requests(limits)],
        client_max_size=settings.server.max_body_bytes,
    )
    app[REPORTS] = reports
    app[LIMITS] = limits
    app[PUBLIC_URL] = str(URL(settings.server.public_url)).rstrip("/")
    app[UNSENT] = UnsentBytes(settings.server.max_unsent_bytes)
    app[bodies.BODIES] = bodies.open_lane(limits, settings)
    app[periods.LANES] = open_usage_lanes(limits.clients.group_of, settings)
    app[events.QUERIES] = events.open_lane(limits, settings)
    app[vehicles.LANES] = open_lanes(limits.clients.group_of, settings)
    app[health.TRAFFIC] = health.Traffic()
    # The signal costs time for each request, so it is connected only if needed.
    if limits.has_rates:
        app.on_response_prepare.append(add_rate_headers)
    declared = (*_domains(settings), static_pages, admin, health, system)
    endpoints = Endpoints(each for module in declared for each in module.endpoints)
    app.add_routes(endpoints.routes())
    _expect_answers(endpoints, settings.auth.required)
    if settings.events.cors_origins:
        add_cors(app, endpoints, settings.events.cors_origins)
    static_pages.add_dashboard(app, settings.server.frame_ancestors)
    add_documentation(app, endpoints, settings.auth.required)
    app.cleanup_ctx.append(
        partial(
            _open_resources, settings=settings, is_storage_checked=is_storage_checked
        )
    )
    return app


def _expect_answers(endpoints: Endpoints, required: Container[str]) -> None:
    """Begin to count the answers of all endpoints at 0, by each 5xx code."""
    for each in endpoints:
        kinds = problems_of(each, needs_key=each.scope in required)
        codes = [kind.code for kind in kinds if kind.status >= 500]
        for path in each.paths:
            http_metrics.expect_answers(each.method, path, int(each.status), codes)


def _domains(settings: Settings) -> Iterator[ModuleType]:
    """Yield the domains that are enabled by settings."""
    # Its paths also match `/usage/{message_id}`.
    if settings.periods.enabled:
        yield periods
        yield budgets
    yield exports
    yield usage
    if settings.events.enabled:
        yield events
        yield failed_handlers
        yield event_clients
    if settings.vehicles.enabled:
        yield vehicles
        yield cache_handlers
    if settings.needs_storage:
        yield keys


def _middlewares(settings: Settings, reports: Reports) -> list[Middleware]:
    context = request_context(reports)
    middlewares = [trace_request, context] if settings.telemetry.traces else [context]
    return [*middlewares, separate_ports] if settings.server.admin_port else middlewares


async def _open_resources(
    app: web.Application, *, settings: Settings, is_storage_checked: bool
) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        stack.callback(http_metrics.flush)
        await stack.enter_async_context(telemetry.tracing(settings.telemetry))
        effective = await stack.enter_async_context(with_sandbox(settings))
        store = await stack.enter_async_context(open_store(settings))
        await stack.enter_async_context(app[LIMITS].sharing(store))
        client = await stack.enter_async_context(_open_copilot(effective, store))
        source: MessageSource = UpstreamMessages(client)
        database = None
        if settings.needs_storage:
            database = await stack.enter_async_context(
                _open_storage(settings, is_checked=is_storage_checked)
            )
            await stack.enter_async_context(
                _open_stored_domains(app, effective, database, store)
            )
            if settings.usage.source == "events":
                source = EventMessages(collected.CollectedMessages(database))
        stack.push_async_callback(_authenticate(app, settings, store).close)
        # The first refresh waits for the upstream meanwhile.
        await stack.enter_async_context(in_background(asyncio.to_thread(text.prepare)))
        cache = SnapshotCache(settings, client, source, store=store)
        stack.push_async_callback(cache.close)
        _answer_from(app, cache, settings)
        await stack.enter_async_context(_keep_periods(app, settings, database, source))
        worker = Worker(_parts(app, client, database), settings.logging.level)
        stack.callback(worker.close)
        app[SIBLINGS] = await stack.enter_async_context(
            open_siblings(worker, app.get(FOLDER))
        )
        yield


def _fixed_keys(settings: Settings) -> list[ApiKey]:
    return [sandbox_key()] if settings.sandbox.enabled else []


def _authenticate(
    app: web.Application, settings: Settings, store: RedisStore | None
) -> KeyRates:
    """Check the keys of requests; return their rates, which are to be closed."""
    rates = KeyRates(settings.limits, store)
    known: KeySource = FixedKeys(_fixed_keys(settings))
    if keys.API_KEYS in app:
        known = app[keys.API_KEYS]
    app[AUTHENTICATOR] = Authenticator(settings, known, app[LIMITS].clients, rates)
    return rates


@asynccontextmanager
async def _open_stored_domains(
    app: web.Application,
    settings: Settings,
    database: Database,
    store: RedisStore | None,
) -> AsyncIterator[None]:
    """Open the domains that store data: keys, and events and vehicles if enabled."""
    async with AsyncExitStack() as stack:
        app[keys.DATABASE] = database
        app[keys.API_KEYS] = await stack.enter_async_context(
            open_keys(settings.events, database, _fixed_keys(settings))
        )
        if settings.events.enabled:
            app[COLLECTOR] = collector = await stack.enter_async_context(
                open_collector(settings, database)
            )
            app[FOLLOWER] = follower = await stack.enter_async_context(
                open_follower(database)
            )
            app[health.TRAFFIC].on_stop += [follower.waits.end, collector.end_waits]
            app[health.TRAFFIC].checks.append(collector.check_writer)
            app[health.TRAFFIC].domains["events"] = collector.check_ready
        if settings.vehicles.enabled:
            parts = await stack.enter_async_context(
                open_vehicles(settings, database, store)
            )
            app[vehicles.LOOKUPS] = parts.lookups
            app[vehicles.EXPORTS] = parts.exports
            app[cache_handlers.LISTING] = parts.listing
            app[health.TRAFFIC].domains["vehicles"] = parts.check_ready
        yield


@asynccontextmanager
async def _open_copilot(
    settings: Settings, store: RedisStore | None
) -> AsyncIterator[UpstreamClient]:
    """Open the client of messages and reports."""
    new_body = partial(ReceivedBody, settings.usage.own_process_bytes)
    async with open_client(
        settings.upstream, settings.breaker, new_body=new_body
    ) as client:
        share_holds(client.guard, store, COPILOT.name)
        yield client


@asynccontextmanager
async def _keep_periods(
    app: web.Application,
    settings: Settings,
    database: Database | None,
    source: MessageSource,
) -> AsyncIterator[None]:
    """Keep each snapshot of a refresh, and answer from kept periods, if enabled."""
    cache, schedule = app[usage.SNAPSHOTS], Schedule(settings)
    if settings.has_calendar:
        cache.find_span = schedule.current
    if not settings.periods.enabled or database is None:
        app[usage.FORECASTS] = Forecasts(settings.periods, None)
        yield
        return
    app[periods.KEPT] = kept = KeptSnapshots(settings, database)
    app[usage.FORECASTS] = forecasts = Forecasts(settings.periods, kept)
    app[periods.LISTING] = PeriodListing(database)
    months = MonthSource(source, cache.refreshers, cache.lists)
    async with (
        open_budgets(settings, database, cache, forecasts) as parts,
        running_keeping(
            settings, database, schedule, months, parts.observer
        ) as recorder,
    ):
        app[budgets.BUDGETS] = parts
        cache.on_refresh = recorder.keep
        try:
            yield
        finally:
            await kept.close()


def _parts(
    app: web.Application, client: UpstreamClient, database: Database | None
) -> Parts:
    """Return the parts that an operator sees and changes."""
    circuits: dict[str, Circuit] = {COPILOT.name: UpstreamCircuit(client.guard)}
    lanes = [app[bodies.BODIES], *app[periods.LANES], app[events.QUERIES]]
    if vehicles.LOOKUPS in app and (vpic := app[vehicles.LOOKUPS].guard):
        circuits["vpic"] = UpstreamCircuit(vpic)
    if database is not None:
        circuits["database"] = DatabaseCircuit(database.breaker)
    return Parts(
        app[usage.SNAPSHOTS],
        circuits,
        [*lanes, *app[vehicles.LANES]],
        app[health.TRAFFIC],
        app[LIMITS],
        database,
        app.get(COLLECTOR),
    )


def _answer_from(
    app: web.Application, cache: SnapshotCache, settings: Settings
) -> None:
    """Have usage answer from a cache, and be ready when the cache is."""
    usage.answer_from(app, cache)
    traffic, readiness = app[health.TRAFFIC], UsageReadiness(cache, settings.health)
    traffic.warm_up = readiness.warm_up
    traffic.checks.append(readiness.check_process)
    traffic.domains["usage"] = readiness.check_usage


async def check_storage(settings: Settings, *, may_migrate: bool = True) -> None:
    """Open and close the storage, once, before workers start.

    Without `may_migrate`, SQLite is not migrated. Raises `StorageUnusable`,
    `QueueUnavailable`, and `SettingsError` for invalid types of events.
    """
    if not settings.needs_storage:
        return
    try:
        async with open_database(settings.storage, may_migrate=may_migrate) as database:
            if settings.events.enabled:
                await check_events(settings, database)
    except StorageUnusable:
        if not settings.can_start_without_storage:
            raise


@asynccontextmanager
async def _open_storage(
    settings: Settings, *, is_checked: bool
) -> AsyncIterator[Database]:
    """Open the database; raises `StorageUnusable`, unless only periods need it.

    Then the service answers as without it, and keeps periods when it is usable.
    """
    limits, can_wait = _use_limits(settings), settings.can_start_without_storage
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(
                open_database(settings.storage, limits, is_checked=is_checked)
            )
        except StorageUnusable:
            if not can_wait:
                raise
            database = await stack.enter_async_context(
                open_database(settings.storage, limits, is_checked=True)
            )
        yield database


def _use_limits(settings: Settings) -> UseLimits:
    return UseLimits(settings.limits.queue_wait_s, settings.events.max_queries)
