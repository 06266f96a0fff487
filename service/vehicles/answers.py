"""Answers about vehicles: their bodies and headers."""

from typing import Final

from aiohttp import web
from msgspec import UNSET
from msgspec.structs import asdict, replace

from service.vehicles import problems
from service.vehicles.doubts import candidates_of, warnings_of
from service.vehicles.errors import VehiclesError, VehicleUnavailable, VinNotDecoded
from service.vehicles.fields import Fields
from service.vehicles.lookup import age_s
from service.vehicles.model import BatchItem, Entry, Found, LookedUp, Vin
from service.vehicles.repeats import Block
from service.vehicles.vin import number_of
from service.web.http_cache.responses import block_of
from service.web.problems import kind_of
from service.web.routes import NO_STORE, json_answer

CACHE_NAME: Final = "copilot-usage"


def answer(vin: Vin, found: Found, fields: Fields) -> web.Response:
    """Return the answer to the look-up of one VIN."""
    return json_answer(looked_up(vin, found, fields), _headers(found))


def cached_block(vin: Vin, entry: Entry, fields: Fields) -> Block:
    """Return the answer for a cached entry, which must be fresh and decoded."""
    assert entry.vehicle is not None  # noqa: S101 - see `Lookups.find_cached`
    found = Found(
        entry.vehicle,
        "hit",
        age_s(entry),
        is_stored=True,
        codes=entry.codes,
        packed=entry.packed,
    )
    return block_of(answer(vin, found, fields))


def item(vin: Vin, result: Found | VehiclesError, fields: Fields) -> BatchItem:
    """Return the result of a VIN in a batch."""
    if isinstance(result, VehiclesError):
        failed = failed_item(number_of(vin), result)
        if isinstance(result, VinNotDecoded) and not fields.is_basic:
            return replace(failed, **result.members)
        return failed
    return BatchItem(**asdict(looked_up(vin, result, fields)))


def failed_item(vin: str, error: VehiclesError) -> BatchItem:
    """Return the error in place of a vehicle."""
    detail = str(error)
    if isinstance(error, VehicleUnavailable):  # vPIC's error is not for clients
        detail = kind_of(error, problems.KINDS).consequence
    return BatchItem(vin=vin, error=error.code, detail=detail)


def looked_up(vin: Vin, found: Found, fields: Fields) -> LookedUp:
    """Return the body of the answer to a look-up."""
    vehicle = found.vehicle
    candidates = candidates_of(vin, found.codes, vehicle.model_year)
    return LookedUp(
        vin=number_of(vin),
        make=vehicle.make,
        model=vehicle.model,
        model_year=vehicle.model_year,
        body_class=vehicle.body_class,
        cached_result=found.result in {"hit", "stale"},
        warnings=warnings_of(vin, found.codes) or UNSET,
        model_year_candidates=candidates or UNSET,
        source="offline" if found.result == "offline" else UNSET,
        fields=UNSET
        if fields.is_basic
        else dict(fields.of(vin, vehicle, found.packed)),
    )


def _headers(found: Found) -> dict[str, str]:
    """Return the cache headers: `Cache-Status` as in RFC 9211, and `Age`."""
    if found.result in {"miss", "offline"}:
        stored = "; stored" if found.is_stored else ""
        forwarded = "stale" if found.is_refreshed else "miss"
        status = f"{CACHE_NAME}; fwd={forwarded}{stored}"
    else:
        detail = "; detail=stale" if found.result == "stale" else ""
        status = f"{CACHE_NAME}; hit{detail}"
    return {
        # A cache on the way would not notice a removal.
        **NO_STORE,
        "Cache-Status": status,
        "Age": str(int(found.age_s)),
    }
