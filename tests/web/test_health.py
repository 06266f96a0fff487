"""Health: the process says that it lives, whatever upstream does."""

from aiohttp.test_utils import unused_port

from tests.conftest import MakeClient


async def test_a_process_that_answers_lives(client: MakeClient) -> None:
    """Liveness asks nobody else, and no cache may answer in its place."""
    nowhere = f"http://127.0.0.1:{unused_port()}"
    response = await (await client(upstream={"base_url": nowhere})).get("/health/live")

    assert response.status == 200
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert await response.read() == b'{"status":"live"}'
