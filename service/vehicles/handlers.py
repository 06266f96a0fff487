"""The endpoints of vehicles: looking up, removing, and the whole cache as a file."""

import os
import socket
import struct
from typing import Annotated, Final

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, Struct
from msgspec.structs import asdict

from service.vehicles.errors import (
    ExportFailed,
    InvalidVin,
    TooManyVins,
    VehiclesError,
    VehicleUnavailable,
)
from service.vehicles.export import Exports
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
from service.vehicles.vin import check_digit_fails, parse_vin, parse_vins, shown
from service.web import problems
from service.web.bodies import read_body
from service.web.context import CACHE_RESULT, REQUEST_ID, REQUEST_ID_HEADER
from service.web.problems import RequestProblem
from service.web.routes import Body, Endpoints, NoParameters, json_answer

LOOKUP_PATH: Final = "/vehicles/lookup"
LOOKUPS: Final = web.AppKey("lookups", Lookups)
EXPORTS: Final = web.AppKey("exports", Exports)
MAX_VINS: Final = 500
MAX_BODY_BYTES: Final = 65_536
"""Room for as many VINs, however they are spaced, and for some mistakes."""
BODY_TIMEOUT_S: Final = 10.0
CACHE_NAME: Final = "copilot-usage"

EXAMPLE_VIN: Final = "1XPWD40X1ED215307"
LOOKUP_PROBLEMS: Final = (problems.VEHICLE_UNAVAILABLE, problems.STORAGE_UNAVAILABLE)
CACHE_HEADERS: Final = {
    "Cache-Status": "Whether it was kept here, and if it is stale.",
    "Age": "Seconds since vPIC told it.",
}
PARQUET: Final = "application/vnd.apache.parquet"
EXPORT_HEADERS: Final = {
    hdrs.CONTENT_TYPE: PARQUET,
    hdrs.CONTENT_DISPOSITION: 'attachment; filename="vehicles.parquet"',
    hdrs.CACHE_CONTROL: "no-store",
}
LINGER_NOT_AT_ALL: Final = struct.pack("ii", 1, 0)

endpoints = Endpoints()


class VinParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of what is about one VIN."""

    vin: Annotated[
        str,
        Meta(
            description="17 letters or digits, in capitals or not; no I, O or Q.",
            examples=[EXAMPLE_VIN],
        ),
    ]


@endpoints.get(
    LOOKUP_PATH,
    parameters=VinParameters,
    answer=LookedUp,
    headers=CACHE_HEADERS,
    problems=(*LOOKUP_PROBLEMS, problems.INVALID_VIN, problems.VIN_NOT_DECODED),
)
async def look_vehicle_up(
    request: web.Request, parameters: VinParameters
) -> web.StreamResponse:
    """A vehicle's make, model, year and body class, by its VIN.

    vPIC is asked for what is not kept here, or was told too long ago; if it is away,
    what was kept is given however old.
    """
    vin = parse_vin(parameters.vin)
    found = await request.app[LOOKUPS].look_up(vin)
    request[CACHE_RESULT] = found.result
    return _answer(vin, found)


def answer_kept(vin: Vin, entry: Entry) -> web.Response:
    """The answer for a VIN that is kept, fresh and decoded."""
    assert entry.vehicle is not None  # noqa: S101 - the caller has seen to that
    return _answer(vin, Found(entry.vehicle, "hit", age_s(entry), is_kept=True))


@endpoints.post(
    LOOKUP_PATH,
    parameters=NoParameters,
    body=Body(
        {"application/json": LookupBody},
        f"At most {MAX_VINS} VINs.",
        example={"vins": [EXAMPLE_VIN, "1XKWDB0X57J211825"]},
    ),
    answer=LookupAnswer,
    problems=(
        problems.STORAGE_UNAVAILABLE,
        problems.NOT_JSON,
        problems.INVALID_BODY,
        problems.BODY_INCOMPLETE,
        problems.BODY_TOO_SLOW,
        problems.BODY_TOO_LARGE,
        problems.TOO_MANY_VINS,
        problems.UNSUPPORTED_MEDIA_TYPE,
    ),
)
async def look_vehicles_up(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Many vehicles at once, in the order asked; each that fails says why.

    An `error` is the code that the same VIN alone would be answered with.
    """
    texts = await _read_vins(request)
    parsed = parse_vins(texts)
    vins = [each for each in parsed.values() if not isinstance(each, InvalidVin)]
    told = await request.app[LOOKUPS].look_up_all(vins)

    def item(text: str) -> BatchItem:
        vin = parsed[text]
        if isinstance(vin, InvalidVin):
            return _refused(shown(text), vin)
        result = told[vin]
        if isinstance(result, VehiclesError):
            return _refused(vin, result)
        return BatchItem(**asdict(_looked_up(vin, result)))

    answers = LookupAnswer([item(text) for text in texts])
    return json_answer(answers, {"Cache-Control": "no-store"})


