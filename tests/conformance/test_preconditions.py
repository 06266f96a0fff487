"""`If-Match` on every endpoint: it comes last, and before any effect (RFC 9110 §13)."""

from pathlib import Path
from typing import Any, Final

import pytest

from service.keys.store import add_key
from service.sandbox.server import RunningSandbox
from service.settings import SCOPES
from service.storage.database import open_database
from tests.conftest import Client, MakeClient, message, storage_at

VIN: Final = "1XPWD40X1ED215307"
OTHER: Final = {"If-Match": '"other"'}
EVENT: Final = {
    "id": "1",
    "session_id": "1",
    "category": "page interaction",
    "name": "pageview",
    "data": {"host": "a.b", "path": "/"},
    "timestamp": "2021-01-01T09:15:27Z",
}


@pytest.fixture
async def service(
    client: MakeClient, sandbox: RunningSandbox, tmp_path: Path
) -> Client:
    """A service with all domains."""
    sandbox.sandbox.set_messages([message(1)])
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    return await client(
        events={"enabled": True},
        vehicles={"enabled": True},
        storage={"url": storage.url},
        cache={"ttl_s": 600},
    )


@pytest.fixture
async def key(tmp_path: Path, service: Client) -> str:
    """A key of the service."""
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/a.db")
    async with open_database(storage) as database:
        return await add_key(database, "shop", SCOPES)


READS: Final = (
    *("/usage", "/usage?limit=1", "/usage/1", "/usage/daily", "/usage/reports"),
    *("/usage/plans", "/", "/docs", "/openapi.json", "/metrics", "/health/live"),
    *("/dashboard/", "/vehicles/export"),
)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", READS)
async def test_another_representation_is_not_sent(
    service: Client, path: str, method: str
) -> None:
    """Each read has 412 for another tag, and its answer for any."""
    answer = await service.request(method, path, headers=OTHER)
    assert answer.status == 412
    answer = await service.request(method, path, headers={"If-Match": "*"})
    assert answer.status < 400 or path == "/dashboard/"


@pytest.mark.parametrize(
    "method, path, options, status",
    [
        pytest.param("DELETE", "/none", {}, 404, id="path"),
        pytest.param("POST", "/usage", {}, 405, id="method"),
        pytest.param("POST", "/events", {"json": EVENT}, 401, id="key"),
        pytest.param("DELETE", "/vehicles/remove?vin=bad", {}, 422, id="VIN"),
        pytest.param("DELETE", "/vehicles/remove", {}, 400, id="parameter"),
        pytest.param("GET", "/usage/none", {}, 404, id="message"),
    ],
)
async def test_other_errors_come_first(
    service: Client, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    """A condition is evaluated where the request would succeed otherwise."""
    answer = await service.request(method, path, headers=OTHER, **options)
    assert answer.status == status


async def test_a_refused_request_has_no_effect(service: Client, key: str) -> None:
    """No event is stored and no VIN is removed."""
    headers = {"X-API-Key": key}
    refused = await service.post("/events", json=EVENT, headers=headers | OTHER)
    assert refused.status == 412
    listed = await (await service.get("/events", headers=headers)).json()
    assert listed["events"] == []
    await service.get("/vehicles/lookup", params={"vin": VIN})
    refused = await service.delete(
        "/vehicles/remove", params={"vin": VIN}, headers=OTHER
    )
    assert refused.status == 412
    removed = await service.delete("/vehicles/remove", params={"vin": VIN})
    assert True in (await removed.json()).values()
