"""Endpoints of vehicles: look-ups, removals, and the export of the cache."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Annotated, Final

from aiohttp import hdrs, web
from msgspec import Meta, Struct

from service.observability.stages import stage
from service.vehicles import answers, problems
from service.vehicles.errors import (
    ExportFailed,
    InvalidModelYear,
    InvalidVin,
    LookupsFull,
    TooManyVins,
)
from service.vehicles.export import Exports
from service.vehicles.fields import BASIC_NAME, Fields, UnknownField, parse_fields
from service.vehicles.lanes import Lanes
from service.vehicles.lookup import Lookups
from service.vehicles.model import (
    BatchItem,
    HintedVin,
    LookedUp,
    LookupAnswer,
    LookupBody,
    Removed,
    Vin,
)
from service.vehicles.pending import LookupClient
from service.vehicles.repeats import RepeatedLookup
from service.vehicles.vin import parse_vin, shown
from service.web.backpressure import pause_client
from service.web.bodies import JSON_PROBLEMS, JSON_TYPE, read_json
from service.web.client_stream import ClientStream, while_connected
from service.web.connection_reset import reset_connection
from service.web.http_cache.conditional import check_if_match
from service.web.lanes import LaneFull, LaneTimeout
from service.web.limits import LIMITS
from service.web.parameters import InvalidParameter
from service.web.problems import STORAGE_UNAVAILABLE
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


VinText = Annotated[
    str,
    Meta(
        description="17 letters or digits, in either case; no I, O or Q. In a partial "
        "VIN, * stands for an unknown character, and its end may be missing.",
        examples=[EXAMPLE_VIN],
    ),
]


class VinParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of requests about one VIN."""

    vin: VinText


FieldsText = Annotated[
    str,
    Meta(
        description="`basic`; or `all` values that vPIC has; or names of vPIC, such as "
        "`GVWR,FuelTypePrimary`.",
        examples=["all"],
    ),
]


class ExportParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the export."""

    fields: FieldsText = BASIC_NAME


class LookupParameters(VinParameters, frozen=True, forbid_unknown_fields=True):
    """Parameters of the look-up of one VIN."""

    model_year: (
        Annotated[
            str,
            Meta(
                description="The model year, if it is known: a hint for vPIC.",
                examples=["2014"],
            ),
        ]
        | None
    ) = None
    fields: FieldsText = BASIC_NAME


@endpoints.get(
    LOOKUP_PATH,
    parameters=LookupParameters,
    scope="vehicles:read",
    answer=LookedUp,
    headers=CACHE_HEADERS,
    problems=(
        problems.VEHICLE_UNAVAILABLE,
        problems.LOOKUPS_FULL,
        problems.INVALID_VIN,
        problems.INVALID_MODEL_YEAR,
        problems.VIN_NOT_DECODED,
    ),
)
async def look_vehicle_up(
    request: web.Request, parameters: LookupParameters
) -> web.StreamResponse:
    """Look up a vehicle's make, model, year and body class by its VIN.

    If the VIN is not cached, or its entry has expired, the service asks vPIC. While
    vPIC is unavailable, the answer is the expired entry. `warnings` names each doubt of
    vPIC. The problem `vin_not_decoded` also has the members `codes`, `error_text`,
    `additional_error_text`, `suggested_vin` and `possible_values`, as vPIC gives them.
    """
    vin = parse_vin(parameters.vin, parameters.model_year or "")
    fields = _parse_fields(parameters.fields)
    lookups = request.app[LOOKUPS]
    async with _client(request, fields) as client:
        found = await lookups.look_up(vin, client)
    request[CACHE_RESULT] = found.result
    block = partial(answers.cached_block, fields=fields)
    needs_whole = not fields.is_basic
    repeated = RepeatedLookup(lookups, LOOKUP_PATH, vin, block, needs_whole=needs_whole)
    offer(request, repeated)
    return answers.answer(vin, found, fields)


@endpoints.post(
    LOOKUP_PATH,
    parameters=NoParameters,
    scope="vehicles:read",
    body=RequestBody(
        {JSON_TYPE: LookupBody},
        f"At most {MAX_VINS} VINs, some of them with the model year as a hint.",
        example={
            "vins": [EXAMPLE_VIN, {"vin": "1XKWDB0X57J211825", "model_year": 2007}]
        },
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
    body = await _read_body(request)
    fields = _parse_fields(body.fields)
    parsed = [_parse(each) for each in body.vins]
    vins = [each for each in parsed if not isinstance(each, BatchItem)]
    async with _client(request, fields) as client:
        found = await request.app[LOOKUPS].look_up_all(dict.fromkeys(vins), client)
    items = [
        each if isinstance(each, BatchItem) else answers.item(each, found[each], fields)
        for each in parsed
    ]
    return json_answer(LookupAnswer(items), NO_STORE)


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
    parameters=ExportParameters,
    scope="vehicles:read",
    media_types=(PARQUET,),
    headers={"Content-Disposition": "The name of the file: vehicles.parquet."},
    problems=(problems.TOO_MANY_EXPORTS, problems.EXPORT_FAILED),
)
async def export_vehicles(
    request: web.Request, parameters: ExportParameters
) -> web.StreamResponse:
    """Export all cached vehicles as a Parquet file, in the order of their VINs.

    Its columns are vin, make, model, model_year, body_class and fetched_at. `fields`
    adds columns under vPIC's names, which are null for unknown values. The file is sent
    while it is written: if that fails midway, the connection is reset.
    """
    check_if_match(request, None)
    fields = _parse_fields(parameters.fields)
    headers = EXPORT_HEADERS | {REQUEST_ID_HEADER: request[REQUEST_ID]}
    response = web.StreamResponse(headers=headers)
    stream = ClientStream(request, response)
    # The headers are known, so HEAD starts no child.
    if request.method == hdrs.METH_HEAD:
        return response
    try:
        lane = partial(request.app[LANES].exports.enter, request)
        async with request.app[EXPORTS].export(lane, fields) as export:
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
async def _client(request: web.Request, fields: Fields) -> AsyncIterator[LookupClient]:
    """Yield the client of a look-up, which is cancelled when the client disconnects.

    Raises `ClientDisconnected`.
    """
    name = request.app[LIMITS].clients.group_of(request)
    slot = partial(request.app[LANES].lookups.enter, request)
    async with while_connected(request):
        with _slowed_if_refused(request):
            yield LookupClient(name, slot, needs_whole=not fields.is_basic)


async def _read_body(request: web.Request) -> LookupBody:
    body = await read_json(
        request, LookupBody, max_bytes=MAX_BODY_BYTES, timeout_s=BODY_TIMEOUT_S
    )
    if len(body.vins) > MAX_VINS:
        raise TooManyVins(f"at most {MAX_VINS} VINs, not {len(body.vins)}")
    return body


def _parse(each: str | HintedVin) -> Vin | BatchItem:
    """Return a VIN of a batch with its hint, or the error in its place."""
    text, year = (each, None) if isinstance(each, str) else (each.vin, each.model_year)
    try:
        return parse_vin(text, "" if year is None else str(year))
    except (InvalidVin, InvalidModelYear) as error:
        return answers.failed_item(shown(text), error)


def _parse_fields(selection: str | list[str]) -> Fields:
    try:
        return parse_fields(selection)
    except UnknownField as error:
        raise InvalidParameter("fields", str(error)) from None


def _break_off(request: web.Request) -> None:
    """Let the caller see that an answer is not whole, by any version of HTTP."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    reset_connection(transport)
