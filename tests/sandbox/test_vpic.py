"""vPIC as a client sees it: one VIN, batches, formats, counts, own vehicles."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from xml.etree import ElementTree as ET

import msgspec
import pytest
from aiohttp import ClientSession, FormData
from msgspec.structs import replace
from yarl import URL

from service.sandbox.decoding import decode
from service.sandbox.options import SandboxOptions
from service.sandbox.server import RunningSandbox, running_sandbox
from service.sandbox.vpic import MESSAGE
from tests.clock import LoopTime

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

Settle = Callable[[RunningSandbox], Awaitable[None]]


async def decode_one(
    session: ClientSession, vin: str, query: str = "?format=json"
) -> dict[str, Any]:
    """The JSON answer about one VIN, which stands in the path as it is."""
    async with session.get(URL(SINGLE + vin + query, encoded=True)) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        answer: dict[str, Any] = await response.json()
    return answer


async def decode_batch(
    session: ClientSession, data: str, path: str = BATCH
) -> dict[str, Any]:
    """The JSON answer about the VINs of a form."""
    form = {"format": "json", "data": data}
    async with session.post(path, data=form) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        answer: dict[str, Any] = await response.json()
    return answer


def vins_of(answer: dict[str, Any]) -> list[str]:
    """The VINs of the rows, as they come."""
    return [row["VIN"] for row in answer["Results"]]


async def test_one_vin_is_one_row_in_an_envelope(session: ClientSession) -> None:
    """The row is the decoded VIN; `Count` tells something else than how many."""
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
        ("5uxwx7c5%2aba", "5UXWX7C5*BA"),
        ("a%2Fb", "A/B"),
    ],
)
async def test_a_vin_is_read_in_capitals(
    running: RunningSandbox, session: ClientSession, sent: str, vin: str
) -> None:
    """Case, blanks and percent-encoding do not matter, in the row nor in the count."""
    assert vins_of(await decode_one(session, sent)) == [vin]
    assert running.sandbox.vins == {vin: 1}


@pytest.mark.parametrize("vin", ["", "%20"], ids=["none", "blank"])
async def test_no_vin_is_no_row(
    running: RunningSandbox, session: ClientSession, vin: str
) -> None:
    """An empty VIN has no row, and is not counted."""
    assert (await decode_one(session, vin))["Results"] == []
    assert running.sandbox.vins == {}


async def test_a_batch_has_a_row_for_each_vin(session: ClientSession) -> None:
    """All VINs are decoded, in another order than asked; no criteria are told."""
    answer = await decode_batch(session, ";".join(FIVE))
    rows = {row["VIN"]: row for row in answer.pop("Results")}
    assert rows == {vin: decode(vin) for vin in FIVE}
    assert answer == {"Count": 5, "Message": MESSAGE, "SearchCriteria": ""}


@pytest.mark.parametrize("size", range(2, 6))
async def test_rows_never_come_in_the_order_asked(
    session: ClientSession, size: int
) -> None:
    """The order is another one whichever VINs are asked for, and always the same."""
    for start in range(10):
        asked = MANY[start : start + size]
        found = vins_of(await decode_batch(session, ";".join(asked)))
        assert sorted(found) == asked != found
        assert vins_of(await decode_batch(session, ";".join(asked))) == found


async def test_the_seed_decides_the_order(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Another seed shuffles otherwise; the rows are the same."""
    sandbox, data = running.sandbox, ";".join(MANY[:50])
    first = vins_of(await decode_batch(session, data))
    sandbox.options = replace(sandbox.options, seed=8)
    second = vins_of(await decode_batch(session, data))
    assert sorted(first) == sorted(second) == MANY[:50]
    assert first != second


