"""The list of cached vehicles, and manufacturers by their codes."""

import asyncio
from typing import Any, Final

import pytest
from yarl import URL

from service.instants import now_us
from service.sandbox.server import RunningSandbox
from service.vehicles.model import Entry, Vehicle, Vin
from service.vehicles.store import VehicleStore
from tests.conftest import always
from tests.vehicles.conftest import (
    KNOWN,
    UNKNOWN,
    VIN,
    Answer,
    Caller,
    Serve,
    Until,
    VpicBarrier,
    VpicRequests,
    on_sqlite,
    vins,
)

AUDI: Final = "WAUZZZ8K1DA006278"
HOUR_US: Final = 3_600_000_000


@pytest.fixture
async def one(serve: Serve) -> Caller:
    """An application as shipped."""
    return await serve()


async def stored_hourly(stored: VehicleStore, *all_vins: Vin) -> None:
    """Store vehicles of which each is an hour older than the one before."""
    now, vehicle = now_us(), Vehicle("VOLVO TRUCK", "VNL", "2014", "Truck-Tractor")
    entries = {
        each: Entry(vehicle, now - age * HOUR_US) for age, each in enumerate(all_vins)
    }
    await stored.save(entries, {})


def listed(answer: Answer) -> list[str]:
    """The VINs of a page."""
    assert answer.status == 200, answer.body
    return [each["vin"] for each in answer.body["vehicles"]]


async def test_cached_vehicles_are_listed(one: Caller, received: VpicRequests) -> None:
    """Newest first, with age, source and doubts, without those that are not decoded."""
    assert listed(await one.get("/vehicles")) == []
    for text in (VIN, UNKNOWN, AUDI):
        await one.look_up(text)
    await one.look_up(AUDI, model_year="2013")
    calls = received.calls
    (hinted, audi, truck) = (await one.get("/vehicles")).body["vehicles"]
    assert truck["vin"] == VIN
    assert truck.keys() == {
        *("vin", "make", "model", "model_year", "body_class", "fetched_at"),
        *("age_s", "source"),
    }
    assert (truck["age_s"] >= 0, truck["fetched_at"][-1]) == (True, "Z")
    assert audi["model_year_candidates"] == ["1983", "2013"]
    assert (hinted["vin"], hinted["model_year_hint"]) == (AUDI, "2013")
    assert "warnings" in hinted
    assert received.calls == calls
    await one.remove(AUDI)
    assert listed(await one.get("/vehicles")) == [VIN]


@pytest.mark.parametrize(
    "query, expected",
    [
        ({"make": "peterbilt"}, {"388", "379"}),
        ({"make": "PETERBILT", "model": "379"}, {"379"}),
        ({"year": "2014"}, {"388", "VNL"}),
        ({"make": "nobody"}, set()),
        ({"vin": "1xpwd"}, {"388"}),
        ({"vin": "1XP", "year": "2000"}, {"379"}),
        ({"vin": "XP"}, set()),
        ({"vin": "%"}, set()),
    ],
)
async def test_filters(one: Caller, query: dict[str, str], expected: set[str]) -> None:
    """Each filter is a whole value, or the beginning of the VIN, in any case."""
    await one.look_up_all(list(KNOWN))
    rows = (await one.get("/vehicles", **query)).body["vehicles"]
    assert {each["model"] for each in rows} == expected


async def test_pages(one: Caller, stored: VehicleStore) -> None:
    """The pages have each vehicle once, in order; the last has no link."""
    many = vins(7)
    await stored_hourly(stored, *many)
    found: list[str] = []
    path: URL | None = URL("/vehicles?limit=3&make=Volvo+Truck")
    while path is not None:
        async with one.client.get(path) as answer:
            found += [each["vin"] for each in (await answer.json())["vehicles"]]
            link = answer.headers.get("Link")
            path = URL(link[1 : link.index(">")], encoded=True) if link else None
    assert found == many


