"""Doubts about results: warnings, possible model years, hints, and 404 with reasons."""

from typing import Final

import pytest

from service.sandbox.server import RunningSandbox
from service.vehicles.details import unpack
from service.vehicles.doubts import WARNINGS
from service.vehicles.store import VehicleStore
from tests.conftest import always
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    UNKNOWN,
    VIN,
    Caller,
    Serve,
    VpicRequests,
    on_sqlite,
    store_expired,
    vin,
)

VOLKSWAGEN: Final = "WVGZZZ5NZEW069297"
AUDI: Final = "WAUZZZ8K1DA006278"
PARTIAL: Final = "5UXWX7C5*BA"

pytestmark = on_sqlite


@pytest.fixture
async def one(serve: Serve) -> Caller:
    """An application as shipped."""
    return await serve()


async def test_a_european_vin_is_an_answer(one: Caller) -> None:
    """Code 400 stands on VINs with a letter at position 9; the row can be right."""
    answer = await one.look_up(VOLKSWAGEN)
    assert (answer.status, answer.body["make"]) == (200, "VOLKSWAGEN")
    assert answer.body["model_year"] == "2014"
    assert answer.body["warnings"] == [
        *("check_digit", "errors_in_positions", "unmatched_characters"),
        "invalid_characters",
    ]
    assert answer.body["model_year_candidates"] == ["1984", "2014"]


async def test_an_open_year_has_candidates(one: Caller) -> None:
    """The answer has both years, from vPIC, from memory and in a batch."""
    answers = [(await one.look_up(AUDI)).body for _ in range(2)]
    answers += (await one.look_up_all([AUDI])).body["results"]
    for body in answers:
        assert body["model_year"] == "1983"
        assert body["warnings"] == ["errors_in_positions", "unmatched_characters"]
        assert body["model_year_candidates"] == ["1983", "2013"]


@pytest.mark.parametrize("code, name", WARNINGS.items())
async def test_each_code_is_a_warning(
    one: Caller, sandbox: RunningSandbox, code: int, name: str
) -> None:
    """The names of codes are part of the contract, in and outside of North America."""
    texts = [VIN, "JTDBR32E160012345"]
    for text in texts:
        sandbox.sandbox.set_vehicle(
            text, {"ErrorCode": f"{code}", "Make": "MAKE", "ModelYear": "2006"}
        )
    for text in texts:
        assert name in (await one.look_up(text)).body["warnings"]


async def test_a_clean_row_has_no_doubts(one: Caller) -> None:
    """Neither warnings nor candidates."""
    for text in KNOWN:
        body = (await one.look_up(text)).body
        assert not body.keys() & {"warnings", "model_year_candidates"}


async def test_not_decoded_says_why(one: Caller) -> None:
    """404 has the codes and texts of vPIC, also from the cache, and in a batch."""
    expected = {
        "codes": [1, 7, 400],
        "additional_error_text": "Invalid character(s): 9:A.",
        "suggested_vin": "AAAAAAAA!AAAAAAAA",
        "possible_values": "",
    }
    answers = [await one.look_up(UNKNOWN) for _ in range(2)]
    (item,) = (await one.look_up_all([UNKNOWN], fields="all")).body["results"]
    for answer in answers:
        assert answer.problem == (404, "vin_not_decoded")
    for body in (*(each.body for each in answers), item):
        assert {name: body[name] for name in expected} == expected
        assert body["error_text"].startswith("1 - Check Digit (9th position) does not")


async def test_a_row_without_a_code_is_no_verdict(
    one: Caller, sandbox: RunningSandbox, stored: VehicleStore
) -> None:
    """An expired row stays, stale; without one, vPIC is unavailable."""
    await store_expired(stored, VIN)
    for each in (VIN, vin(1)):
        sandbox.sandbox.set_vehicle(each, {"ErrorCode": "", "Make": ""})
    stale = await one.look_up(VIN)
    assert (stale.status, stale.body["make"]) == (200, OTHER.make)
    assert stale.headers["Cache-Status"] == "copilot-usage; hit; detail=stale"
    assert (await one.look_up(vin(1))).problem == (503, "vehicle_unavailable")


# --- hints and partial VINs ---------------------------------------------------------


async def test_a_hint_has_an_entry_of_its_own(
    one: Caller, received: VpicRequests
) -> None:
    """A hint settles the year; an equal hint in any call is answered from the cache."""
    hinted = await one.look_up(AUDI, model_year="2013")
    assert hinted.body["model_year"] == "2013"
    assert "model_year_candidates" not in hinted.body
    plain = await one.look_up(AUDI)
    assert plain.body["model_year"] == "1983"
    items = [{"vin": AUDI, "model_year": year} for year in (2013, "2013", None)]
    batch = (await one.look_up_all([AUDI, *items])).body["results"]
    assert [each["model_year"] for each in batch] == ["1983", "2013", "2013", "1983"]
    assert all(each["cached_result"] for each in batch)
    assert dict(received.vins) == {AUDI: 2}

    assert (await one.remove(AUDI)).body["cache_delete_success"] is True
    for more in ({}, {"model_year": "2013"}):
        assert (await one.look_up(AUDI, **more)).body["cached_result"] is False


