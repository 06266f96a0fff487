"""The fast path of vehicles: its answers equal those of the ordinary path.

`tests/web/http_cache/test_responses.py` compares those of `/usage`.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession
from structlog.typing import EventDict

from service.app import create_app
from service.observability import metrics
from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.server.fast_path import LOOKUP_START
from service.server.runner import listening
from service.vehicles.handlers import LOOKUP_PATH
from tests.conftest import MakeSettings

VIN: Final = "1XPWD40X1ED215307"
WARNED: Final = "1XPWD40X2ED215307"
UNKNOWN: Final = "12345678901234567"
ORDINARY: Final = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
"""A request with a trace context takes the ordinary path."""
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
        headers_sent = {
            k: v for k, v in answer.headers.items() if k not in OF_THE_MOMENT
        }
        return answer.status, headers_sent, await answer.read()


@pytest.mark.parametrize("vin", [VIN, WARNED, VIN.lower(), UNKNOWN, VIN[:-1], "%20"])
async def test_both_paths_answer_the_same(service: ClientSession, vin: str) -> None:
    """Headers and body are equal."""
    ordinary = await look_up(service, vin, ORDINARY)

    # Once more: by now the VIN is in memory, if it ever will be.
    assert await look_up(service, vin) == await look_up(service, vin, ORDINARY)
    assert ordinary[0] in {200, 404, 422}
    assert (b"check_digit" in ordinary[2]) is (vin == WARNED)


async def test_both_paths_log_the_same(
    service: ClientSession, log_entries: list[EventDict]
) -> None:
    """The log lines differ in duration and trace ids only."""
    log_entries.clear()
    await look_up(service, VIN, ORDINARY)
    await look_up(service, VIN)

    ordinary, fast = log_entries
    differs = {"duration_s", "trace_id", "span_id"}
    assert ordinary["event"] == fast["event"] == "http.request"
    assert {k: v for k, v in ordinary.items() if k not in differs} == {
        k: v for k, v in fast.items() if k not in differs
    }
    assert ordinary.keys() - fast.keys() == {"trace_id", "span_id"}


async def test_both_paths_count_the_same(service: ClientSession) -> None:
    """Each adds one look-up and one request."""
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
    lookups = 'copilot_usage_vehicles_lookups_total{reason="none",result="hit"}'
    return [float(lines[name]) for name in (lookups, requests)]


async def test_a_removal_shows_at_once(
    service: ClientSession, sandbox: RunningSandbox
) -> None:
    """A prepared answer is not sent after the removal of its VIN."""
    assert b'"cached_result":true' in (await look_up(service, VIN))[2]

    await (await service.delete("/vehicles/remove", params={"vin": VIN})).read()

    assert b'"cached_result":false' in (await look_up(service, VIN))[2]
    assert sandbox.sandbox.vins[VIN] == 2


async def test_a_fetch_shows_at_once(
    service: ClientSession, sandbox: RunningSandbox
) -> None:
    """A prepared answer is replaced after a new fetch."""
    await look_up(service, VIN)
    sandbox.sandbox.set_vehicle(VIN, {"Model": "389"})
    await (await service.delete("/vehicles/remove", params={"vin": VIN})).read()
    await look_up(service, VIN)

    assert b'"model":"389"' in (await look_up(service, VIN))[2]


@pytest.mark.parametrize(
    "options", [{"limits": {"rate_per_s": 0.001, "burst": 3}}], ids=["limited"]
)
async def test_the_fast_path_charges_clients(service: ClientSession) -> None:
    """Rate headers are sent, and clients over the rate are refused."""
    status, headers, _ = await look_up(service, VIN)
    assert (status, headers["RateLimit"].split(";")[1]) == (200, "r=0")

    status, _, body = await look_up(service, VIN)
    assert (status, b"rate_limited" in body) == (429, True)


async def test_more_vins_than_prepared_answers(
    service: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one answer, each VIN gets its own."""
    monkeypatch.setattr("service.server.fast_path.MAX_PREPARED", 1)
    for vin in (VIN, WARNED, VIN, WARNED):
        assert f'"vin":"{vin}"'.encode() in (await look_up(service, vin))[2]
