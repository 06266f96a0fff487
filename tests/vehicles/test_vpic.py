"""What vPIC's answers are read as: vehicles, VINs without one, and nothing at all."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pytest_aiohttp.plugin import AiohttpServer

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.sandbox.vpic import VPIC_PATH
from service.settings import Settings
from service.upstream.breaker import State
from service.upstream.client import UpstreamResponse, decode, open_client
from service.upstream.errors import (
    ContractBroken,
    MalformedBody,
    UnusableBody,
    WrongMediaType,
)
from service.upstream.peers import Peer
from service.vehicles.model import Vehicle, Vin
from service.vehicles.vpic import Results, Told, Vpic, read_answer, vpic_peer
from tests.clock import LoopTime
from tests.conftest import MakeSettings, always
from tests.vehicles.conftest import KNOWN, UNKNOWN, VIN, Asked, vins

A, B, C = vins(3)
DECODER: Final = msgspec.json.Decoder(Results)
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


def read(*rows: object, **more: Any) -> Told:
    """What an answer with these rows is read as."""
    told = {"Count": 134, "Message": "Results returned", "SearchCriteria": ""}
    return decode_answer(json.dumps({**told, "Results": rows, **more}).encode())


def decode_answer(body: bytes) -> Told:
    """Decode and read a body as `Vpic` does."""
    response = UpstreamResponse(bytearray(body), attempts=1)
    return read_answer(decode(response, DECODER))


def test_a_vehicle_is_read() -> None:
    """Make, model, year and body class of the VIN that the row names."""
    assert read(row()) == {A: TRACTOR}


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
    """What stands around a value is no part of it."""
    assert read(row(**more)) == {A: TRACTOR}


@pytest.mark.parametrize("order", [[A, B, C], [C, A, B], [B, C, A]])
def test_rows_are_known_by_their_vin(order: Sequence[Vin]) -> None:
    """Their place says nothing."""
    told = read(*(row(vin, Model=vin[-1]) for vin in order))

    assert {vin: told[vin] for vin in (A, B, C)} == {
        vin: replace(TRACTOR, model=vin[-1]) for vin in (A, B, C)
    }


@pytest.mark.parametrize("count", [0, 1, 134, -1, "two", None])
def test_the_count_is_not_believed(count: object) -> None:
    """The rows are what there is, whatever else is said of them."""
    assert read(row(A), row(B), Count=count) == {A: TRACTOR, B: TRACTOR}


def test_of_two_rows_the_first_is_taken() -> None:
    """A VIN that is told twice is told once."""
    assert read(row(A), row(A, Make="OTHER"), row(A, ErrorCode="7")) == {A: TRACTOR}


@pytest.mark.parametrize(
    "wrong",
    [
        *(without(name) for name in ("VIN", "Make", "Model", "ModelYear")),
        *(without(name) for name in ("BodyClass", "ErrorCode")),
        row(ModelYear=2014),
        row(ErrorCode=0),
        row(Make=["PETERBILT"]),
        row(Model={"name": "388"}),
        row(BodyClass=True),
        row(VIN=12345678901234567),
        row(Make="x" * 1_001),
        None,
        "PETERBILT",
        17,
        [],
        {},
    ],
    ids=lambda wrong: ascii(wrong)[-30:],
)
def test_an_unsound_row_tells_nothing(wrong: object) -> None:
    """Neither a vehicle nor that there is none, and takes nothing from the others."""
    assert read(wrong, row(B)) == {B: TRACTOR}


@pytest.mark.parametrize("name", ["Make", "Model", "ModelYear", "BodyClass"])
def test_null_is_unknown(name: str) -> None:
    """As the empty text is."""
    unknown: dict[str, Any] = {name: None}
    assert read(row(**unknown)) == read(row(**{name: ""}))


def test_a_row_without_utf_8_tells_nothing() -> None:
    """Bytes that are no text are no value; the row beside them is read."""
    good, bad = json.dumps(row(B)), json.dumps(row(A, Make="@"))
    body = f'{{"Results":[{bad},{good}]}}'.encode().replace(b"@", b"\xff")

    assert decode_answer(body) == {B: TRACTOR}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Response/>",
        b'{"Results":[',
        b'{"Results":[{"VIN":]}',
        b'{"Results":[{"VIN":"\\ud800"}]}',
    ],
    ids=["empty", "XML", "cut off", "malformed", "half a surrogate"],
)
def test_what_is_no_json(body: bytes) -> None:
    """It is refused as a whole."""
    with pytest.raises(MalformedBody):
        decode_answer(body)


@pytest.mark.parametrize(
    "body",
    ["{}", "[]", "null", '{"results":[]}', '{"Results":{}}', '{"Results":null}'],
)
def test_what_is_no_answer(body: str) -> None:
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
        *("1,14", "1,3,14", "2, 8", "", "17", "70,71,110,4000", "-7", "0,"),
    ],
)
def test_codes_of_what_is_decoded(codes: str) -> None:
    """Most codes only advise; a wrong check digit mostly decodes fully."""
    assert read(row(ErrorCode=codes)) == {A: TRACTOR}


@pytest.mark.parametrize(
    "codes",
    [
        *("7", "11", "400", "1,7", "7,1", "1, 7", " 11 ", "0,7", "1,11,14,400"),
        *("6,7,11,400", "400,400"),
    ],
)
def test_codes_of_what_is_not(codes: str) -> None:
    """An unknown manufacturer, a bad year or a bad character: the rest is a guess."""
    assert read(row(ErrorCode=codes)) == {A: None}


@pytest.mark.parametrize(
    "more, is_decoded",
    [
        ({"Make": ""}, False),
        ({"Make": "  "}, False),
        ({"ModelYear": ""}, False),
        ({"ModelYear": " \t"}, False),
        ({"Make": "", "ModelYear": ""}, False),
        ({"Model": ""}, True),
        ({"BodyClass": ""}, True),
        ({"Model": "", "BodyClass": "", "ErrorCode": "8"}, True),
    ],
    ids=str,
)
def test_make_and_year_are_needed(more: dict[str, str], *, is_decoded: bool) -> None:
    """Without them nothing is decoded, whatever the codes say; the rest may lack."""
    assert (read(row(**more))[A] is not None) is is_decoded


def test_a_make_is_not_enough() -> None:
    """Of 12345678901234567 a make is told, and yet nobody knows it."""
    told = read(
        row(
            "12345678901234567",
            Make="SHERMAN + REILLY",
            Model="",
            ModelYear="",
            BodyClass="",
            ErrorCode="1,11,14,400",
        )
    )

    assert told == {"12345678901234567": None}


# --- asking -------------------------------------------------------------------------


def calling(settings: MakeSettings, url: str) -> Settings:
    """Settings of a client that calls this address, once for each question."""
    return settings(upstream={"base_url": url, "attempts": 1})


@pytest.fixture
async def vpic(settings: MakeSettings, sandbox: RunningSandbox) -> AsyncIterator[Vpic]:
    """The sandbox's vPIC."""
    made = calling(settings, sandbox.url + VPIC_PATH)
    async with open_client(made.upstream, made.breaker, peer=vpic_peer(made)) as client:
        yield Vpic(client)


