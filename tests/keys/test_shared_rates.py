"""The rate of a key at several services that share a Redis."""

import pytest

from service.web import key_rates
from tests.events.conftest import event
from tests.keys.conftest import MakeKey, Serve, on_sqlite, with_key
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisServer, server

__all__ = ["server"]


@on_sqlite
async def test_the_rate_of_a_key_holds_for_all_services_together(
    serve: Serve,
    make_key: MakeKey,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second service refuses what the first one has used up, unless Redis is away."""
    monkeypatch.setattr(key_rates, "MAX_WAIT_S", GIVE_UP_S)
    headers = with_key(await make_key(("events:write",), 0.001))
    other = with_key(await make_key(("events:write",), 0.001))
    shared = {"redis_url": server.url}
    async with serve(cache=shared) as first, serve(cache=shared) as second:
        async with first.post("/events", json=event(), headers=headers) as answer:
            assert answer.status == 202
        async with second.post("/events", json=event(), headers=headers) as answer:
            assert answer.status == 429
            assert 990 < int(answer.headers["Retry-After"]) <= 1_000
        server.kill()
        for service in (first, second):
            async with service.post("/events", json=event(), headers=other) as answer:
                assert answer.status == 202
