"""The endpoints of vehicles, over a socket: what is asked, and what is answered."""

from typing import Any, Final

import pytest
from yarl import URL

from service.sandbox.server import RunningSandbox
from service.vehicles.store import VehicleStore
from tests.vehicles.conftest import (
    OTHER,
    UNKNOWN,
    VIN,
    Caller,
    Serve,
    VpicRequests,
    fields_of,
    on_sqlite,
    store_expired,
    vin,
    vins,
)

JSON: Final = {"Content-Type": "application/json"}
WRONG_CHECK_DIGIT: Final = "1XP5DB9X7XD487945"
BAD_VINS: Final = {
    "16 characters": VIN[:16],
    "10,000 characters": "1" * 6_000,
    "a forbidden letter": "1XPWD40X1ED21530O",
    "a space in it": VIN[:8] + " " + VIN[8:],
    "NUL": "1XPWD40X1ED215\x0007",
    "Cyrillic": "1XPWD40X1ED21530\N{CYRILLIC CAPITAL LETTER A}",
    "SQL": "1' OR '1'='1'; --",
    "a path that is encoded": "..%2F..%2F..%2Fab",
    "many": f"{VIN};{vin(1)}",
}
EXACT: Final = {
    "vin": VIN,
    "make": "PETERBILT",
    "model": "388",
    "model_year": "2014",
    "body_class": "Truck-Tractor",
}


@pytest.fixture
async def one(serve: Serve) -> Caller:
    """An application as shipped."""
    return await serve()


# --- one VIN ------------------------------------------------------------------------


async def test_a_vehicle_is_looked_up(one: Caller) -> None:
    """All members, and nothing else; the second time from what is kept."""
    first, second = [await one.look_up(VIN) for _ in range(2)]

    assert (first.status, second.status) == (200, 200)
    assert first.body == {**EXACT, "cached_result": False}
    assert second.body == {**EXACT, "cached_result": True}
    assert first.headers["Content-Type"] == "application/json"
    assert (first.headers["Age"], second.headers["Age"]) == ("0", "0")
    assert {each.headers["Cache-Control"] for each in (first, second)} == {"no-store"}
    assert first.headers["Cache-Status"] == "copilot-usage; fwd=miss; stored"
    assert second.headers["Cache-Status"] == "copilot-usage; hit"


@on_sqlite
async def test_lower_case_is_the_same_vehicle(
    one: Caller, received: VpicRequests
) -> None:
    """It is answered in capitals, and asked for once."""
    answers = [
        await one.look_up(each) for each in (VIN.lower(), VIN, "1xPwd40x1ed215307")
    ]

    assert {each.body["vin"] for each in answers} == {VIN}
    assert dict(received.vins) == {VIN: 1}


@on_sqlite
@pytest.mark.parametrize("text", BAD_VINS.values(), ids=BAD_VINS)
async def test_invalid_vin(one: Caller, received: VpicRequests, text: str) -> None:
    """422 that says what is wrong, in any call that takes a VIN."""
    answers = [await one.look_up(text), await one.remove(text)]
    (item,) = (await one.look_up_all([text])).body["results"]

    for answer in answers:
        assert answer.problem == (422, "invalid_vin")
        assert answer.body["detail"] == item["detail"]
        assert "a VIN has 17 letters A to Z and digits" in answer.body["detail"]
        assert len(answer.body["detail"]) < 200
    assert item["error"] == "invalid_vin"
    assert len(item["vin"]) <= 41
    assert received.calls == 0


@on_sqlite
@pytest.mark.parametrize(
    "raw",
    ["%ED%A0%80", "%FF", "1XPWD40X1ED21530%ED%A0%80", "%00", "%0d%0a", "%E2%80%AE"],
)
async def test_vin_that_is_not_text(
    one: Caller, received: VpicRequests, raw: str
) -> None:
    """Half a surrogate pair, what is no UTF-8, what breaks lines: 422 too."""
    path = URL(f"/vehicles/lookup?vin={raw}", encoded=True)
    async with one.client.get(path) as answer:
        assert answer.status == 422
        assert (await answer.json())["code"] == "invalid_vin"
    assert received.calls == 0


