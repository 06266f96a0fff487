"""Client of NHTSA's vPIC, which decodes one VIN or many at once.

vPIC answers 200 to nearly every request. All values are texts, and unknown ones are
empty. The row shows if the VIN was decoded. The API is described at
https://vpic.nhtsa.dot.gov/api/; its other behaviour was observed.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from service.instants import now_us
from service.settings import Settings
from service.upstream.bodies import decode
from service.upstream.client import UpstreamClient
from service.upstream.errors import ContractBroken
from service.upstream.profiles import UpstreamProfile
from service.vehicles.details import clean, details_of, pack
from service.vehicles.doubts import codes_of
from service.vehicles.model import Entry, Vehicle, Vin
from service.vehicles.vin import hint_of, number_of, parse_year

MAX_BATCH: Final = 50
"""VINs in one batch; vPIC ignores further ones."""
FORBIDDEN: Final = 403
"""Status of vPIC for clients that it has blocked; others get an HTML page."""

ONE_PATH: Final = "/vehicles/DecodeVinValues/{vin}"
ONE_QUERY: Final = "?format=json"
HINT_QUERY: Final = "&modelyear={year}"
BATCH_PATH: Final = "/vehicles/DecodeVINValuesBatch/"

VpicText: TypeAlias = Annotated[str, Meta(max_length=1_000)] | None

Rows: TypeAlias = dict[str, Entry]
"""Results by the number of the VIN, without a hint."""
DecodedVins: TypeAlias = dict[Vin, Entry]
"""Results by VIN; VINs without a valid row are missing."""


class VpicRow(Struct, frozen=True, rename="pascal"):
    """The fields of a result that we need. vPIC always sends all of them."""

    vin: VpicText = msgspec.field(name="VIN")
    make: VpicText
    model: VpicText
    model_year: VpicText
    body_class: VpicText
    error_code: VpicText


class VpicAnswer(Struct, frozen=True, rename="pascal"):
    """An answer; its other members are unreliable."""

    results: list[msgspec.Raw]


_decoder: Final = msgspec.json.Decoder(VpicAnswer)
_row_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class VpicClient:
    """Decodes VINs by calls to vPIC, or to a compatible service."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    async def reserve(self) -> AsyncExitStack:
        """Wait until a call may be made, and return its slot.

        Raises `CircuitOpen`.
        """
        return await self._client.guard.reserve(BATCH_PATH)

    async def decode(
        self, vins: Sequence[Vin], slot: AsyncExitStack | None = None
    ) -> DecodedVins:
        """Decode up to `MAX_BATCH` VINs by one call. Raises `UpstreamError`.

        Each has another number. The first try is made in a reserved `slot`. VINs for
        which vPIC returns no valid row are missing in the result.
        """
        return _select(vins, await self._ask(vins, slot))

    async def _ask(self, vins: Sequence[Vin], slot: AsyncExitStack | None) -> Rows:
        if len(vins) == 1:
            number, hint = number_of(vins[0]), hint_of(vins[0])
            query = ONE_QUERY + (HINT_QUERY.format(year=hint) if hint else "")
            path = ONE_PATH.replace("{vin}", number) + query
            response = await self._client.fetch(path, template=ONE_PATH, slot=slot)
        else:
            # For a batch, vPIC ignores a format in the query, and answers in XML.
            form = {"format": "json", "data": ";".join(vins)}
            response = await self._client.fetch(BATCH_PATH, form=form, slot=slot)
        return read_answer(decode(response, _decoder))


def read_answer(answer: VpicAnswer) -> Rows:
    """Return the results of an answer by number; its rows may be in any order.

    A row that breaks the contract, or has no error code, is ignored.
    """
    rows: Rows = {}
    for raw in answer.results:
        with suppress(msgspec.ValidationError, UnicodeDecodeError):
            number, entry = read_row(_row_decoder.decode(raw))
            if entry is not None:
                rows.setdefault(number, entry)
    return rows


def read_row(fields: Mapping[str, Any]) -> tuple[str, Entry | None]:
    """Return the number and the result of a row, None if it has no error code.

    Raises `msgspec.ValidationError`.
    """
    row = msgspec.convert(fields, VpicRow)
    details = details_of(fields)
    number = clean(row.vin or "").upper()
    codes = codes_of(number, details)
    if not codes:
        return number, None
    vehicle = Vehicle(
        make=clean(row.make or ""),
        model=clean(row.model or ""),
        model_year=parse_year(clean(row.model_year or "")),
        body_class=clean(row.body_class or ""),
    )
    is_decoded = bool(vehicle.make and vehicle.model_year)
    entry = Entry(vehicle if is_decoded else None, now_us(), codes, pack(details))
    return number, entry


def vpic_profile(settings: Settings) -> UpstreamProfile:
    """Return the profile of vPIC, with the share of the rate limit of one worker."""
    vehicles = settings.vehicles
    return UpstreamProfile(
        name="vpic",
        media_type="application/json",
        blocking_statuses=frozenset({FORBIDDEN}),
        requests_per_s=vehicles.requests_per_s / settings.server.workers,
    )


def _select(vins: Sequence[Vin], rows: Rows) -> DecodedVins:
    """Return the requested VINs; raise `ContractBroken` if there is none."""
    selected = {vin: rows[number_of(vin)] for vin in vins if number_of(vin) in rows}
    if not selected:
        raise ContractBroken("the answer has no row for any requested VIN")
    return selected
