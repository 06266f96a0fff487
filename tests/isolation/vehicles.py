"""Clients of a service of vehicles, on real sockets, with different addresses."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from service.app import create_app
from service.keys.store import SANDBOX_KEY
from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from service.settings import StorageSettings
from tests.conftest import MakeSettings
from tests.metric_samples import value
from tests.patience import GIVE_UP_S

ONE: Final = "192.0.2.1"
"""The address of a client that sends too many requests."""
OTHER: Final = "192.0.2.2"


NO_LIMIT: Final = ClientTimeout(total=None)


class Answer(NamedTuple):
    """One answer, read."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def problem(self) -> tuple[int, str]:
        """The status and the problem code."""
        return self.status, self.body["code"]


class Vehicles:
    """A service; each request has a connection, and the address of a client."""

    def __init__(self, session: ClientSession, port: int) -> None:
        self._session = session
        self.port = port

    async def look_up(self, vin: str, client: str = ONE) -> Answer:
        """Look one VIN up."""
        return await self._send("GET", "lookup", client, params={"vin": vin})

    async def look_up_all(self, vins: list[Any], client: str = ONE) -> Answer:
        """Look many VINs up."""
        return await self._send("POST", "lookup", client, json={"vins": vins})

    async def remove(self, vin: str, client: str = ONE) -> Answer:
        """Remove a VIN."""
        return await self._send("DELETE", "remove", client, params={"vin": vin})

    async def post_event(self, event_id: str) -> int:
        """Send an event; return the status."""
        event = {
            "id": event_id,
            "session_id": "s",
            "category": "c",
            "name": "n",
            "timestamp": "2024-04-29T03:25:03Z",
            "data": {},
        }
        headers = {"X-API-Key": SANDBOX_KEY}
        async with self._session.post("/events", json=event, headers=headers) as answer:
            return answer.status

    async def _send(
        self, method: str, path: str, client: str, **options: Any
    ) -> Answer:
        sent = self._session.request(
            method,
            f"/vehicles/{path}",
            headers={"X-Forwarded-For": client},
            **options,
        )
        async with sent as answer:
            body = json.loads(await answer.read())
            return Answer(answer.status, body, dict(answer.headers))


ServeVehicles = Callable[..., AbstractAsyncContextManager[Vehicles]]


@pytest.fixture
def serve(
    settings: MakeSettings, sandbox: RunningSandbox, storage: StorageSettings
) -> ServeVehicles:
    """A factory of services that ask the sandbox as vPIC, each on a real socket."""

    @asynccontextmanager
    async def run(**sections: dict[str, Any]) -> AsyncIterator[Vehicles]:
        vehicles = {
            "enabled": True,
            "base_url": sandbox.url + VPIC_PATH,
            "attempts": 1,
            "stale_wait_s": 3_600.0,
            "storage_wait_s": GIVE_UP_S,
            **sections.pop("vehicles", {}),
        }
        limits = {
            "trusted_proxies": ("127.0.0.1",),
            "queue_wait_s": 60.0,
            **sections.pop("limits", {}),
        }
        made = settings(
            upstream={"base_url": sandbox.url},
            server={"port": 0, "drain_s": 0.0},
            storage={"url": storage.url, **sections.pop("storage", {})},
            limits=limits,
            vehicles=vehicles,
            **sections,
        )
        connector = TCPConnector(limit=0)
        async with (
            listening(create_app(made), made.server) as url,
            ClientSession(url, connector=connector, timeout=NO_LIMIT) as session,
        ):
            yield Vehicles(session, int(url.rpartition(":")[2]))

    return run


def running(lane: str) -> float:
    """Return the number of requests that run in a lane."""
    return value("copilot_usage_lane_running", lane=lane)


def waiting(lane: str) -> float:
    """Return the number of requests that wait for a lane."""
    return value("copilot_usage_lane_waiting", lane=lane)


def active() -> float:
    """Return the number of GET requests that are being answered."""
    return value("http_server_active_requests", http_request_method="GET")
