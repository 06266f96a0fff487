"""The front of vehicles: what it answers is what the ordinary way would have answered.

`tests/web/test_held.py` holds the same of `/usage`.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from structlog.typing import EventDict

from service import metrics
from service.app import create_app
from service.front import LOOKUP_START
from service.sandbox.server import RunningSandbox
from service.sandbox.vpic import VPIC_PATH
from service.serving import listening
from service.vehicles.handlers import LOOKUP_PATH
from tests.conftest import MakeSettings

VIN: Final = "1XPWD40X1ED215307"
WARNED: Final = "1XPWD40X2ED215307"
UNKNOWN: Final = "12345678901234567"
ORDINARY: Final = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
"""The front knows no traces: with this, a request goes the ordinary way."""
OF_THE_MOMENT: Final = {"Date", "Age"}


@pytest.fixture
def options() -> dict[str, Any]:
    """Sections of settings that a test adds to."""
    return {}


@pytest.fixture
async def service(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    tmp_path: Path,
    options: dict[str, Any],
) -> AsyncIterator[ClientSession]:
    """The service as it is deployed, which has two VINs in memory for a minute."""
    vehicles = {"enabled": True, "base_url": sandbox.url + VPIC_PATH, "held_s": 60.0}
    made = settings(
        server={"port": 0, "drain_s": 0.0},
        upstream={"base_url": sandbox.url},
        storage={"url": f"sqlite+aiosqlite:///{tmp_path}/vehicles.db"},
        vehicles=vehicles,
        **options,
    )
    async with (
        listening(create_app(made), made.server) as url,
        ClientSession(url) as session,
    ):
        for vin in (VIN, WARNED):
            await look_up(session, vin, ORDINARY)
        yield session


async def look_up(
    service: ClientSession, vin: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers but for those of the moment, and body."""
    named = {"X-Request-ID": "ours", **(headers or {})}
    async with service.get(LOOKUP_START + vin, headers=named) as answer:
        told = {k: v for k, v in answer.headers.items() if k not in OF_THE_MOMENT}
        return answer.status, told, await answer.read()


@pytest.mark.parametrize("vin", [VIN, WARNED, VIN.lower(), UNKNOWN, VIN[:-1], "%20"])
async def test_both_ways_tell_the_same(service: ClientSession, vin: str) -> None:
    """No header and no byte of a body shows which way a request went."""
    ordinary = await look_up(service, vin, ORDINARY)

    # Once more: by now the VIN is in memory, if it ever will be.
    assert await look_up(service, vin) == await look_up(service, vin, ORDINARY)
    assert ordinary[0] in {200, 404, 422}


async def test_both_ways_are_logged_alike(
    service: ClientSession, log_entries: list[EventDict]
) -> None:
    """The line of a request has the same values, but for what differs by nature."""
    log_entries.clear()
    await look_up(service, VIN, ORDINARY)
    await look_up(service, VIN)

    ordinary, front = log_entries
    differs = {"duration_s", "trace_id", "span_id"}
    assert ordinary["event"] == front["event"] == "http.request"
    assert {k: v for k, v in ordinary.items() if k not in differs} == {
        k: v for k, v in front.items() if k not in differs
    }
    assert ordinary.keys() - front.keys() == {"trace_id", "span_id"}


async def test_both_ways_are_counted_alike(service: ClientSession) -> None:
    """A look-up and a request more, whichever way they went."""
    before = counted()
    await look_up(service, VIN, ORDINARY)
    between = counted()
    await look_up(service, VIN)

    assert [lookups - 1 for lookups in between] == before
    assert [lookups - 1 for lookups in counted()] == between


def counted() -> list[float]:
    """Look-ups that were hits, and requests for one."""
    body, _ = metrics.expose("")
    lines = dict(line.rsplit(" ", 1) for line in body.decode().splitlines())
    labels = 'http_request_method="GET",http_response_status_code="200",http_route='
    requests = f'http_server_request_duration_seconds_count{{{labels}"{LOOKUP_PATH}"}}'
    lookups = 'copilot_usage_vehicles_lookups_total{result="hit"}'
    return [float(lines[name]) for name in (lookups, requests)]


async def test_a_removal_shows_at_once(
    service: ClientSession, sandbox: RunningSandbox
) -> None:
    """What was prepared for a VIN is not sent after it was removed."""
    assert b'"cached_result":true' in (await look_up(service, VIN))[2]

    await (await service.delete("/vehicles/remove", params={"vin": VIN})).read()

    assert b'"cached_result":false' in (await look_up(service, VIN))[2]
    assert sandbox.sandbox.vins[VIN] == 2


async def test_a_fetch_shows_at_once(
    service: ClientSession, sandbox: RunningSandbox
) -> None:
    """What was prepared for a VIN gives way to what is told of it later."""
    await look_up(service, VIN)
    sandbox.sandbox.set_vehicle(VIN, {"Model": "389"})
    await (await service.delete("/vehicles/remove", params={"vin": VIN})).read()
    await look_up(service, VIN)

    assert b'"model":"389"' in (await look_up(service, VIN))[2]


@pytest.mark.parametrize(
    "options", [{"limits": {"rate_per_s": 0.001, "burst": 3}}], ids=["limited"]
)
async def test_the_front_charges_too(service: ClientSession) -> None:
    """Callers who ask too often are refused, and told what is left before."""
    status, headers, _ = await look_up(service, VIN)
    assert (status, headers["RateLimit"].split(";")[1]) == (200, "r=0")

    status, _, body = await look_up(service, VIN)
    assert (status, b"rate_limited" in body) == (429, True)


async def test_more_vins_than_are_remembered(
    service: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one alone makes nobody get another's answer."""
    monkeypatch.setattr("service.front.MOST_PREPARED", 1)
    for vin in (VIN, WARNED, VIN, WARNED):
        assert f'"vin":"{vin}"'.encode() in (await look_up(service, vin))[2]
