"""Health: the process says that it lives and takes requests, whatever upstream does."""

import pytest
from aiohttp.test_utils import unused_port

from service.web.health import TRAFFIC
from tests.conftest import MakeClient


@pytest.mark.parametrize("status", ["live", "ready"])
async def test_health_asks_nobody_else(client: MakeClient, status: str) -> None:
    """Upstream may be gone: what is held is served on. No cache may answer for us."""
    nowhere = f"http://127.0.0.1:{unused_port()}"
    service = await client(upstream={"base_url": nowhere})
    response = await service.get(f"/health/{status}")

    assert response.status == 200
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert await response.read() == b'{"status":"%s"}' % status.encode()


async def test_a_draining_process_is_not_ready(client: MakeClient) -> None:
    """While draining it lives and answers, but asks for no new requests."""
    service = await client()
    assert service.app is not None
    service.app[TRAFFIC].is_draining = True

    response = await service.get("/health/ready")

    assert response.status == 503
    assert (await response.json())["code"] == "not_ready"
    assert response.headers["Cache-Control"] == "no-store"
    assert (await service.get("/health/live")).status == 200
    assert (await service.get("/")).status == 200
