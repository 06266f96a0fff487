"""The parts of vehicles, opened together with the tasks that maintain the cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from service.settings import Settings
from service.storage.database import Database
from service.storage.maintenance import in_background
from service.storage.redis_store import RedisStore
from service.vehicles.completion import Completion
from service.vehicles.expiry import Expiry
from service.vehicles.export import Exports, open_exports
from service.vehicles.listing import Listing
from service.vehicles.lookup import Lookups, open_lookups, source_of
from service.vehicles.readiness import check_vehicles
from service.vehicles.store import VehicleStore
from service.web.health import Check


class VehicleParts(NamedTuple):
    """The parts that answer requests, and the check of their readiness."""

    lookups: Lookups
    listing: Listing
    exports: Exports
    check_ready: Check


@asynccontextmanager
async def open_vehicles(
    settings: Settings, database: Database, store: RedisStore | None
) -> AsyncIterator[VehicleParts]:
    """Open vehicles; expire and complete what is cached until the end."""
    source = source_of(settings)
    expiry = Expiry(settings.vehicles, database)
    async with (
        open_lookups(settings, database, store) as lookups,
        in_background(expiry.run()),
        in_background(Completion(VehicleStore(database, source), lookups).run()),
        open_exports(settings.storage, source) as exports,
    ):
        yield VehicleParts(
            lookups,
            Listing(database, source),
            exports,
            partial(check_vehicles, database, lookups),
        )
