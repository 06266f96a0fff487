"""The endpoints of vehicles, over a socket: what is asked, and what is answered."""

import asyncio
import gzip
import json
from typing import Any, Final

import pytest
from openapi_spec_validator import validate
from yarl import URL

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.vehicles.store import VehicleStore
from tests.conftest import MakeClient, always
from tests.vehicles.conftest import (
    KNOWN,
    OTHER,
    UNKNOWN,
    VIN,
    Asked,
    Caller,
    Serve,
    fields_of,
    keep_old,
    on_sqlite,
    vin,
    vins,
)

JSON: Final = {"Content-Type": "application/json"}
WRONG_CHECK_DIGIT: Final = "1XP5DB9X7XD487945"
BAD_VINS: Final = {
    "16 characters": VIN[:16],
    "18 characters": VIN + "1",
    "one character": "1",
    "10,000 characters": "1" * 6_000,
    "a forbidden letter": "1XPWD40X1ED21530O",
    "a space": "1XPWD40X1ED2 5307",
    "a space at its end": VIN + " ",
    "dashes": "1XPWD-40X1-ED2153",
    "a line": VIN + "\n",
    "NUL": "1XPWD40X1ED215\x0007",
    "Cyrillic": "1XPWD40X1ED21530\N{CYRILLIC CAPITAL LETTER A}",
    "full width": "\N{FULLWIDTH DIGIT ONE}XPWD40X1ED215307",
    "SQL": "1' OR '1'='1'; --",
    "a path": "../../../etc/pass",
    "a path that is encoded": "..%2F..%2F..%2Fab",
    "a query": "1XPWD40X1ED21?a=b",
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
@pytest.mark.parametrize("known", KNOWN)
async def test_known_vehicles(one: Caller, known: str) -> None:
    """The five that every source agrees on."""
    answer = await one.look_up(known.lower())

    expected = next(vehicle for vin, vehicle in KNOWN.items() if vin == known)
    assert answer.body == {"vin": known, **fields_of(expected), "cached_result": False}


@on_sqlite
async def test_lower_case_is_the_same_vehicle(one: Caller, asked: Asked) -> None:
    """It is answered in capitals, and asked for once."""
    answers = [
        await one.look_up(each) for each in (VIN.lower(), VIN, "1xPwd40x1ed215307")
    ]

    assert {each.body["vin"] for each in answers} == {VIN}
    assert dict(asked.vins) == {VIN: 1}


@on_sqlite
async def test_a_wrong_check_digit_is_no_error(one: Caller) -> None:
    """vPIC decodes many such; the answer warns of it, kept or not."""
    for _ in range(2):
        answer = await one.look_up(WRONG_CHECK_DIGIT)
        assert answer.status == 200
        assert answer.body["model"] == "379"
        assert answer.body["warnings"] == ["check_digit"]


@on_sqlite
async def test_what_is_not_decoded(one: Caller) -> None:
    """404, as the contract's problem, and nothing about any cache."""
    answer = await one.look_up("12345678901234567")

    assert answer.problem == (404, "vin_not_decoded")
    assert answer.body["detail"] == "vPIC knows no vehicle of this VIN"
    assert answer.headers["Content-Type"] == "application/problem+json"


@on_sqlite
@pytest.mark.parametrize("text", BAD_VINS.values(), ids=BAD_VINS)
async def test_what_is_no_vin_asks_nobody(one: Caller, asked: Asked, text: str) -> None:
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
    assert asked.calls == 0


@on_sqlite
@pytest.mark.parametrize(
    "raw",
    ["%ED%A0%80", "%FF", "1XPWD40X1ED21530%ED%A0%80", "%00", "%0d%0a", "%E2%80%AE"],
)
async def test_bytes_that_are_no_text(one: Caller, asked: Asked, raw: str) -> None:
    """Half a surrogate pair, what is no UTF-8, what breaks lines: 422 too."""
    path = URL(f"/vehicles/lookup?vin={raw}", encoded=True)
    async with one.client.get(path) as answer:
        assert answer.status == 422
        assert (await answer.json())["code"] == "invalid_vin"
    assert asked.calls == 0


@on_sqlite
async def test_bytes_that_are_not_encoded(one: Caller, asked: Asked) -> None:
    """A request line with bytes of any kind is answered, and asks nobody."""
    assert one.client.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", one.client.port)
    writer.write(
        b"GET /vehicles/lookup?vin=1XPWD40X1ED21530\xff HTTP/1.1\r\n"
        b"Host: a.test\r\nConnection: close\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.split()[1] in {b"400", b"422"}
    assert asked.calls == 0


@on_sqlite
@pytest.mark.parametrize("path", ["/vehicles/lookup", "/vehicles/remove"])
@pytest.mark.parametrize(
    "query",
    ["", "VIN=" + VIN, f"vin={VIN}&vin={VIN}", f"vin={VIN}&force=1"],
    ids=["none", "capitals", "twice", "unknown"],
)
async def test_wrong_parameters(
    one: Caller, asked: Asked, path: str, query: str
) -> None:
    """Exactly the one parameter, exactly once."""
    method = one.client.get if path == "/vehicles/lookup" else one.client.delete
    async with method(f"{path}?{query}") as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == "invalid_parameter"
    assert asked.calls == 0


@on_sqlite
@pytest.mark.parametrize("query", ["vin=", "vin", "vin=null"])
async def test_an_empty_vin_is_no_vin(one: Caller, asked: Asked, query: str) -> None:
    """A parameter that is there says what is wrong with it as any other text does."""
    async with one.client.get(f"/vehicles/lookup?{query}") as answer:
        assert answer.status == 422
        assert (await answer.json())["code"] == "invalid_vin"
    assert asked.calls == 0


@on_sqlite
async def test_only_the_head(one: Caller, asked: Asked) -> None:
    """HEAD looks up as GET does, and sends no body."""
    async with one.client.head("/vehicles/lookup", params={"vin": VIN}) as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Status"] == "copilot-usage; fwd=miss; stored"
        assert await answer.read() == b""
    assert asked.calls == 1
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


async def test_many_are_looked_up_in_order(one: Caller, kept: VehicleStore) -> None:
    """Each is as it is alone, in the order asked: good and bad, kept and not."""
    await keep_old(kept, vin(1), days=1)

    answer = await one.look_up_all([UNKNOWN, VIN, "VIN", vin(1), WRONG_CHECK_DIGIT])

    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.body == {
        "results": [
            {
                "vin": UNKNOWN,
                "error": "vin_not_decoded",
                "detail": "vPIC knows no vehicle of this VIN",
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
async def test_duplicates_are_asked_for_once(one: Caller, asked: Asked) -> None:
    """Each place has its answer, in capitals, and all of a VIN are alike."""
    asking = [VIN, UNKNOWN.lower(), VIN.lower(), "bad", UNKNOWN, VIN, "bad"]

    results = (await one.look_up_all(asking)).body["results"]

    assert [each["vin"] for each in results] == [
        *(VIN, UNKNOWN, VIN, "bad", UNKNOWN, VIN, "bad")
    ]
    assert results[0] == results[2] == results[5]
    assert results[1] == results[4]
    assert dict(asked.vins) == {VIN: 1, UNKNOWN: 1}


@on_sqlite
async def test_no_vins_at_all(one: Caller, asked: Asked) -> None:
    """An empty list is answered by one."""
    answer = await one.look_up_all([])

    assert (answer.status, answer.body) == (200, {"results": []})
    assert asked.calls == 0


@on_sqlite
async def test_as_many_as_may_be(one: Caller, asked: Asked) -> None:
    """500, by ten calls; the same 500 again by none."""
    for calls in (10, 10):
        answer = await one.look_up_all(vins(500))
        assert [each["vin"] for each in answer.body["results"]] == vins(500)
        assert asked.calls == calls


@on_sqlite
@pytest.mark.parametrize("text", [VIN, "bad"], ids=["alike", "bad"])
async def test_one_too_many(one: Caller, asked: Asked, text: str) -> None:
    """501 are refused as a whole, whatever they are."""
    answer = await one.look_up_all([text] * 501)

    assert answer.problem == (413, "too_many_vins")
    assert answer.body["detail"] == "at most 500 VINs, not 501"
    assert asked.calls == 0


@on_sqlite
@pytest.mark.parametrize(
    "body, headers, status, code",
    [
        (b"", JSON, 400, "not_json"),
        (b"{", JSON, 400, "not_json"),
        (b'{"vins":["\\ud800"]}', JSON, 400, "not_json"),
        (b'{"vins":["\xff"]}', JSON, 400, "not_json"),
        (b'{"vins":' + b"[" * 60_000, JSON, 422, "invalid_body"),
        (b"null", JSON, 422, "invalid_body"),
        (b"[]", JSON, 422, "invalid_body"),
        (b"{}", JSON, 422, "invalid_body"),
        (b'{"vins":null}', JSON, 422, "invalid_body"),
        (b'{"vins":"%s"}' % VIN.encode(), JSON, 422, "invalid_body"),
        (b'{"vins":[1]}', JSON, 422, "invalid_body"),
        (b'{"vins":[null]}', JSON, 422, "invalid_body"),
        (b'{"vins":[["a"]]}', JSON, 422, "invalid_body"),
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
        *("empty", "cut off", "half a surrogate", "no UTF-8", "deep", "null"),
        *("a list", "no member", "no list", "a text", "a number", "a null"),
        *("lists", "one more member", "too large", "plain text", "coding"),
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


@on_sqlite
async def test_a_compressed_body(one: Caller) -> None:
    """gzip is taken, as it is for events."""
    body = gzip.compress(json.dumps({"vins": [VIN]}).encode())
    headers = {**JSON, "Content-Encoding": "gzip"}
    async with one.client.post(
        "/vehicles/lookup", data=body, headers=headers
    ) as answer:
        assert (await answer.json())["results"][0]["model"] == "388"


@on_sqlite
async def test_a_batch_takes_no_parameters(one: Caller, asked: Asked) -> None:
    """VINs are in the body alone."""
    async with one.client.post(
        f"/vehicles/lookup?vin={VIN}", json={"vins": [VIN]}
    ) as answer:
        assert answer.status == 400
    assert asked.calls == 0


@on_sqlite
async def test_a_batch_while_vpic_is_down(
    one: Caller, kept: VehicleStore, sandbox: RunningSandbox
) -> None:
    """What is kept is given, the rest says why not; the answer itself is good."""
    await keep_old(kept, vin(1))
    sandbox.sandbox.faults = always("server_error")

    answer = await one.look_up_all([vin(1), vin(2), vin(3)])

    assert answer.status == 200
    stale, *others = answer.body["results"]
    assert stale == {"vin": vin(1), **fields_of(OTHER), "cached_result": True}
    assert others == [
        {
            "vin": each,
            "error": "vehicle_unavailable",
            "detail": "it is not kept here, and vPIC does not tell",
        }
        for each in (vin(2), vin(3))
    ]


# --- removing -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["DELETE", "POST"])
async def test_a_vehicle_is_removed(one: Caller, asked: Asked, method: str) -> None:
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
    assert asked.calls == 2


@on_sqlite
async def test_what_is_unknown_is_removed_too(
    one: Caller, sandbox: RunningSandbox, asked: Asked
) -> None:
    """So that vPIC is asked again at once, who may know it by now."""
    await one.look_up(UNKNOWN)
    assert (await one.remove(UNKNOWN)).body["cache_delete_success"] is True
    fields = {"Make": "MACK", "ModelYear": "2024", "ErrorCode": "0"}
    sandbox.sandbox.set_vehicle(UNKNOWN, fields)

    assert (await one.look_up(UNKNOWN)).body["make"] == "MACK"
    assert asked.calls == 2


@on_sqlite
async def test_removing_asks_nobody(
    one: Caller, sandbox: RunningSandbox, asked: Asked
) -> None:
    """While vPIC is down too, what is kept can be forgotten."""
    await one.look_up(VIN)
    sandbox.sandbox.faults = Faults(hang=1)

    assert (await one.remove(VIN)).body["cache_delete_success"] is True
    assert asked.calls == 1


# --- the document -------------------------------------------------------------------


@on_sqlite
async def test_the_document_names_it_all(client: MakeClient, storage: Any) -> None:
    """Every call, its parameter or body, its members and each of its problems."""
    api = await client(vehicles={"enabled": True}, storage={"url": storage.url})
    async with api.get("/openapi.json") as answer:
        document = await answer.json()
    validate(document)
    lookup, remove = (
        document["paths"][f"/vehicles/{name}"] for name in ("lookup", "remove")
    )

    assert lookup.keys() >= {"get", "post"}
    assert remove.keys() >= {"delete", "post"}
    assert lookup["get"]["responses"].keys() >= {"200", "400", "404", "422", "503"}
    assert lookup["post"]["responses"].keys() >= {
        *("200", "400", "408", "413", "415", "422", "503")
    }
    assert remove["delete"]["responses"].keys() >= {"200", "400", "422", "503"}
    assert lookup["get"]["responses"]["200"]["headers"].keys() >= {
        *("Age", "Cache-Status")
    }
    members = document["components"]["schemas"]["LookedUp"]["properties"].keys()
    assert members == {*EXACT, "cached_result", "warnings", "source"}
