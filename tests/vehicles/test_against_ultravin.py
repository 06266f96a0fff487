"""Results of the service compared with `ultravin`, a decoder of vPIC's own database.

A server that speaks vPIC returns the values of `ultravin`, and the service reads them.
The results are compared with ultravin's own verdict.

Only the five known VINs depend on the data, which change with versions of ultravin.
"""

# Differences that remain, and their reasons:
#
# | VIN | ultravin | service |
# |---|---|---|
# | not 17 characters without `*`, or with I, O or Q | decodes a part (6, 400) | 422 |
# | of an unknown manufacturer (7) | no make | 404 with codes and texts |
# | with an invalid year character (11) | a make, but no year | 404 with the same |
# | of a maker of several makes, by no known pattern | a year, but no make | 404, too |
# | with a year after the next one | the year | unknown, so 404 |

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any, Final

import pytest
import ultravin
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from service.vehicles.errors import InvalidVin
from service.vehicles.model import Vehicle
from service.vehicles.vin import parse_vin
from tests.vehicles.conftest import KNOWN, Caller, Serve, on_sqlite

SEED: Final = 20_260_101
MOST_AT_ONCE: Final = 500
LEAST_COMPARED: Final = 500
READ: Final = ("Make", "Model", "ModelYear", "BodyClass")
"""The fields that we read, as vPIC calls them."""
SPOILT: Final[Mapping[str, Sequence[tuple[int, str]]]] = {
    "letters that no VIN has": [(5, "I"), (12, "O"), (8, "Q")],
    "a check digit that is none": [(8, "Y"), (8, "B")],
    "a year that is none": [(9, "U"), (9, "Z"), (9, "0")],
}
"""What is made of some VINs: which character, counted from 0, is replaced by what."""


def spoilt(vins: Iterable[str]) -> list[str]:
    """The same VINs with a mistake in each, of every kind that we answer otherwise."""
    mistakes = [each for kind in SPOILT.values() for each in kind]
    made = [
        f"{vin[:at]}{character}{vin[at + 1 :]}"
        for vin, (at, character) in zip(vins, mistakes, strict=False)
    ]
    return [*made, made[0][:11], made[0] + "1", "", "A" * 17, "0" * 17]


@cache
def corpus() -> Sequence[str]:
    """Every way of decoding that there is, a lot by chance, and many with mistakes."""
    generated = ultravin.generate(600, seed=SEED, invalid_rate=0.3)
    cover = ultravin.cover_vins()
    return list(dict.fromkeys([*KNOWN, *cover, *generated, *spoilt(generated)]))


@cache
def elements(vin: str) -> Mapping[str, str]:
    """Return ultravin's values by vPIC's names; of several notes, the last."""
    decoded = ultravin.decode(vin, full=True)
    return {each["code"]: each["value"] for each in decoded["elements"]}


@cache
def verdict(vin: str) -> Vehicle | str:
    """Return the expected answer, judged by ultravin's own verdict."""
    decoded, told = ultravin.decode(vin), elements(vin)
    try:
        parse_vin(vin)
    except InvalidVin:
        return "no VIN"
    if not told.get("Make"):
        return "no make"
    if not decoded["model_year"] or not told.get("ModelYear"):
        return "no year"
    make, model, _, body_class = (told.get(name, "").strip() for name in READ)
    return Vehicle(make, model, str(decoded["model_year"]), body_class)


def doubts(vin: str) -> int:
    """Return the number of doubts of ultravin."""
    return len([code for code in ultravin.decode(vin)["error_codes"] if code])


# --- a vPIC that tells what ultravin decodes ----------------------------------------


def row_of(vin: str, random: Random) -> dict[str, str]:
    """A row as vPIC gives it: all fields, texts, some of them padded."""
    told = dict.fromkeys((each["code"] for each in ultravin.ELEMENTS.values()), "")
    told |= elements(vin)
    padded = {
        name: value + random.choice(("", "", " ", "  ")) for name, value in told.items()
    }
    return {"VIN": vin, "MakeID": "440", "WMI": vin[:3], **padded}


