"""Answers of vPIC: vehicles, VINs without one, and invalid answers."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pytest_aiohttp.plugin import AiohttpServer

from service.settings import Settings
from service.upstream.bodies import UpstreamResponse, decode
from service.upstream.client import open_client
from service.upstream.errors import (
    ContractBroken,
    UnusableBody,
)
from service.upstream.profiles import UpstreamProfile
from service.vehicles.details import MAX_BYTES, unpack
from service.vehicles.model import Vehicle, Vin
from service.vehicles.vpic import (
    Rows,
    VpicAnswer,
    VpicClient,
    read_answer,
    vpic_profile,
)
from tests.conftest import MakeSettings
from tests.vehicles.conftest import vins

A, B, C = vins(3)
HINTED: Final = Vin(f"{A},1984")
LAST: Final = str(datetime.now(UTC).year + 2)
AFTER_LAST: Final = str(datetime.now(UTC).year + 3)
DECODER: Final = msgspec.json.Decoder(VpicAnswer)
Vehicles = dict[str, Vehicle | None]
TRACTOR: Final = Vehicle("PETERBILT", "388", "2014", "Truck-Tractor")


def row(vin: str = A, **more: Any) -> dict[str, Any]:
    """A row as vPIC gives it, but for what `more` says."""
    return {
        "ABS": "",
        "BodyClass": "Truck-Tractor",
        "ErrorCode": "0",
        "ErrorText": "0 - VIN decoded clean. Check Digit (9th position) is correct",
        "Make": "PETERBILT",
        "MakeID": "495",
        "Model": "388",
        "ModelYear": "2014",
        "VIN": vin,
        **more,
    }


def without(name: str, vin: str = A) -> dict[str, Any]:
    """A row that lacks a field."""
    made = row(vin)
    del made[name]
    return made


def read(*rows: object, **more: Any) -> Vehicles:
    """Return the vehicles of an answer with these rows."""
    return vehicles_in(entries(*rows, **more))


def vehicles_in(rows: Rows) -> Vehicles:
    """Return the vehicle of each row."""
    return {number: entry.vehicle for number, entry in rows.items()}


def entries(*rows: object, **more: Any) -> Rows:
    """Return the results of an answer with these rows."""
    told = {"Count": 134, "Message": "VpicAnswer returned", "SearchCriteria": ""}
    return decode_answer(json.dumps({**told, "Results": rows, **more}).encode())


def decode_answer(body: bytes) -> Rows:
    """Decode and read a body as `VpicClient` does."""
    response = UpstreamResponse(bytearray(body), attempts=1)
    return read_answer(decode(response, DECODER))


@pytest.mark.parametrize(
    "more",
    [
        {"Make": " PETERBILT", "Model": "388  ", "ModelYear": "2014\t"},
        {"BodyClass": "Truck-Tractor ", "VIN": f" {A} "},
        {"Make": "PETERBILT\0", "ErrorCode": " 0 "},
        {"VIN": A.lower()},
    ],
    ids=["blanks", "VIN", "NUL", "lower case"],
)
def test_values_are_padded_sometimes(more: dict[str, str]) -> None:
    """White space around values is removed."""
    assert read(row(**more)) == {A: TRACTOR}


def test_of_two_rows_the_first_is_taken() -> None:
    """Of two rows for a VIN, the first counts."""
    assert read(row(A), row(A, Make="OTHER"), row(A, ErrorCode="7")) == {A: TRACTOR}


@pytest.mark.parametrize(
    "wrong",
    [
        *(without(name) for name in ("VIN", "Make", "Model", "ModelYear")),
        *(without(name) for name in ("BodyClass", "ErrorCode")),
        row(ModelYear=2014),
        row(Make=["PETERBILT"]),
        row(VIN=12345678901234567),
        row(Make="x" * 1_001),
        None,
        "PETERBILT",
        [],
    ],
    ids=lambda wrong: ascii(wrong)[-30:],
)
def test_invalid_row_is_ignored(wrong: object) -> None:
    """Neither a vehicle nor that there is none, and takes nothing from the others."""
    assert read(wrong, row(B)) == {B: TRACTOR}


def test_row_without_utf_8_is_ignored() -> None:
    """Bytes that are no text are no value; the row beside them is read."""
    good, bad = json.dumps(row(B)), json.dumps(row(A, Make="@"))
    body = f'{{"Results":[{bad},{good}]}}'.encode().replace(b"@", b"\xff")

    assert vehicles_in(decode_answer(body)) == {B: TRACTOR}


@pytest.mark.parametrize(
    "body",
    ["{}", "[]", "null", '{"results":[]}', '{"Results":{}}', '{"Results":null}'],
)
def test_answer_of_another_shape(body: str) -> None:
    """JSON of another shape breaks the contract."""
    with pytest.raises(ContractBroken):
        decode_answer(body.encode())


@given(st.binary(), st.recursive(st.none() | st.text(), st.lists))
def test_nothing_else_is_raised(body: bytes, anything: object) -> None:
    """Whatever comes is read, or is refused by an error that the client knows."""
    wrapped = [body, b'{"Results":[%s]}' % body, json.dumps(anything).encode()]
    for each in wrapped:
        try:
            told = decode_answer(each)
        except UnusableBody:
            continue
        assert told == {}


# --- decoded or not -----------------------------------------------------------------


@pytest.mark.parametrize(
    "codes",
    [
        *("0", "1", "2", "3", "4", "5", "6", "8", "9", "10", "12", "14"),
        *("1,14", "1,3,14", "2, 8", "17", "70,71,110,4000", "0,", "7", "1, 7"),
        *("400", "1,5,14,400", " 11 "),
    ],
)
def test_codes_are_advice(codes: str) -> None:
    """A row with a make and a year is an answer, whatever its codes are."""
    assert read(row(ErrorCode=codes)) == {A: TRACTOR}


@pytest.mark.parametrize("codes", ["", " ", "-7", "none", ",", "\0"])
def test_row_without_code_is_no_verdict(codes: str) -> None:
    """It says neither which vehicle it is, nor that there is none."""
    rows = (row(ErrorCode=codes), row(B, Make="", ErrorCode=codes), row(C))
    assert read(*rows) == {C: TRACTOR}


@pytest.mark.parametrize(
    "text, year",
    [
        *[(each, each) for each in ("1980", "2014", LAST)],
        *[(each, None) for each in ("1979", AFTER_LAST, "0", "9999", "20140", "201")],
        *[(each, None) for each in ("+2014", "2014.0", "\u0662\u0660\u0661\u0664")],
    ],
)
def test_a_year_is_checked(text: str, year: str | None) -> None:
    """A text that cannot be a model year is none."""
    (vehicle,) = read(row(ModelYear=text)).values()
    assert (vehicle and vehicle.model_year) == year


def test_all_values_are_kept() -> None:
    """The values that are not empty are kept under vPIC's names, without padding."""
    more = {"VehicleType": "TRUCK ", "Trim": " ", "New Field": "1"}
    entry = entries(row(GVWR=None, **more))[A]
    assert dict(unpack(entry.packed)) == {
        "BodyClass": "Truck-Tractor",
        "ErrorCode": "0",
        "ErrorText": "0 - VIN decoded clean. Check Digit (9th position) is correct",
        "Make": "PETERBILT",
        "MakeID": "495",
        "Model": "388",
        "ModelYear": "2014",
        "New Field": "1",
        "VIN": A,
        "VehicleType": "TRUCK",
    }