async def test_only_fifty_of_a_batch_are_decoded(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The 51st and later VINs are ignored, but count as asked for."""
    answer = await decode_batch(session, ";".join(MANY))
    assert sorted(vins_of(answer)) == MANY[:50]
    assert running.sandbox.vins == dict.fromkeys(MANY, 1)


@pytest.mark.parametrize(
    "data, vins",
    [
        ("", []),
        (" ; ;", []),
        (PETERBILT, [PETERBILT]),
        (f"{PETERBILT.lower()};", [PETERBILT]),
        (f"{PETERBILT},2014; 5UXWX7C5*BA,2011", ["5UXWX7C5*BA", PETERBILT]),
        (f"{PETERBILT};{PETERBILT}", [PETERBILT, PETERBILT]),
    ],
    ids=["empty", "blank", "one", "semicolon", "years", "twice"],
)
async def test_the_data_of_a_batch(
    session: ClientSession, data: str, vins: list[str]
) -> None:
    """Semicolons part the VINs; blanks and years beside them do not matter."""
    assert vins_of(await decode_batch(session, data)) == vins


@pytest.mark.parametrize(
    "path",
    [BATCH, BATCH.rstrip("/"), BATCH.lower(), "/api/vehicles/decodevinvaluesbatch"],
)
async def test_paths_are_taken_leniently(
    running: RunningSandbox, session: ClientSession, path: str
) -> None:
    """Case and a slash at the end do not matter; calls are counted as they are sent."""
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
        ("POST", f"{BATCH}?format=json", {"data": PETERBILT}),
        ("POST", BATCH, {"data": PETERBILT, "format": "csv"}),
    ],
    ids=["nothing said", "XML", "form without", "in the query", "not known"],
)
async def test_it_answers_xml_unless_asked_for_json(
    session: ClientSession, method: str, path: str, data: dict[str, str] | None
) -> None:
    """JSON is had by the query of one VIN, and by the form of a batch; else XML."""
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


async def test_xml_is_escaped(session: ClientSession) -> None:
    """What is asked for can't break the document that repeats it."""
    async with session.get(URL(f"{SINGLE}%3C%26", encoded=True)) as response:
        root = ET.fromstring(await response.text())  # noqa: S314
    assert root.findtext("Results/DecodedVINValues/VIN") == "<&"


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", BATCH, 405),
        ("POST", f"{SINGLE}{PETERBILT}", 405),
        ("GET", "/api/vehicles/DecodeVin/1?format=json", 404),
        ("GET", "/api/vehicles/DecodeVinValues", 404),
        ("GET", "/api/", 404),
        ("POST", "/api/vehicles", 404),
    ],
)
async def test_other_calls_are_refused(
    running: RunningSandbox,
    session: ClientSession,
    method: str,
    path: str,
    status: int,
) -> None:
    """Another action is 404 and another method 405, with JSON; both are counted."""
    async with session.request(method, path) as response:
        assert response.status == status
        assert (await response.json()).keys() == {"message"}
    assert running.sandbox.calls.total() == 1


async def test_vins_are_counted_over_all_requests(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Each time that a VIN is sent counts, by whichever call."""
    await decode_one(session, PETERBILT)
    await decode_batch(session, f"{PETERBILT};{PETERBILT.lower()};{FIVE[1]}")
    assert running.sandbox.vins == {PETERBILT: 3, FIVE[1]: 1}
    assert running.sandbox.calls == {SINGLE + PETERBILT: 1, BATCH: 1}


async def test_a_vehicle_can_be_replaced(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Fields of a test's own lie over the decoded row in both calls; `None` resets."""
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


async def test_batches_in_flight_are_counted(loop_time: LoopTime) -> None:
    """Batches wait for the latency as well, side by side."""
    async with running_sandbox(SandboxOptions(latency_ms=10_000)) as running:
        sandbox = running.sandbox
        async with (
            ClientSession(running.url) as session,
            loop_time.passing(10.0, at_each=lambda: sandbox.calls.total() // 5),
        ):
            await asyncio.gather(*(decode_batch(session, vin) for vin in FIVE))
        assert (sandbox.in_flight, sandbox.max_in_flight) == (0, 5)


async def test_error_rate_strikes_batches_too(
    running: RunningSandbox, session: ClientSession
) -> None:
    """At a rate of 1 every batch is answered with a plain 500, and counted."""
    running.sandbox.options = replace(running.sandbox.options, error_rate=1)
    async with session.post(BATCH, data={"data": PETERBILT}) as response:
        assert response.status == 500
    assert running.sandbox.vins == {PETERBILT: 1}


async def test_a_form_may_be_multipart(session: ClientSession) -> None:
    """The form is read in either encoding that forms have."""
    form = FormData(default_to_multipart=True)
    form.add_field("format", "json")
    form.add_field("data", PETERBILT)
    async with session.post(BATCH, data=form) as response:
        assert vins_of(await response.json()) == [PETERBILT]


async def test_a_client_that_leaves_amid_its_form_is_let_go(
    running: RunningSandbox, session: ClientSession, settle: Settle
) -> None:
    """A form that never comes to its end keeps nothing in flight."""
    port = int(running.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {BATCH} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nformat="
    writer.write(head.encode())
    while not running.sandbox.calls[BATCH]:
        await (await session.get("/nothing-here")).read()
    writer.transport.abort()
    await settle(running)
    assert running.sandbox.vins == {}


async def test_copilot_is_played_beside(session: ClientSession) -> None:
    """What does not begin with vPIC's path, slash included, is copilot's."""
    for path in ("/api", "/apish/vehicles", "/vehicles"):
        async with session.get(path) as response:
            assert response.status == 404
            body = msgspec.json.decode(await response.read())
        assert body == {"error": "no such thing"}
