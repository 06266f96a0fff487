"""Readiness for requests about vehicles."""

from service.storage.database import Database
from service.vehicles.lookup import Lookups
from service.web.health import Unready


async def check_vehicles(database: Database, lookups: Lookups) -> Unready | None:
    """Return why no VIN can be looked up now, or None.

    One of two sources is enough: the database, or vPIC.
    """
    circuit = lookups.circuit
    if not database.breaker.is_away or circuit is None:
        return None
    blocked_s = circuit.refuses_for_s
    if not blocked_s:
        return None
    return Unready("neither the database nor vPIC answers", blocked_s)
