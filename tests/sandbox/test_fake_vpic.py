"""The fake vPIC over HTTP: single VINs, batches, formats, replacements."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest
from aiohttp import ClientSession
from yarl import URL

from service.sandbox.fake_vpic import MESSAGE
from service.sandbox.server import RunningSandbox
from service.sandbox.vin_decoding import decode

SINGLE: Final = "/api/vehicles/DecodeVinValues/"
BATCH: Final = "/api/vehicles/DecodeVINValuesBatch/"
PETERBILT: Final = "1XPWD40X1ED215307"
FIVE: Final = [
    PETERBILT,
    "1XKWDB0X57J211825",
    "1XP5DB9X7YN526158",
    "4V4NC9EJXEN171694",
    "1XP5DB9X7XD487964",
]
MANY: Final = [f"1FTFW1ET9DFC{number:05}" for number in range(120)]

UntilIdle = Callable[[RunningSandbox], Awaitable[None]]


async def decode_one(
    session: ClientSession, vin: str, query: str = "?format=json"
) -> dict[str, Any]:
    """Return the JSON answer for one VIN, which is a raw path segment."""
    async with session.get(URL(SINGLE + vin + query, encoded=True)) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        answer: dict[str, Any] = await response.json()
    return answer


async def decode_batch(
    session: ClientSession, data: str, path: str = BATCH
) -> dict[str, Any]:
    """Return the JSON answer for the VINs of a form."""
    form = {"format": "json", "data": data}
    async with session.post(path, data=form) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        answer: dict[str, Any] = await response.json()
    return answer


def vins_of(answer: dict[str, Any]) -> list[str]:
    """Return the VINs of the rows in order."""
    return [row["VIN"] for row in answer["Results"]]


async def test_one_vin_is_one_row_in_an_envelope(session: ClientSession) -> None:
    """The row is the decoded VIN; `Count` is not the number of rows."""
    assert await decode_one(session, PETERBILT) == {
        "Count": 134,
        "Message": MESSAGE,
        "SearchCriteria": f"VIN(s): {PETERBILT}",
        "Results": [decode(PETERBILT)],
    }


@pytest.mark.parametrize(
    "sent, vin",
    [
        (PETERBILT.lower(), PETERBILT),
        (f"%20{PETERBILT}%20", PETERBILT),
        ("5UXWX7C5*BA", "5UXWX7C5*BA"),
        ("a%2Fb", "A/B"),
    ],
)
async def test_a_vin_is_converted_to_capitals(
    running: RunningSandbox, session: ClientSession, sent: str, vin: str
) -> None:
    """Case, blanks and percent-encoding affect neither the row nor the count."""
    assert vins_of(await decode_one(session, sent)) == [vin]
    assert running.sandbox.vins == {vin: 1}


async def test_a_batch_has_a_row_for_each_vin(session: ClientSession) -> None:
    """All VINs are decoded; the search criteria are empty."""
    answer = await decode_batch(session, ";".join(FIVE))
    rows = {row["VIN"]: row for row in answer.pop("Results")}
    assert rows == {vin: decode(vin) for vin in FIVE}
    assert answer == {"Count": 5, "Message": MESSAGE, "SearchCriteria": ""}


@pytest.mark.parametrize("size", range(2, 6))
async def test_rows_are_never_in_the_requested_order(
    session: ClientSession, size: int
) -> None:
    """The order differs from the request's, and is stable."""
    for start in range(10):
        requested = MANY[start : start + size]
        found = vins_of(await decode_batch(session, ";".join(requested)))
        assert sorted(found) == requested != found
        assert vins_of(await decode_batch(session, ";".join(requested))) == found


