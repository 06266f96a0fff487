"""Client of NHTSA's vPIC, which decodes one VIN or many at once.

vPIC answers 200 to nearly every request. All values are texts, and unknown ones are
empty. The row shows if the VIN was decoded. The API is described at
https://vpic.nhtsa.dot.gov/api/; its other behaviour was observed.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from service.settings import Settings
from service.upstream.bodies import decode
from service.upstream.client import UpstreamClient
from service.upstream.errors import ContractBroken
from service.upstream.profiles import UpstreamProfile
from service.vehicles.model import Vehicle, Vin

MAX_BATCH: Final = 50
"""VINs in one batch; vPIC ignores further ones."""
FORBIDDEN: Final = 403
"""Status of vPIC for clients that it has blocked; others get an HTML page."""

ONE_PATH: Final = "/vehicles/DecodeVinValues/{vin}"
ONE_QUERY: Final = "?format=json"
BATCH_PATH: Final = "/vehicles/DecodeVINValuesBatch/"

UNDECODED_CODES: Final = frozenset({"7", "11", "400"})
"""Unknown manufacturer, bad year, invalid characters: the other values are a guess."""

VpicText: TypeAlias = Annotated[str, Meta(max_length=1_000)] | None

DecodedVins: TypeAlias = dict[Vin, Vehicle | None]
"""Vehicles by VIN, None if not decoded; VINs without a valid row are missing."""


class VpicRow(Struct, frozen=True, rename="pascal"):
    """The fields of a result that we use. vPIC always sends all of them."""

    vin: VpicText = msgspec.field(name="VIN")
    make: VpicText
    model: VpicText
    model_year: VpicText
    body_class: VpicText
    error_code: VpicText

    @property
    def vehicle(self) -> Vehicle | None:
        """The vehicle, or None if the VIN was not decoded."""
        codes = {each.strip() for each in (self.error_code or "").split(",")}
        vehicle = Vehicle(
            make=_clean(self.make),
            model=_clean(self.model),
            model_year=_clean(self.model_year),
            body_class=_clean(self.body_class),
        )
        is_certain = not codes & UNDECODED_CODES
        return vehicle if vehicle.make and vehicle.model_year and is_certain else None


class VpicAnswer(Struct, frozen=True, rename="pascal"):
    """An answer; its other members are unreliable."""

    results: list[msgspec.Raw]


_decoder: Final = msgspec.json.Decoder(VpicAnswer)
_row_decoder: Final = msgspec.json.Decoder(VpicRow)


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

        The first try is made in a reserved `slot`. VINs for which vPIC returns no valid
        row are missing in the result.
        """
        if len(vins) == 1:
            path = ONE_PATH.replace("{vin}", vins[0]) + ONE_QUERY
            response = await self._client.fetch(path, template=ONE_PATH, slot=slot)
        else:
            # For a batch, vPIC ignores a format in the query, and answers in XML.
            form = {"format": "json", "data": ";".join(vins)}
            response = await self._client.fetch(BATCH_PATH, form=form, slot=slot)
        return _select(vins, read_answer(decode(response, _decoder)))


def read_answer(answer: VpicAnswer) -> DecodedVins:
    """Return the vehicles of an answer, whose rows may be in any order.

    A row that breaks the contract is ignored; the others stay valid.
    """
    decoded: DecodedVins = {}
    for raw in answer.results:
        with suppress(msgspec.ValidationError, UnicodeDecodeError):
            row = _row_decoder.decode(raw)
            decoded.setdefault(Vin(_clean(row.vin).upper()), row.vehicle)
    return decoded


def vpic_profile(settings: Settings) -> UpstreamProfile:
    """Return the profile of vPIC, with the share of the rate limit of one worker."""
    vehicles = settings.vehicles
    return UpstreamProfile(
        name="vpic",
        media_type="application/json",
        blocking_statuses=frozenset({FORBIDDEN}),
        requests_per_s=vehicles.requests_per_s / settings.server.workers,
    )


def _select(vins: Sequence[Vin], decoded: DecodedVins) -> DecodedVins:
    """Return the requested VINs; raise `ContractBroken` if there is none."""
    selected = {vin: decoded[vin] for vin in vins if vin in decoded}
    if not selected:
        raise ContractBroken("the answer has no row for any requested VIN")
    return selected


def _clean(text: str | None) -> str:
    """Return a value without padding, and without NUL, which PostgreSQL rejects."""
    return (text or "").replace("\0", "").strip()