async def test_one_is_asked_for_alone(vpic: Vpic, asked: Asked) -> None:
    """A single VIN takes the call for one."""
    assert await vpic.decode([VIN]) == {VIN: KNOWN[VIN]}
    assert (asked.calls, asked.singles(VIN)) == (1, 1)


@pytest.mark.parametrize("count", [2, 50])
async def test_several_take_one_call(vpic: Vpic, asked: Asked, count: int) -> None:
    """So many in a batch, and every one of them is told."""
    assert set(await vpic.decode(vins(count))) == set(vins(count))
    assert (asked.calls, asked.batches) == (1, 1)


async def test_all_that_are_known(vpic: Vpic) -> None:
    """Each has its own vehicle, however the rows lie; an unknown one has none."""
    assert await vpic.decode([*KNOWN, UNKNOWN]) == {**KNOWN, UNKNOWN: None}


@pytest.mark.parametrize("asked_for", [[A], [A, B]], ids=["single", "batch"])
@pytest.mark.parametrize("fault", ["empty_list", "other_vins", "missing_field"])
async def test_an_answer_about_nothing_asked(
    vpic: Vpic, sandbox: RunningSandbox, fault: str, asked_for: list[Vin]
) -> None:
    """Where no row is of use, the contract is broken."""
    sandbox.sandbox.faults = always(fault)

    with pytest.raises(ContractBroken):
        await vpic.decode(asked_for)


