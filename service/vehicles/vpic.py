"""NHTSA's vPIC: asking it for one VIN or for many, and reading what it answers.

It answers 200 to nearly everything, with texts for all values and empty ones for what
it does not know; whether a VIN was decoded is to be seen in the row. The API is
described at https://vpic.nhtsa.dot.gov/api/; what it does beyond that was observed.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from service.settings import Settings
from service.upstream.client import UpstreamClient, decode
from service.upstream.errors import ContractBroken
from service.upstream.peers import Peer
from service.vehicles.model import Vehicle, Vin

MAX_BATCH: Final = 50
"""VINs in one batch; vPIC leaves further ones out."""
FORBIDDEN: Final = 403
"""How it answers those that it has blocked; or with a page that says so."""

ONE_PATH: Final = "/vehicles/DecodeVinValues/{vin}"
ONE_QUERY: Final = "?format=json"
BATCH_PATH: Final = "/vehicles/DecodeVINValuesBatch/"

PATIENCE: Final = 0.25
"""The share of a look-up's deadline that may be spent on waiting for its turn."""

UNDECODED_CODES: Final = frozenset({"7", "11", "400"})
"""Unknown manufacturer, bad year, invalid characters: what else is told is a guess."""

Text: TypeAlias = Annotated[str, Meta(max_length=1_000)] | None

Told: TypeAlias = dict[Vin, Vehicle | None]
"""What was told of each VIN: a vehicle, or None for none. Some may be missing."""


class Row(Struct, frozen=True, rename="pascal"):
    """The fields of a result that we need. None of them is ever left out."""

    vin: Text = msgspec.field(name="VIN")
    make: Text
    model: Text
    model_year: Text
    body_class: Text
    error_code: Text

    @property
    def vehicle(self) -> Vehicle | None:
        """The vehicle, if the VIN was decoded: make and year are there, and sure."""
        codes = {each.strip() for each in (self.error_code or "").split(",")}
        vehicle = Vehicle(
            make=_clean(self.make),
            model=_clean(self.model),
            model_year=_clean(self.model_year),
            body_class=_clean(self.body_class),
        )
        is_sure = not codes & UNDECODED_CODES
        return vehicle if vehicle.make and vehicle.model_year and is_sure else None


class Results(Struct, frozen=True, rename="pascal"):
    """An answer; its other members are not to be relied on."""

    results: list[msgspec.Raw]


_decoder: Final = msgspec.json.Decoder(Results)
_row_decoder: Final = msgspec.json.Decoder(Row)


class Vpic:
    """Decodes VINs by asking vPIC, or who speaks as it does."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    async def decode(self, vins: Sequence[Vin]) -> Told:
        """Decode up to `MAX_BATCH` VINs by one call. Raises `UpstreamError`.

        What vPIC gives no row for, or no sound one, is missing.
        """
        if len(vins) == 1:
            path = ONE_PATH.replace("{vin}", vins[0]) + ONE_QUERY
            response = await self._client.fetch(path, template=ONE_PATH)
        else:
            form = {"format": "json", "data": ";".join(vins)}
            response = await self._client.fetch(BATCH_PATH, form=form)
        return _of_those(vins, read_answer(decode(response, _decoder)))


def read_answer(answer: Results) -> Told:
    """Return what an answer says of the VINs that it names, in whatever order.

    A row that breaks the contract says nothing, and the others stay valid.
    """
    told: Told = {}
    for raw in answer.results:
        with suppress(msgspec.ValidationError, UnicodeDecodeError):
            row = _row_decoder.decode(raw)
            told.setdefault(Vin(_clean(row.vin).upper()), row.vehicle)
    return told


def vpic_peer(settings: Settings) -> Peer:
    """vPIC as its client has to know it; each worker has its share of the pace."""
    vehicles = settings.vehicles
    return Peer(
        name="vpic",
        media_type="application/json",
        refusals=frozenset({FORBIDDEN}),
        requests_per_s=vehicles.requests_per_s / settings.server.workers,
        patience_s=vehicles.deadline_s * PATIENCE,
    )


def _of_those(vins: Sequence[Vin], told: Told | None) -> Told:
    """The part that was asked for; an answer about others alone breaks the contract."""
    asked = {vin: told[vin] for vin in vins if vin in told} if told else {}
    if not asked:
        raise ContractBroken("the answer has no row for what was asked")
    return asked


def _clean(text: str | None) -> str:
    """A value without what pads it, nor NUL, which PostgreSQL does not take."""
    return (text or "").replace("\0", "").strip()
