"""Endpoints of vehicles: look-ups, removals, and the export of the cache."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Annotated, Final

from aiohttp import hdrs, web
from msgspec import UNSET, Meta, Struct
from msgspec.structs import asdict

from service.observability.stages import stage
from service.vehicles import problems
from service.vehicles.doubts import candidates_of, warnings_of
from service.vehicles.errors import (
    ExportFailed,
    InvalidVin,
    LookupsFull,
    TooManyVins,
    VehiclesError,
    VehicleUnavailable,
)
from service.vehicles.export import Exports
from service.vehicles.lanes import Lanes
from service.vehicles.lookup import Lookups, age_s
from service.vehicles.model import (
    BatchItem,
    Entry,
    Found,
    LookedUp,
    LookupAnswer,
    LookupBody,
    Removed,
    Vin,
)
from service.vehicles.pending import LookupClient
from service.vehicles.repeats import Block, RepeatedLookup
from service.vehicles.vin import number_of, parse_vin, parse_vins, shown
from service.web.backpressure import pause_client
from service.web.bodies import JSON_PROBLEMS, JSON_TYPE, read_json
from service.web.client_stream import ClientStream, while_connected
from service.web.connection_reset import reset_connection
from service.web.http_cache.conditional import check_if_match
from service.web.http_cache.responses import block_of
from service.web.lanes import LaneFull, LaneTimeout
from service.web.limits import LIMITS
from service.web.problems import STORAGE_UNAVAILABLE, kind_of
from service.web.repeats import offer
from service.web.request_context import CACHE_RESULT, REQUEST_ID, REQUEST_ID_HEADER
from service.web.routes import (
    NO_STORE,
    Endpoints,
    NoParameters,
    RequestBody,
    json_answer,
)

LOOKUP_PATH: Final = "/vehicles/lookup"
LOOKUPS: Final = web.AppKey("lookups", Lookups)
EXPORTS: Final = web.AppKey("exports", Exports)
LANES: Final = web.AppKey("vehicle_lanes", Lanes)
MAX_VINS: Final = 500
MAX_BODY_BYTES: Final = 65_536
"""Enough for `MAX_VINS` VINs with white space, and for some that are too long."""
BODY_TIMEOUT_S: Final = 10.0
CACHE_NAME: Final = "copilot-usage"

EXAMPLE_VIN: Final = "1XPWD40X1ED215307"
REMOVAL_PROBLEMS: Final = (
    problems.INVALID_VIN,
    problems.REMOVALS_FULL,
    problems.REMOVAL_TIMEOUT,
    STORAGE_UNAVAILABLE,
)
CACHE_HEADERS: Final = {
    "Cache-Status": "Whether the vehicle was cached, and whether it is stale.",
    "Age": "Seconds since vPIC decoded the VIN.",
}
PARQUET: Final = "application/vnd.apache.parquet"
EXPORT_HEADERS: Final = {
    hdrs.CONTENT_TYPE: PARQUET,
    hdrs.CONTENT_DISPOSITION: 'attachment; filename="vehicles.parquet"',
    hdrs.CACHE_CONTROL: "no-store",
}

endpoints = Endpoints()


class VinParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of requests about one VIN."""

    vin: Annotated[
        str,
        Meta(
            description="17 letters or digits, in either case; no I, O or Q.",
            examples=[EXAMPLE_VIN],
        ),
    ]


@endpoints.get(
    LOOKUP_PATH,
    parameters=VinParameters,
    scope="vehicles:read",
    answer=LookedUp,
    headers=CACHE_HEADERS,
    problems=(
        problems.VEHICLE_UNAVAILABLE,
        problems.LOOKUPS_FULL,
        problems.INVALID_VIN,
        problems.VIN_NOT_DECODED,
    ),
)
async def look_vehicle_up(
    request: web.Request, parameters: VinParameters
) -> web.StreamResponse:
    """Look up a vehicle's make, model, year and body class by its VIN.

    If the VIN is not cached, or its entry has expired, the service asks vPIC. While
    vPIC is unavailable, the answer is the expired entry.
    """
    vin = parse_vin(parameters.vin)
    async with _client(request) as client:
        found = await request.app[LOOKUPS].look_up(vin, client)
    request[CACHE_RESULT] = found.result
    lookups = request.app[LOOKUPS]
    offer(request, RepeatedLookup(lookups, LOOKUP_PATH, vin, _cached_block))
    return _answer(vin, found)


def _cached_block(vin: Vin, entry: Entry) -> Block:
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
    return block_of(_answer(vin, found))