async def test_several_hints_in_a_batch(one: Caller) -> None:
    """Each item gets the row for its own hint."""
    items = [{"vin": AUDI, "model_year": year} for year in (1983, 2013)]
    batch = (await one.look_up_all([AUDI, *items, VIN])).body["results"]
    years = [each["model_year"] for each in batch]
    assert years == ["1983", "1983", "2013", "2014"]


async def test_a_hint_that_does_not_fit(one: Caller) -> None:
    """vPIC decodes by the hint, and says that it does not fit."""
    body = (await one.look_up(VIN, model_year="1995")).body
    assert body["model_year"] == "1995"
    assert "model_year_mismatch" in body["warnings"]


@pytest.mark.parametrize("year", ["1979", "2100", "abc", "20 14", "-2014", "2014.0"])
async def test_invalid_hint(one: Caller, received: VpicRequests, year: str) -> None:
    """422 for one VIN, and the error of an item in a batch."""
    answer = await one.look_up(VIN, model_year=year)
    assert answer.problem == (422, "invalid_model_year")
    batch = await one.look_up_all([{"vin": VIN, "model_year": year}])
    (item,) = batch.body["results"]
    assert item["error"] == "invalid_model_year"
    assert received.calls == 0


async def test_a_partial_vin(one: Caller) -> None:
    """A star stands for an unknown character; those at the end mean nothing."""
    first, second = [await one.look_up(PARTIAL + more) for more in ("", "******")]
    assert (first.status, first.body["vin"]) == (200, PARTIAL)
    assert (first.body["make"], first.body["model_year"]) == ("BMW", "2011")
    assert first.body["warnings"] == ["incomplete"]
    assert second.body["cached_result"] is True
    assert (await one.remove(PARTIAL)).body["cache_delete_success"] is True


@pytest.mark.parametrize("text", ["*", "1X*", "***", PARTIAL + "*" * 7, "1XP*O"])
async def test_an_invalid_partial_vin(one: Caller, text: str) -> None:
    """The manufacturer must be known, and 17 characters are the most."""
    assert (await one.look_up(text)).problem == (422, "invalid_vin")


@pytest.mark.parametrize("text", [f" {VIN}\r\n", f"\ufeff{VIN}", f"\t{VIN}\r"])
async def test_what_is_around_a_vin_is_removed(one: Caller, text: str) -> None:
    """White space, CR and BOM, in all calls."""
    assert (await one.look_up(text)).body["vin"] == VIN
    (item,) = (await one.look_up_all([text])).body["results"]
    assert (item["vin"], item["cached_result"]) == (VIN, True)
    assert (await one.remove(text)).body["cache_delete_success"] is True


# --- all values ---------------------------------------------------------------------


async def test_all_values(one: Caller) -> None:
    """The values of vPIC that are not empty, without padding; some of them by name."""
    basic = (await one.look_up(VIN)).body
    whole = (await one.look_up(VIN, fields="all")).body
    fields = whole.pop("fields")
    assert whole == basic | {"cached_result": True}
    assert fields.items() >= {"VehicleType": "TRUCK", "Make": "PETERBILT"}.items()
    assert all(fields.values())
    named = "gvwr, FuelTypePrimary,Trim"
    some = [(await one.look_up(VIN, fields=named)).body["fields"] for _ in range(3)]
    some.append(
        (await one.look_up_all([VIN], fields=["GVWR", "fueltypeprimary"])).body[
            "results"
        ][0]["fields"]
    )
    heavy = "Class 8: 33,001 lb and above (14,969 kg and above)"
    assert some == [{"FuelTypePrimary": "Diesel", "GVWR": heavy}] * 4
    assert (await one.look_up(VIN, fields="basic")).body == basic | {
        "cached_result": True
    }


async def test_unknown_field(one: Caller, received: VpicRequests) -> None:
    """400 that names the field, and one that is similar."""
    answers = [
        await one.look_up(VIN, fields="GWVR"),
        await one.look_up_all([VIN], fields=["GWVR"]),
    ]
    for answer in answers:
        assert answer.problem == (400, "invalid_parameter")
        assert "did you mean GVWR?" in answer.body["detail"]
    assert received.calls == 0


async def test_a_row_of_the_previous_version_is_completed(
    one: Caller, stored: VehicleStore, received: VpicRequests
) -> None:
    """It answers basic look-ups; one for more asks vPIC, and stores the whole row."""
    await store_expired(stored, VIN, days=1)
    assert (await one.look_up(VIN)).body["make"] == OTHER.make
    assert received.calls == 0
    body = (await one.look_up(VIN, fields="all")).body
    assert (body["make"], body["fields"]["VehicleType"]) == ("PETERBILT", "TRUCK")
    entry = (await stored.find([VIN]))[VIN].entry
    assert entry is not None
    assert unpack(entry.packed) == body["fields"]
    assert (await one.look_up(VIN, fields="all")).body["cached_result"] is True
    assert received.calls == 1


async def test_while_vpic_is_away_a_row_has_what_it_has(
    one: Caller, sandbox: RunningSandbox, stored: VehicleStore
) -> None:
    """A row of the previous version is returned as stale, with the basic values."""
    await store_expired(stored, VIN, days=1)
    sandbox.sandbox.faults = always("server_error")
    answer = await one.look_up(VIN, fields="all")
    assert answer.status == 200
    assert answer.headers["Cache-Status"] == "copilot-usage; hit; detail=stale"
    assert answer.body["fields"]["Make"] == OTHER.make