@on_sqlite
@pytest.mark.parametrize("path", ["/vehicles/lookup", "/vehicles/remove"])
@pytest.mark.parametrize(
    "query",
    ["", "VIN=" + VIN, f"vin={VIN}&vin={VIN}", f"vin={VIN}&force=1"],
    ids=["none", "capitals", "twice", "unknown"],
)
async def test_wrong_parameters(
    one: Caller, received: VpicRequests, path: str, query: str
) -> None:
    """Exactly the one parameter, exactly once."""
    method = one.client.get if path == "/vehicles/lookup" else one.client.delete
    async with method(f"{path}?{query}") as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == "invalid_parameter"
    assert received.calls == 0


@on_sqlite
async def test_only_the_head(one: Caller, received: VpicRequests) -> None:
    """HEAD looks up as GET does, and sends no body."""
    async with one.client.head("/vehicles/lookup", params={"vin": VIN}) as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Status"] == "copilot-usage; fwd=miss; stored"
        assert await answer.read() == b""
    assert received.calls == 1
    assert (await one.look_up(VIN)).body["cached_result"] is True


@on_sqlite
@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("PUT", "/vehicles/lookup", "GET, HEAD, POST"),
        ("DELETE", "/vehicles/lookup", "GET, HEAD, POST"),
        ("GET", "/vehicles/remove", "DELETE, POST"),
    ],
)
async def test_other_methods(one: Caller, method: str, path: str, allowed: str) -> None:
    """They are refused, and the right ones are named; a GET removes nothing."""
    async with one.client.request(method, path, params={"vin": VIN}) as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == allowed


@on_sqlite
async def test_without_vehicles_there_is_nothing(serve: Serve) -> None:
    """Turned off, the paths are not there."""
    off = await serve(vehicles={"enabled": False})

    assert (await off.look_up(VIN)).problem == (404, "not_found")
    assert (await off.remove(VIN)).problem == (404, "not_found")


# --- many VINs ----------------------------------------------------------------------


async def test_many_are_looked_up_in_order(one: Caller, stored: VehicleStore) -> None:
    """Each is as it is alone, in the order asked: good and bad, kept and not."""
    await store_expired(stored, vin(1), days=1)

    answer = await one.look_up_all([UNKNOWN, VIN, "VIN", vin(1), WRONG_CHECK_DIGIT])

    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.body == {
        "results": [
            {
                "vin": UNKNOWN,
                "error": "vin_not_decoded",
                "detail": "vPIC knows no vehicle for this VIN",
            },
            {**EXACT, "cached_result": False},
            {
                "vin": "VIN",
                "error": "invalid_vin",
                "detail": "the letter I (is it 1?) at position 2; a VIN has 17 letters "
                "A to Z and digits, but no I, O or Q",
            },
            {"vin": vin(1), **fields_of(OTHER), "cached_result": True},
            {
                "vin": WRONG_CHECK_DIGIT,
                "make": "PETERBILT",
                "model": "379",
                "model_year": "1999",
                "body_class": "Truck-Tractor",
                "cached_result": False,
                "warnings": ["check_digit"],
            },
        ]
    }


@on_sqlite
async def test_duplicates_are_asked_for_once(
    one: Caller, received: VpicRequests
) -> None:
    """Each place has its answer, in capitals, and all of a VIN are alike."""
    asking = [VIN, UNKNOWN.lower(), VIN.lower(), "bad", UNKNOWN, VIN, "bad"]

    results = (await one.look_up_all(asking)).body["results"]

    assert [each["vin"] for each in results] == [
        *(VIN, UNKNOWN, VIN, "bad", UNKNOWN, VIN, "bad")
    ]
    assert results[0] == results[2] == results[5]
    assert results[1] == results[4]
    assert dict(received.vins) == {VIN: 1, UNKNOWN: 1}