async def test_half_of_the_rows(vpic: Vpic, sandbox: RunningSandbox) -> None:
    """What has no row is missing, and is not taken for unknown."""
    sandbox.sandbox.faults = Faults(missing_rows=1)

    told = await vpic.decode(vins(10))

    assert len(told) == 5
    assert None not in told.values()


async def test_slow_reading_is_not_charged_to_vpic(
    vpic: Vpic, asked: Asked, loop_time: LoopTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer is decoded after its call: it times out no try, and repeats none."""

    def slowly(answer: Results) -> Told:
        loop_time.skip_s(300.0)
        return read_answer(answer)

    monkeypatch.setattr("service.vehicles.vpic.read_answer", slowly)

    for _ in range(3):
        assert await vpic.decode([VIN]) == {VIN: KNOWN[VIN]}
    assert asked.calls == 3
    assert vpic._client.breaker.state is State.CLOSED


class Questions:
    """A vPIC of the test's own that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.answer = web.Response(body=b"")

    async def handle(self, request: web.Request) -> web.Response:
        """Note a request, and answer with a row of every VIN there is."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append((request.method, request.raw_path, form))
        body = json.dumps({"Results": [row(A), row(B)]})
        return web.Response(text=body, content_type="application/json")


async def test_how_it_is_asked(
    settings: MakeSettings, aiohttp_server: AiohttpServer
) -> None:
    """One by GET; many by POST, all in the form, for in the query it answers XML."""
    questions, app = Questions(), web.Application()
    app.router.add_route("*", "/{path:.*}", questions.handle)
    server = await aiohttp_server(app)
    made = calling(settings, str(server.make_url("/api/")))
    async with open_client(made.upstream, made.breaker, peer=vpic_peer(made)) as client:
        await Vpic(client).decode([A])
        await Vpic(client).decode([A, B])

    assert questions.asked == [
        ("GET", f"/api/vehicles/DecodeVinValues/{A}?format=json", {}),
        (
            "POST",
            "/api/vehicles/DecodeVINValuesBatch/",
            {"format": "json", "data": f"{A};{B}"},
        ),
    ]


@pytest.mark.parametrize(
    "fault, error",
    [("html", WrongMediaType), ("xml", WrongMediaType), ("truncated", MalformedBody)],
)
async def test_a_page_is_no_answer(
    vpic: Vpic, sandbox: RunningSandbox, fault: str, error: type[Exception]
) -> None:
    """Another type than JSON says that we are shut out, and is no accident."""
    sandbox.sandbox.faults = always(fault)

    with pytest.raises(error):
        await vpic.decode([A])


@pytest.mark.parametrize("workers, per_s", [(1, 10.0), (4, 2.5)])
def test_workers_share_the_pace(
    settings: MakeSettings, workers: int, per_s: float
) -> None:
    """Together they ask as often as the setting says."""
    paced = {"requests_per_s": 10.0, "deadline_s": 20.0}
    made = settings(server={"workers": workers}, vehicles=paced)

    peer = Peer("vpic", "application/json", frozenset({403}), per_s, patience_s=5.0)
    assert vpic_peer(made) == peer