@on_sqlite
@pytest.mark.parametrize(
    "query",
    [
        *(
            {"cursor": "x"},
            {"cursor": "WzEsIlwwIl0"},
            {"limit": "0"},
            {"limit": "1001"},
        ),
        *({"make": "a\0b"}, {"model": "x" * 101}, {"make": ""}, {"sort": "age"}),
    ],
    ids=str,
)
async def test_invalid_queries(one: Caller, query: dict[str, str]) -> None:
    """400 that names the parameter."""
    answer = await one.get("/vehicles", **query)
    assert answer.problem == (400, "invalid_parameter")
    assert next(iter(query)) in answer.body["detail"]


# --- manufacturers ------------------------------------------------------------------

PETERBILT: Final[dict[str, Any]] = {
    "wmi": "1XP",
    "manufacturer": "PETERBILT MOTORS COMPANY",
    "make": "PETERBILT",
    "common_name": "Peterbilt",
    "parent_company": "",
    "vehicle_type": "TRUCK",
    "url": "",
}


@on_sqlite
async def test_a_manufacturer(one: Caller, received: VpicRequests) -> None:
    """It is looked up by its code in any case, and then cached."""
    answers = [await one.get(f"/vehicles/wmi/{wmi}") for wmi in ("1xp", "1XP")]
    assert [each.status for each in answers] == [200, 200]
    assert answers[0].body == PETERBILT | {"cached_result": False}
    assert answers[1].body == PETERBILT | {"cached_result": True}
    assert received.calls == 1


@on_sqlite
async def test_an_unknown_manufacturer(one: Caller, received: VpicRequests) -> None:
    """404, which is cached too."""
    for _ in range(2):
        answer = await one.get("/vehicles/wmi/ZZZZZZ")
        assert answer.problem == (404, "wmi_unknown")
    assert received.calls == 1


@on_sqlite
@pytest.mark.parametrize("wmi", ["1X", "1XPW", "1XO", "1XPWD4X", "%00%00%00", "1*P"])
async def test_an_invalid_code(one: Caller, received: VpicRequests, wmi: str) -> None:
    """422, and vPIC is not asked."""
    async with one.client.get(URL(f"/vehicles/wmi/{wmi}", encoded=True)) as answer:
        assert answer.status == 422
        assert (await answer.json())["code"] == "invalid_wmi"
    assert received.calls == 0


@on_sqlite
@pytest.mark.parametrize("ttl_s", [3_600.0, 0.0])
async def test_manufacturers_while_vpic_is_away(
    serve: Serve, sandbox: RunningSandbox, ttl_s: float
) -> None:
    """The cached one is returned, however old; without one, 503."""
    one = await serve(vehicles={"ttl_s": ttl_s})
    await one.get("/vehicles/wmi/1XP")
    sandbox.sandbox.faults = always("server_error")
    cached = await one.get("/vehicles/wmi/1XP")
    assert (cached.status, cached.body["cached_result"]) == (200, True)
    assert (await one.get("/vehicles/wmi/1XK")).problem == (503, "vehicle_unavailable")


@on_sqlite
async def test_codes_leave_vpic_to_vins(
    one: Caller, barrier: VpicBarrier, received: VpicRequests, until: Until
) -> None:
    """One call about a manufacturer is in progress, and few wait; a VIN is decoded."""
    barrier.close()
    codes = [f"1A{letter}" for letter in "ABCDEFGHJKLMNPRS"]
    asked = [asyncio.create_task(one.get(f"/vehicles/wmi/{wmi}")) for wmi in codes]
    await until(lambda: received.calls == 1)
    refused = await one.get("/vehicles/wmi/1AT")
    assert refused.problem == (503, "vehicle_lookups_full")
    look_up = asyncio.create_task(one.look_up(VIN))
    await until(lambda: received.vins[VIN] == 1)
    assert received.calls == 2
    barrier.open()
    assert (await look_up).status == 200
    assert {each.status for each in await asyncio.gather(*asked)} == {404}