def test_endless_values_are_left_out() -> None:
    """A row stays small, whatever a service that resembles vPIC sends."""
    many = {f"Field{number}": "x" * 1_999 for number in range(5_000)}
    entry = entries(row(Note="x" * 2_001, **many))[A]
    assert "Note" not in unpack(entry.packed)
    assert len(entry.packed) < MAX_BYTES


@pytest.mark.parametrize(
    "more, is_decoded",
    [
        ({"Make": "  "}, False),
        ({"ModelYear": ""}, False),
        ({"Model": "", "BodyClass": "", "ErrorCode": "8"}, True),
    ],
    ids=str,
)
def test_make_and_year_are_needed(more: dict[str, str], *, is_decoded: bool) -> None:
    """Without them nothing is decoded, whatever the codes say; the rest may lack."""
    assert (read(row(**more))[A] is not None) is is_decoded


# --- requests -----------------------------------------------------------------------


def calling(settings: MakeSettings, url: str) -> Settings:
    """Return settings of a client that calls this address, once for each request."""
    return settings(upstream={"base_url": url, "attempts": 1})


class RecordingVpic:
    """A vPIC that records the requests that it receives."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, dict[str, str]]] = []
        self.answer = web.Response(body=b"")

    async def handle(self, request: web.Request) -> web.Response:
        """Record a request, and answer with the rows of both VINs."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.received.append((request.method, request.raw_path, form))
        body = json.dumps({"Results": [row(A), row(B)]})
        return web.Response(text=body, content_type="application/json")


async def test_requests_to_vpic(
    settings: MakeSettings, aiohttp_server: AiohttpServer
) -> None:
    """One VIN is requested by GET, and several by POST.

    A batch has all parameters in its form: vPIC answers XML to `format` in the query.
    """
    vpic, app = RecordingVpic(), web.Application()
    app.router.add_route("*", "/{path:.*}", vpic.handle)
    server = await aiohttp_server(app)
    made = calling(settings, str(server.make_url("/api/")))
    async with open_client(
        made.upstream, made.breaker, profile=vpic_profile(made)
    ) as client:
        await VpicClient(client).decode([A])
        await VpicClient(client).decode([A, B])
        await VpicClient(client).decode([HINTED])
        decoded = await VpicClient(client).decode([HINTED, B])

    assert vpic.received == [
        ("GET", f"/api/vehicles/DecodeVinValues/{A}?format=json", {}),
        (
            "POST",
            "/api/vehicles/DecodeVINValuesBatch/",
            {"format": "json", "data": f"{A};{B}"},
        ),
        ("GET", f"/api/vehicles/DecodeVinValues/{A}?format=json&modelyear=1984", {}),
        (
            "POST",
            "/api/vehicles/DecodeVINValuesBatch/",
            {"format": "json", "data": f"{HINTED};{B}"},
        ),
    ]
    assert decoded.keys() == {HINTED, B}


@pytest.mark.parametrize("workers, per_s", [(1, 10.0), (4, 2.5)])
def test_workers_share_the_rate_limit(
    settings: MakeSettings, workers: int, per_s: float
) -> None:
    """All workers together send as many requests as the setting allows."""
    paced = {"requests_per_s": 10.0, "deadline_s": 20.0}
    made = settings(server={"workers": workers}, vehicles=paced)

    profile = UpstreamProfile(
        "vpic", "application/json", frozenset({403}), per_s, repeats_timeouts=False
    )
    assert vpic_profile(made) == profile