@endpoints.delete(
    "/vehicles/remove",
    parameters=VinParameters,
    answer=Removed,
    problems=(problems.INVALID_VIN, problems.STORAGE_UNAVAILABLE),
)
async def remove_vehicle(
    request: web.Request, parameters: VinParameters
) -> web.StreamResponse:
    """Forget what is kept of a VIN; false where nothing was.

    What is asked of vPIC at that moment is not kept either.
    """
    vin = parse_vin(parameters.vin)
    was_kept = await request.app[LOOKUPS].remove(vin)
    return json_answer(Removed(vin, was_kept), {"Cache-Control": "no-store"})


@endpoints.post(
    "/vehicles/remove",
    parameters=VinParameters,
    answer=Removed,
    problems=(problems.INVALID_VIN, problems.STORAGE_UNAVAILABLE),
)
async def remove_vehicle_by_post(
    request: web.Request, parameters: VinParameters
) -> web.StreamResponse:
    """The same, for callers who cannot send DELETE."""
    return await remove_vehicle(request, parameters)


@endpoints.get(
    "/vehicles/export",
    parameters=NoParameters,
    media_types=(PARQUET,),
    headers={"Content-Disposition": "The name of the file: vehicles.parquet."},
    problems=(problems.TOO_MANY_EXPORTS, problems.EXPORT_FAILED),
)
async def export_vehicles(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """All vehicles that are kept, as a Parquet file in the order of their VINs.

    Its columns are vin, make, model, model_year, body_class and fetched_at. It is sent
    while it is made: if that fails midway, the connection breaks.
    """
    headers = EXPORT_HEADERS | {REQUEST_ID_HEADER: request[REQUEST_ID]}
    response = web.StreamResponse(headers=headers)
    if request.method == hdrs.METH_HEAD:
        return response
    try:
        async with request.app[EXPORTS].export() as export:
            await response.prepare(request)
            while chunk := await export.read():
                await response.write(chunk)
        await response.write_eof()
    except BaseException as error:
        if not response.prepared:
            raise
        _break_off(request)
        if not isinstance(error, ExportFailed | ConnectionError):
            raise
    return response


async def _read_vins(request: web.Request) -> list[str]:
    body = await read_body(
        request,
        ("application/json",),
        most=MAX_BODY_BYTES,
        within_s=BODY_TIMEOUT_S,
    )
    try:
        vins = msgspec.json.decode(body, type=LookupBody).vins
    except msgspec.ValidationError as error:
        raise RequestProblem(problems.INVALID_BODY, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestProblem(problems.NOT_JSON, str(error)) from None
    if len(vins) > MAX_VINS:
        raise TooManyVins(f"at most {MAX_VINS} VINs, not {len(vins)}")
    return vins


def _refused(vin: str, error: VehiclesError) -> BatchItem:
    detail = str(error)
    if isinstance(error, VehicleUnavailable):  # vPIC's words are not for callers
        detail = problems.UNHARMED[problems.VEHICLE_UNAVAILABLE]
    return BatchItem(vin=vin, error=error.code, detail=detail)


def _looked_up(vin: Vin, found: Found) -> LookedUp:
    vehicle = found.vehicle
    return LookedUp(
        vin=vin,
        make=vehicle.make,
        model=vehicle.model,
        model_year=vehicle.model_year,
        body_class=vehicle.body_class,
        cached_result=found.result in {"hit", "stale"},
        warnings=["check_digit"] if check_digit_fails(vin) else UNSET,
        source="offline" if found.result == "offline" else UNSET,
    )


def _answer(vin: Vin, found: Found) -> web.Response:
    return json_answer(_looked_up(vin, found), _headers(found))


def _headers(found: Found) -> dict[str, str]:
    """Where the answer comes from (RFC 9211), and how old it is."""
    if found.result in {"miss", "offline"}:
        stored = "; stored" if found.is_kept else ""
        forwarded = "stale" if found.is_renewed else "miss"
        status = f"{CACHE_NAME}; fwd={forwarded}{stored}"
    else:
        detail = "; detail=stale" if found.result == "stale" else ""
        status = f"{CACHE_NAME}; hit{detail}"
    return {
        # No other cache would learn of a removal.
        "Cache-Control": "no-store",
        "Cache-Status": status,
        "Age": str(int(found.age_s)),
    }


def _break_off(request: web.Request) -> None:
    """Let the caller see that an answer is not whole, by any version of HTTP."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    # By a duplicate, as some loops hide their sockets.
    fileno = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=fileno) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT_AT_ALL)
    transport.abort()