async def test_only_fifty_of_a_batch_are_decoded(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Further VINs are ignored, but counted."""
    answer = await decode_batch(session, ";".join(MANY))
    assert sorted(vins_of(answer)) == MANY[:50]
    assert running.sandbox.vins == dict.fromkeys(MANY, 1)


@pytest.mark.parametrize(
    "data, vins",
    [
        ("", []),
        (f"{PETERBILT.lower()};", [PETERBILT]),
        (f"{PETERBILT},2014; 5UXWX7C5*BA,2011", ["5UXWX7C5*BA", PETERBILT]),
        (f"{PETERBILT};{PETERBILT}", [PETERBILT, PETERBILT]),
    ],
    ids=["empty", "semicolon", "years", "twice"],
)
async def test_the_data_of_a_batch(
    session: ClientSession, data: str, vins: list[str]
) -> None:
    """Semicolons separate the VINs; blanks and years are ignored."""
    assert vins_of(await decode_batch(session, data)) == vins


@pytest.mark.parametrize(
    "path",
    [BATCH, BATCH.rstrip("/"), BATCH.lower(), "/api/vehicles/decodevinvaluesbatch"],
)
async def test_paths_are_matched_leniently(
    running: RunningSandbox, session: ClientSession, path: str
) -> None:
    """Case and a final slash are ignored; calls are counted by the path as sent."""
    assert vins_of(await decode_batch(session, PETERBILT, path)) == [PETERBILT]
    async with session.get(f"{SINGLE.lower()}{PETERBILT}?format=JSON") as response:
        assert vins_of(await response.json()) == [PETERBILT]
    assert running.sandbox.calls == {path: 1, f"{SINGLE.lower()}{PETERBILT}": 1}


@pytest.mark.parametrize(
    "method, path, data",
    [
        ("GET", SINGLE + PETERBILT, None),
        ("GET", f"{SINGLE}{PETERBILT}?format=xml", None),
        ("POST", BATCH, {"data": PETERBILT}),
        ("POST", BATCH, {"data": PETERBILT, "format": "csv"}),
    ],
    ids=["nothing said", "XML", "form without", "not known"],
)
async def test_the_default_format_is_xml(
    session: ClientSession, method: str, path: str, data: dict[str, str] | None
) -> None:
    """The query of a VIN and the form of a batch select JSON; the default is XML."""
    async with session.request(method, path, data=data) as response:
        assert (response.status, response.content_type) == (200, "application/xml")
        root = ET.fromstring(await response.text())  # noqa: S314
    assert [child.tag for child in root] == [
        "Count",
        "Message",
        "SearchCriteria",
        "Results",
    ]
    (row,) = root.iterfind("Results/DecodedVINValues")
    assert {field.tag: field.text or "" for field in row} == decode(PETERBILT)


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", BATCH, 405),
        ("POST", f"{SINGLE}{PETERBILT}", 405),
        ("GET", "/api/vehicles/DecodeVin/1?format=json", 404),
        ("GET", "/api/", 404),
    ],
)
async def test_other_calls_are_refused(
    running: RunningSandbox,
    session: ClientSession,
    method: str,
    path: str,
    status: int,
) -> None:
    """Another action gives 404, another method 405, with JSON; both are counted."""
    async with session.request(method, path) as response:
        assert response.status == status
        assert (await response.json()).keys() == {"message"}
    assert running.sandbox.calls.total() == 1


async def test_a_vehicle_can_be_replaced(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Fields of a test replace decoded ones in both calls; `None` resets."""
    sandbox = running.sandbox
    sandbox.set_vehicle(PETERBILT.lower(), {"Make": "OTHER", "Doors": None})
    other = decode(PETERBILT) | {"Make": "OTHER", "Doors": None}
    assert (await decode_one(session, PETERBILT))["Results"] == [other]
    assert (await decode_batch(session, PETERBILT))["Results"] == [other]
    sandbox.set_vehicle(PETERBILT, {"Model": "999"})
    other = decode(PETERBILT) | {"Model": "999"}
    assert (await decode_one(session, PETERBILT))["Results"] == [other]
    for _ in range(2):
        sandbox.set_vehicle(PETERBILT, None)
    assert (await decode_one(session, PETERBILT))["Results"] == [decode(PETERBILT)]


async def test_a_disconnect_in_a_form_ends_the_request(
    running: RunningSandbox, session: ClientSession, until_idle: UntilIdle
) -> None:
    """A client that disconnects in its form leaves no request in flight."""
    port = int(running.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {BATCH} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nformat="
    writer.write(head.encode())
    while not running.sandbox.calls[BATCH]:
        await (await session.get("/nothing-here")).read()
    writer.transport.abort()
    await until_idle(running)
    assert running.sandbox.vins == {}
