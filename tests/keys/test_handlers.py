"""Keys over HTTP: create, list and revoke."""

from typing import Any, Final

import pytest
from aiohttp import ClientSession
from structlog.typing import EventDict
from yarl import URL

from service.keys import cached_keys
from service.keys.store import list_keys
from service.settings import SCOPES
from service.storage.database import Database
from service.storage.errors import StorageUnavailable
from tests.keys.conftest import MakeKey, Serve, Until, on_sqlite, with_key

TOO_LONG: Final = "x" * 201


async def test_a_key_is_created_used_and_revoked(
    serve: Serve, make_key: MakeKey
) -> None:
    """Both take effect at once, and the text of the key is in one answer only."""
    admin = with_key(await make_key(["admin"]))
    body = {"name": "board", "scopes": ["usage:read", "events:read"], "rate_per_s": 9}
    async with serve(auth={"require": ("*",)}) as service:
        answer = await service.post("/keys", json=body, headers=admin)
        assert (answer.status, answer.headers["Cache-Control"]) == (201, "no-store")
        created = await answer.json()
        key = created.pop("key")
        assert created.keys() == {"id", "name", "scopes", "rate_per_s", "created_at"}
        assert created["scopes"] == ["events:read", "usage:read"]
        assert await status_of(service, "GET", "/usage", key) == 200
        listed = (await (await service.get("/keys", headers=admin)).json())["keys"]
        assert listed[1] == created | {"revoked_at": None}

        path = f"/keys/{created['id']}"
        for status in (204, 404):
            assert (await service.delete(path, headers=admin)).status == status
            assert await status_of(service, "GET", "/usage", key) == 401
        listed = (await (await service.get("/keys", headers=admin)).json())["keys"]
        assert listed[1]["revoked_at"] >= created["created_at"]


@on_sqlite
async def test_changes_are_logged_without_the_keys(
    serve: Serve, make_key: MakeKey, database: Database, log_entries: list[EventDict]
) -> None:
    """Each line has the changed key, and the id of the key that was used."""
    admin = await make_key(["admin"])
    (actor,) = await list_keys(database)
    async with serve() as service:
        headers = with_key(admin)
        answer = await service.post("/keys", json={"name": "board"}, headers=headers)
        created = await answer.json()
        await service.delete(f"/keys/{created['id']}", headers=headers)

    changes = [each for each in log_entries if each["event"].startswith("keys.")]
    assert [each["event"] for each in changes] == ["keys.added", "keys.revoked"]
    for each in changes:
        assert (each["key_id"], each["actor_key_id"]) == (created["id"], actor.id)
        assert (each["application"], each["scopes"]) == ("board", ["events:write"])
    assert not [text for text in (admin, created["key"]) if text in repr(log_entries)]


@on_sqlite
async def test_a_key_without_scopes_sends_events(
    serve: Serve, make_key: MakeKey
) -> None:
    """The default is the narrowest key of an application."""
    admin = await make_key()
    async with serve() as service:
        headers = with_key(admin)
        async with service.post("/keys", json={"name": "a"}, headers=headers) as answer:
            assert (await answer.json())["scopes"] == ["events:write"]


@on_sqlite
@pytest.mark.parametrize(
    "body, status, code",
    [
        ({}, 422, "invalid_body"),
        ([], 422, "invalid_body"),
        ({"name": ""}, 422, "invalid_body"),
        ({"name": "  "}, 422, "invalid_body"),
        ({"name": "a\nb"}, 422, "invalid_body"),
        ({"name": TOO_LONG}, 422, "invalid_body"),
        ({"name": 1}, 422, "invalid_body"),
        ({"name": "a", "scopes": []}, 422, "invalid_body"),
        ({"name": "a", "scopes": ["everything"]}, 422, "invalid_body"),
        ({"name": "a", "scopes": "admin"}, 422, "invalid_body"),
        ({"name": "a", "rate_per_s": 0}, 422, "invalid_body"),
        ({"name": "a", "rate_per_s": 1e9}, 422, "invalid_body"),
        ({"name": "a", "admin": True}, 422, "invalid_body"),
        ({"name": "a" * 20_000}, 413, "body_too_large"),
        (b"{", 400, "not_json"),
        (b"", 400, "not_json"),
        (b"\xff", 400, "not_json"),
        ("text", 415, "unsupported_media_type"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_bad_bodies_create_nothing(
    body: Any, status: int, code: str, serve: Serve, make_key: MakeKey
) -> None:
    """Each has a problem of its own, and no key is stored."""
    headers = with_key(await make_key())
    sent: dict[str, Any] = {"json": body}
    if isinstance(body, bytes):
        sent = {"data": body}
        headers["Content-Type"] = "application/json"
    if isinstance(body, str):
        sent = {"data": body}
    async with serve() as service:
        answer = await service.post("/keys", headers=headers, **sent)
        assert answer.status == status
        assert (await answer.json(content_type=None))["code"] == code
        listed = await (await service.get("/keys", headers=headers)).json()
        assert len(listed["keys"]) == 1


async def status_of(
    service: ClientSession, method: str, path: str, key: str | None
) -> int:
    headers = with_key(key) if key else {}
    async with service.request(method, path, headers=headers) as answer:
        return answer.status


@on_sqlite
async def test_an_outage_ends_requests_that_need_a_key_only(
    serve: Serve, make_key: MakeKey, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace they get 503; others are answered, with a key too."""
    failed = []

    async def fail(_database: Database) -> None:
        failed.append(1)
        raise StorageUnavailable("away")

    key = await make_key(SCOPES)
    away = {"enabled": True, "key_ttl_s": 0.01, "key_grace_s": 0.0}
    async with serve(events=away, auth={"require": ("metrics:read",)}) as service:
        assert await status_of(service, "GET", "/metrics", key) == 200
        with monkeypatch.context() as patched:
            patched.setattr(cached_keys, "list_keys", fail)
            await until(lambda: bool(failed))
            for path in ("/metrics", "/events", "/keys"):
                assert await status_of(service, "GET", path, key) == 503
                assert await status_of(service, "GET", path, None) == 401
            for given in (None, key, "cu_wrong"):
                assert await status_of(service, "GET", "/usage", given) == 200
                assert await status_of(service, "GET", "/usage/plans", given) == 200


async def test_an_id_that_cannot_be_stored_is_not_found(
    serve: Serve, make_key: MakeKey
) -> None:
    """Such as one with a zero byte, at which PostgreSQL fails; a name is no id."""
    admin = await make_key(["admin"])
    async with serve() as service:
        for each in ("shop", "%00", "%ff", "a%00b", "x" * 3_000):
            url = URL(f"/keys/{each}", encoded=True)
            async with service.delete(url, headers=with_key(admin)) as answer:
                problem = await answer.json(content_type=None)
            assert (answer.status, problem["code"]) == (404, "key_not_found")
            assert problem["detail"].startswith("no valid key has the id '")