@on_sqlite
async def test_as_many_as_may_be(one: Caller, received: VpicRequests) -> None:
    """500, by ten calls; the same 500 again by none."""
    for calls in (10, 10):
        answer = await one.look_up_all(vins(500))
        assert [each["vin"] for each in answer.body["results"]] == vins(500)
        assert received.calls == calls


@on_sqlite
@pytest.mark.parametrize("text", [VIN, "bad"], ids=["alike", "bad"])
async def test_one_too_many(one: Caller, received: VpicRequests, text: str) -> None:
    """501 are refused as a whole, whatever they are."""
    answer = await one.look_up_all([text] * 501)

    assert answer.problem == (413, "too_many_vins")
    assert answer.body["detail"] == "at most 500 VINs, not 501"
    assert received.calls == 0


@on_sqlite
@pytest.mark.parametrize(
    "body, headers, status, code",
    [
        (b"", JSON, 400, "not_json"),
        (b"{", JSON, 400, "not_json"),
        (b'{"vins":["\xff"]}', JSON, 400, "not_json"),
        (b'{"vins":' + b"[" * 60_000, JSON, 422, "invalid_body"),
        (b"null", JSON, 422, "invalid_body"),
        (b"{}", JSON, 422, "invalid_body"),
        (b'{"vins":"%s"}' % VIN.encode(), JSON, 422, "invalid_body"),
        (b'{"vins":[1]}', JSON, 422, "invalid_body"),
        (b'{"vins":[],"force":true}', JSON, 422, "invalid_body"),
        (b'{"vins":[]}' + b" " * 65_536, JSON, 413, "body_too_large"),
        (b"vins=a", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (
            b'{"vins":[]}',
            {**JSON, "Content-Encoding": "compress"},
            *(415, "unsupported_media_type"),
        ),
    ],
    ids=[
        *("empty", "cut off", "no UTF-8", "deep", "null", "no member", "a text"),
        *("a number", "one more member", "too large", "plain text", "coding"),
    ],
)
async def test_wrong_bodies(
    one: Caller, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """Each is refused by its code, and the next request is served."""
    async with one.client.post(
        "/vehicles/lookup", data=body, headers=headers
    ) as answer:
        assert ((await answer.json())["code"], answer.status) == (code, status)
    assert (await one.look_up_all([])).status == 200


# --- removing -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["DELETE", "POST"])
async def test_a_vehicle_is_removed(
    one: Caller, received: VpicRequests, method: str
) -> None:
    """True where it was kept, false where not; the next look-up asks again."""
    told: list[Any] = []
    await one.look_up(VIN)
    for _ in range(2):
        async with one.client.request(
            method, "/vehicles/remove", params={"vin": VIN.lower()}
        ) as answer:
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "no-store"
            told.append(await answer.json())

    assert told == [
        {"vin": VIN, "cache_delete_success": True},
        {"vin": VIN, "cache_delete_success": False},
    ]
    assert (await one.look_up(VIN)).body["cached_result"] is False
    assert (await one.remove(VIN)).body["cache_delete_success"] is True
    assert received.calls == 2


@on_sqlite
async def test_what_is_unknown_is_removed_too(
    one: Caller, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """So that vPIC is asked again at once, who may know it by now."""
    await one.look_up(UNKNOWN)
    assert (await one.remove(UNKNOWN)).body["cache_delete_success"] is True
    fields = {"Make": "MACK", "ModelYear": "2024", "ErrorCode": "0"}
    sandbox.sandbox.set_vehicle(UNKNOWN, fields)

    assert (await one.look_up(UNKNOWN)).body["make"] == "MACK"
    assert received.calls == 2