def envelop(rows: list[dict[str, str]]) -> web.Response:
    """An answer, of whose other members nothing is to be believed."""
    answer = {"Count": 134, "Message": "VpicAnswer returned", "SearchCriteria": ""}
    return web.json_response({**answer, "Results": rows})


def playing_vpic() -> web.Application:
    """It answers in an order of its own."""
    random = Random(SEED)

    async def decode_batch(request: web.Request) -> web.Response:
        form = await request.post()
        assert form["format"] == "json"
        vins = str(form["data"]).split(";")
        rows = [row_of(vin, random) for vin in vins]
        random.shuffle(rows)
        return envelop(rows)

    async def decode(request: web.Request) -> web.Response:
        assert request.query["format"] == "json"
        return envelop([row_of(request.match_info["vin"], random)])

    app = web.Application()
    app.router.add_post("/api/vehicles/DecodeVINValuesBatch/", decode_batch)
    app.router.add_get("/api/vehicles/DecodeVinValues/{vin}", decode)
    return app


@pytest.fixture
async def caller(serve: Serve, aiohttp_server: AiohttpServer) -> Caller:
    """Asks a service that asks this vPIC."""
    vpic = await aiohttp_server(playing_vpic())
    return await serve(vehicles={"base_url": str(vpic.make_url("/api"))})


# --- what we read of it -------------------------------------------------------------


def read_of(result: Mapping[str, Any]) -> Vehicle | str:
    """Return the vehicle or the error of an item of a batch."""
    if "error" in result:
        return str(result["error"])
    return Vehicle(*(result[name] for name in Vehicle.__struct_fields__))


def code_of(expected: Vehicle | str) -> Vehicle | str:
    """The vehicle, or the error that a verdict without one is answered with."""
    if isinstance(expected, Vehicle):
        return expected
    return "invalid_vin" if expected == "no VIN" else "vin_not_decoded"


@on_sqlite
async def test_we_read_what_it_decodes(caller: Caller) -> None:
    """Decoded or not, make, model, year and body class are ultravin's, for each VIN."""
    vins = corpus()
    assert len(vins) >= LEAST_COMPARED
    results: list[dict[str, Any]] = []
    for at in range(0, len(vins), MOST_AT_ONCE):
        answer = await caller.look_up_all(vins[at : at + MOST_AT_ONCE])
        assert answer.status == 200
        results += answer.body["results"]

    read = {vin: read_of(each) for vin, each in zip(vins, results, strict=True)}
    assert read == {vin: code_of(verdict(vin)) for vin in vins}
    for vin, each in zip(vins, results, strict=True):
        if isinstance(read[vin], Vehicle):
            assert len(each.get("warnings", [])) == doubts(vin), vin


@on_sqlite
async def test_all_values_are_those_of_ultravin(caller: Caller) -> None:
    """With all fields, an answer has each value of ultravin that is not empty."""
    vins = [vin for vin in corpus() if isinstance(verdict(vin), Vehicle)]
    answer = await caller.look_up_all(vins[:MOST_AT_ONCE], fields="all")
    for vin, each in zip(vins, answer.body["results"], strict=False):
        told = {name: value.strip() for name, value in elements(vin).items()}
        expected = {name: value for name, value in told.items() if value}
        number = vin.upper()
        ids = {"VIN": number, "MakeID": "440", "WMI": number[:3]}
        assert each["fields"] == expected | ids


def test_what_does_not_agree_is_explained() -> None:
    """The table explains each make or year of ultravin that we do not return."""
    verdicts = {vin: verdict(vin) for vin in corpus()}
    kinds = Counter(each for each in verdicts.values() if isinstance(each, str))
    # No fixed number of any: only the mistakes that are made here are sure to be there.
    assert kinds.keys() == {"no VIN", "no make", "no year"}
    for vin, each in verdicts.items():
        codes = set(ultravin.decode(vin)["error_codes"])
        match each:
            case "no make":
                assert codes & {7, 8, 14} or len(vin) < 17, (vin, codes)
            case "no year":
                assert 11 in codes, (vin, codes)
    assert not ultravin.MULTI_VALUED & {
        name for name, each in ultravin.ELEMENTS.items() if each["code"] in READ
    }