@endpoints.post(
    LOOKUP_PATH,
    parameters=NoParameters,
    scope="vehicles:read",
    body=RequestBody(
        {JSON_TYPE: LookupBody},
        f"At most {MAX_VINS} VINs.",
        example={"vins": [EXAMPLE_VIN, "1XKWDB0X57J211825"]},
    ),
    answer=LookupAnswer,
    problems=(
        problems.LOOKUPS_FULL,
        *JSON_PROBLEMS,
        problems.TOO_MANY_VINS,
    ),
)
async def look_vehicles_up(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Look up many vehicles; the results are in the order of the VINs.

    The `error` of a VIN is the problem code that a request for it alone would get.
    """
    texts = await _read_vins(request)
    parsed = parse_vins(texts)
    vins = [each for each in parsed.values() if not isinstance(each, InvalidVin)]
    async with _client(request) as client:
        looked_up = await request.app[LOOKUPS].look_up_all(vins, client)

    def item(text: str) -> BatchItem:
        vin = parsed[text]
        if isinstance(vin, InvalidVin):
            return _failed_item(shown(text), vin)
        result = looked_up[vin]
        if isinstance(result, VehiclesError):
            return _failed_item(number_of(vin), result)
        return BatchItem(**asdict(_looked_up(vin, result)))

    answers = LookupAnswer([item(text) for text in texts])
    return json_answer(answers, NO_STORE)


@endpoints.delete(
    "/vehicles/remove",
    parameters=VinParameters,
    scope="vehicles:manage",
    answer=Removed,
    problems=REMOVAL_PROBLEMS,
)
async def remove_vehicle(
    request: web.Request, parameters: VinParameters
) -> web.StreamResponse:
    """Remove a VIN from the cache; the answer is false if it was not cached.

    What vPIC is asked at that moment is not cached either.
    """
    vin = parse_vin(parameters.vin)
    check_if_match(request, None)
    client = request.app[LIMITS].clients.group_of(request)
    with _slowed_if_refused(request):
        async with request.app[LANES].removals.enter(request):
            with stage("storage"):
                was_stored = await request.app[LOOKUPS].remove(vin, client)
    return json_answer(Removed(vin, was_stored), NO_STORE)


@endpoints.post(
    "/vehicles/remove",
    parameters=VinParameters,
    scope="vehicles:manage",
    answer=Removed,
    problems=REMOVAL_PROBLEMS,
)
async def remove_vehicle_by_post(
    request: web.Request, parameters: VinParameters
) -> web.StreamResponse:
    """Remove a VIN from the cache, for clients that cannot send DELETE."""
    return await remove_vehicle(request, parameters)


@endpoints.get(
    "/vehicles/export",
    parameters=NoParameters,
    scope="vehicles:read",
    media_types=(PARQUET,),
    headers={"Content-Disposition": "The name of the file: vehicles.parquet."},
    problems=(problems.TOO_MANY_EXPORTS, problems.EXPORT_FAILED),
)
async def export_vehicles(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Export all cached vehicles as a Parquet file, in the order of their VINs.

    Its columns are vin, make, model, model_year, body_class and fetched_at. The file is
    sent while it is written: if that fails midway, the connection is reset.
    """
    check_if_match(request, None)
    headers = EXPORT_HEADERS | {REQUEST_ID_HEADER: request[REQUEST_ID]}
    response = web.StreamResponse(headers=headers)
    stream = ClientStream(request, response)
    # The headers are known, so HEAD starts no child.
    if request.method == hdrs.METH_HEAD:
        return response
    try:
        lane = partial(request.app[LANES].exports.enter, request)
        async with request.app[EXPORTS].export(lane) as export:
            await stream.start()
            while chunk := await export.read():
                await stream.write(chunk)
        await stream.finish()
    except BaseException as error:
        # Before the first byte, the answer can still be a problem document.
        if not response.prepared:
            raise
        _break_off(request)
        # The export has logged its failure, and the client sees the reset.
        if not isinstance(error, ExportFailed | LaneTimeout):
            raise
    return response


@contextmanager
def _slowed_if_refused(request: web.Request) -> Iterator[None]:
    """Do not read the connection for a while if the request is refused."""
    try:
        yield
    except (LaneFull, LookupsFull):
        # The connection of a proxy has requests of other clients too.
        if request.app[LIMITS].clients.address_of(request) == request.remote:
            pause_client(request)
        raise


@asynccontextmanager
async def _client(request: web.Request) -> AsyncIterator[LookupClient]:
    """Yield the client of a look-up, which is cancelled when the client disconnects.

    Raises `ClientDisconnected`.
    """
    name = request.app[LIMITS].clients.group_of(request)
    lane = partial(request.app[LANES].lookups.enter, request)
    async with while_connected(request):
        with _slowed_if_refused(request):
            yield LookupClient(name, lane)


async def _read_vins(request: web.Request) -> list[str]:
    body = await read_json(
        request, LookupBody, max_bytes=MAX_BODY_BYTES, timeout_s=BODY_TIMEOUT_S
    )
    vins = body.vins
    if len(vins) > MAX_VINS:
        raise TooManyVins(f"at most {MAX_VINS} VINs, not {len(vins)}")
    return vins


def _failed_item(vin: str, error: VehiclesError) -> BatchItem:
    detail = str(error)
    if isinstance(error, VehicleUnavailable):  # vPIC's error is not for clients
        detail = kind_of(error, problems.KINDS).consequence
    return BatchItem(vin=vin, error=error.code, detail=detail)


def _looked_up(vin: Vin, found: Found) -> LookedUp:
    vehicle = found.vehicle
    return LookedUp(
        vin=number_of(vin),
        make=vehicle.make,
        model=vehicle.model,
        model_year=vehicle.model_year,
        body_class=vehicle.body_class,
        cached_result=found.result in {"hit", "stale"},
        warnings=warnings_of(vin, found.codes) or UNSET,
        model_year_candidates=candidates_of(vin, found.codes, vehicle.model_year)
        or UNSET,
        source="offline" if found.result == "offline" else UNSET,
    )


def _answer(vin: Vin, found: Found) -> web.Response:
    return json_answer(_looked_up(vin, found), _headers(found))


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


def _break_off(request: web.Request) -> None:
    """Let the caller see that an answer is not whole, by any version of HTTP."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    reset_connection(transport)
