"""Endpoints of what is known besides single vehicles: the list, and manufacturers."""

from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from service.observability.stages import stage
from service.vehicles import problems
from service.vehicles.handlers import LANES, LOOKUPS
from service.vehicles.listing import ListCursor, ListFilter, Listing, VehicleList
from service.vehicles.manufacturers import Manufacturer, parse_wmi
from service.web.client_stream import while_connected
from service.web.links import next_link
from service.web.parameters import InvalidParameter, parse_cursor
from service.web.problems import STORAGE_UNAVAILABLE
from service.web.routes import NO_STORE, Endpoints, NoParameters, json_answer

TAG: Final = "cached vehicles"
LISTING: Final = web.AppKey("vehicle_listing", Listing)
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000

endpoints = Endpoints()


class ListParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the list of cached vehicles."""

    vin: (
        Annotated[str, Meta(max_length=17, description="The beginning of the VIN.")]
        | None
    ) = None
    make: Annotated[str, Meta(max_length=100, examples=["PETERBILT"])] | None = None
    model: Annotated[str, Meta(max_length=100)] | None = None
    year: Annotated[str, Meta(max_length=4)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    cursor: (
        Annotated[
            str, Meta(description="The start of the next page, from a Link header.")
        ]
        | None
    ) = None


@endpoints.get(
    "/vehicles",
    parameters=ListParameters,
    scope="vehicles:read",
    answer=VehicleList,
    headers={"Link": "The next page, if there is one."},
    problems=(
        problems.LOOKUPS_FULL,
        problems.VEHICLE_UNAVAILABLE,
        STORAGE_UNAVAILABLE,
    ),
)
async def list_vehicles(
    request: web.Request, parameters: ListParameters
) -> web.StreamResponse:
    """List cached vehicles, newest first, with their age and source.

    Expired vehicles are in the list, too. Upper and lower case are the same.
    """
    cursor = parse_cursor(parameters.cursor, ListCursor)
    vin = _parse_text("vin", parameters.vin)
    wanted = ListFilter(
        vin=vin.strip().upper() if vin else None,
        make=_parse_text("make", parameters.make),
        model=_parse_text("model", parameters.model),
        year=_parse_text("year", parameters.year),
    )
    async with request.app[LANES].lists.enter(request):
        with stage("storage"):
            page = await request.app[LISTING].page(wanted, cursor, parameters.limit)
    link = next_link(request, page.next) if page.next else {}
    return json_answer(page.list, {**NO_STORE, **link})


@endpoints.get(
    "/vehicles/wmi/{wmi}",
    parameters=NoParameters,
    scope="vehicles:read",
    answer=Manufacturer,
    problems=(
        problems.VEHICLE_UNAVAILABLE,
        problems.LOOKUPS_FULL,
        problems.INVALID_WMI,
        problems.WMI_UNKNOWN,
    ),
)
async def look_manufacturer_up(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Look up a manufacturer by its code, the first three characters of a VIN.

    A small manufacturer has six: these three, and those at positions 12 to 14.
    """
    wmi = parse_wmi(request.match_info["wmi"])
    async with while_connected(request):
        with stage("upstream"):
            found = await request.app[LOOKUPS].manufacturers.look_up(wmi)
    return json_answer(found, NO_STORE)


def _parse_text(name: str, value: str | None) -> str | None:
    """Return a text that databases accept; raises `InvalidParameter`."""
    if value is not None and not value.isprintable():
        raise InvalidParameter(name, "expected printable text")
    return value.strip() if value else value
