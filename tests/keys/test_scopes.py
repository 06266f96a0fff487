"""Who may do what: each endpoint with and without a key, as the documentation says."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from aiohttp import ClientSession, hdrs

from service.app import create_app
from service.keys.store import add_key
from service.settings import SCOPES, Settings, load
from service.storage.database import Database
from service.web import docs
from service.web.auth import IMPLIED
from service.web.routes import Endpoint
from tests.conftest import MakeSettings
from tests.keys.conftest import MakeKey, Serve, on_sqlite, with_key
from tests.metric_samples import Read

PAGE: Final = Path(__file__).parents[2] / "docs" / "keys.md"
ROW: Final = re.compile(
    r"^\| `([A-Z]+ /\S*)` \| (?:`([\w:-]+)`|none) \|$", re.MULTILINE
)
VIN: Final = "1XPWD40X1ED215307"
LOOKUP: Final = f"/vehicles/lookup?vin={VIN}"
ALL: Final = {"require": ("*",)}
REQUIRES: Final[dict[str, dict[str, Any]]] = {
    "default": {"require": load().settings.auth.require},
    "all": ALL,
    "none": {"require": ()},
}


ALWAYS: Final = {each for each in SCOPES if each.startswith(("events:", "admin"))}
WITH_SETTING: Final[dict[str, set[str]]] = {
    "default": {"vehicles:manage", "usage:manage"},
    "all": set(SCOPES),
    "none": set(),
}
REFUSED: Final = {401, 403}


class Operation(NamedTuple):
    """A method and a path, and what is declared for them."""

    method: str
    path: str
    endpoint: Endpoint

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def operations() -> Iterator[Operation]:
    """Every operation of the application, aliases too, but none of plain files."""
    for route in create_app(load().settings).router.routes():
        endpoint = getattr(route.handler, "__self__", None)
        if isinstance(endpoint, Endpoint) and route.method != "HEAD":
            assert route.resource is not None
            yield Operation(route.method, route.resource.canonical, endpoint)


def requests() -> Iterator[tuple[str, str, str]]:
    """Method, path and scope of every request; HEAD too."""
    for method, path, endpoint in operations():
        for each in (method, "HEAD") if method == "GET" else (method,):
            yield each, path, endpoint.scope or ""


def test_the_table_has_every_endpoint_with_its_scope() -> None:
    """It lists each declared operation, a final slash aside, and no other."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    declared = {str(each): each.endpoint.scope or "" for each in operations()}
    for name in [each for each in declared if each + "/" in declared]:
        assert declared.pop(name + "/") == declared[name]
    assert dict(rows) == declared
    assert len(rows) == len(declared)


async def ask(
    service: ClientSession, method: str, path: str, key: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Return the status, and the problem if there is one."""
    path = path.replace("{message_id}", "1").replace("{", "").replace("}", "")
    headers = with_key(key) if key else {}
    service.cookie_jar.clear()
    async with service.request(method, path, headers=headers) as answer:
        if answer.content_type != "application/problem+json" or method == "HEAD":
            await answer.read()
            return answer.status, {"www": answer.headers.get(hdrs.WWW_AUTHENTICATE)}
        problem = await answer.json(content_type=None)
        return answer.status, problem | {
            "www": answer.headers.get(hdrs.WWW_AUTHENTICATE)
        }


@on_sqlite
@pytest.mark.parametrize("require", REQUIRES)
async def test_each_endpoint_by_key_and_setting(
    require: str, serve: Serve, make_key: MakeKey, added: Read
) -> None:
    """Where a scope is required: 401 without a key, 403 without the scope."""
    having: dict[str, str] = {scope: await make_key([scope]) for scope in SCOPES}
    lacking: dict[str, str] = {
        scope: await make_key(set(SCOPES) - {scope, IMPLIED.get(scope)})
        for scope in SCOPES
    }
    everything = await make_key()
    required = ALWAYS | WITH_SETTING[require]
    refused = Counter[str]()
    async with serve(auth=REQUIRES[require]) as service:
        for method, path, scope in requests():
            if scope not in required:
                for key in (None, "cu_wrong", everything):
                    status, _ = await ask(service, method, path, key)
                    assert path == "/session" or status not in REFUSED, (method, path)
                continue
            refused[scope] += 1
            status, problem = await ask(service, method, path)
            assert (status, problem["www"]) == (401, "Bearer"), (method, path)
            status, problem = await ask(service, method, path, lacking[scope])
            assert status == 403, (method, path)
            assert method == "HEAD" or problem["detail"].endswith(f"scope {scope}")
            status, _ = await ask(service, method, path, having[scope])
            assert status not in REFUSED, (method, path)
    for scope, number in refused.items():
        for reason in ("unauthorized", "forbidden"):
            counted = added(
                "copilot_usage_auth_refused_total", reason=reason, scope=scope
            )
            assert counted == number


@on_sqlite
async def test_read_all_includes_read(serve: Serve, make_key: MakeKey) -> None:
    """Only events:read-all reads the events of other applications."""
    reader = await make_key(["events:read"])
    auditor = await make_key(["events:read-all"])
    async with serve() as service:
        for path in ("/events", "/sessions/1"):
            other = f"{path}?application=bank"
            assert (await ask(service, "GET", path, auditor))[0] in {200, 404}
            assert (await ask(service, "GET", other, auditor))[0] in {200, 404}
            status, problem = await ask(service, "GET", other, reader)
            assert (status, problem["code"]) == (403, "forbidden")
            assert problem["detail"].endswith("events:read-all")


@on_sqlite
@pytest.mark.parametrize("path", ["/usage", "/v1/usage", LOOKUP])
async def test_the_fast_path_checks_keys(
    path: str, serve: Serve, make_key: MakeKey
) -> None:
    """A cached answer needs the same key as any other; no cache gives it to others."""
    reader = await make_key(["usage:read", "vehicles:read"])
    writer = await make_key(["events:write"])
    async with serve(auth=ALL, vehicles={"held_s": 60.0}) as service:
        for _ in range(3):
            for key, expected in (
                (reader, 200),
                (None, 401),
                (writer, 403),
                ("cu_wrong", 401),
                (reader, 200),
            ):
                assert (await ask(service, "GET", path, key))[0] == expected
                assert (await ask(service, "HEAD", path, key))[0] == expected
        async with service.get(path, headers=with_key(reader)) as answer:
            assert answer.headers["Cache-Status"].startswith("copilot-usage; hit")
            cache_control = answer.headers[hdrs.CACHE_CONTROL]
            assert cache_control.startswith(("private, max-age=", "no-store"))
            if cache_control != "no-store":
                varied = answer.headers[hdrs.VARY].split(", ")
                assert {"Authorization", "X-API-Key", "Cookie"} <= set(varied)
    async with serve() as service, service.get(path) as answer:
        assert not answer.headers[hdrs.CACHE_CONTROL].startswith("private")
        assert "Cookie" not in answer.headers.get(hdrs.VARY, "")


@on_sqlite
@pytest.mark.parametrize("path", ["/usage", LOOKUP])
async def test_a_revoked_key_gets_no_repeated_answer(
    path: str, serve: Serve, make_key: MakeKey
) -> None:
    """A revocation takes effect at once, also for requests that are remembered."""
    admin = with_key(await make_key(["admin"]))
    body = {"name": "board", "scopes": ["usage:read", "vehicles:read"]}
    async with serve(auth=ALL, vehicles={"held_s": 60.0}) as service:
        answer = await service.post("/keys", json=body, headers=admin)
        created = await answer.json()
        for _ in range(4):
            assert (await ask(service, "GET", path, created["key"]))[0] == 200
        await service.delete(f"/keys/{created['id']}", headers=admin)
        for _ in range(2):
            assert (await ask(service, "GET", path, created["key"]))[0] == 401


@on_sqlite
@pytest.mark.parametrize("path", ["/usage", LOOKUP])
@pytest.mark.parametrize("require", ["all", "none"])
async def test_a_rate_of_its_own_limits_all_requests_of_a_key(
    path: str, require: str, serve: Serve, make_key: MakeKey
) -> None:
    """Cached answers cost tokens too; other keys and open requests have no limit."""
    # So low that no token returns during the test.
    slow, other = await make_key(rate_per_s=0.001), await make_key()
    vehicles, events = {"held_s": 60.0}, {"key_rate_per_s": 0.001}
    async with serve(
        auth=REQUIRES[require], vehicles=vehicles, events={"enabled": True, **events}
    ) as service:
        for _ in range(5):
            assert (await ask(service, "GET", path, other))[0] == 200
        # Unlike an open endpoint, this one waits until the keys have been read.
        assert (await ask(service, "GET", "/keys", other))[0] == 200
        assert (await ask(service, "GET", path, slow))[0] == 200
        for target in (path, "/metrics", "/events"):
            assert (await ask(service, "GET", target, slow))[0] == 429
        assert (await ask(service, "GET", "/events", other))[0] == 200
        assert (await ask(service, "GET", "/events", other))[0] == 429
        assert (await ask(service, "GET", path, other))[0] == 200
        if require == "none":
            assert (await ask(service, "GET", path))[0] == 200


@on_sqlite
async def test_each_request_waits_for_a_read_without_caching(
    serve: Serve, make_key: MakeKey
) -> None:
    """With key_ttl_s = 0, a revocation by another process is known at once."""
    key, admin = await make_key(["usage:read"]), await make_key(["admin"])
    events = {"enabled": True, "key_ttl_s": 0.0}
    async with serve(auth=ALL, events=events) as service, serve(auth=ALL) as other:
        for _ in range(2):
            assert (await ask(service, "GET", "/usage", key))[0] == 200
        async with other.get("/keys", headers=with_key(admin)) as answer:
            first, _ = (await answer.json())["keys"]
        path = f"/keys/{first['id']}"
        assert (await ask(other, "DELETE", path, admin))[0] == 204
        assert (await ask(service, "GET", "/usage", key))[0] == 401


@on_sqlite
async def test_without_a_database_there_are_no_keys(
    serve: Serve, tmp_path: Path
) -> None:
    """Nothing is opened until a scope needs a key; open endpoints are answered."""
    off = {"enabled": False}
    file = tmp_path / "other.db"
    storage = {"url": f"sqlite+aiosqlite:///{file}"}
    parts = {"events": off, "periods": off, "vehicles": off, "storage": storage}
    async with serve(**parts) as service:
        assert (await ask(service, "GET", "/usage"))[0] == 200
        assert (await ask(service, "GET", "/usage", "cu_wrong"))[0] == 200
        assert (await ask(service, "GET", "/keys"))[0] == 404
        assert not file.exists()
    async with serve(auth=ALL, **parts) as service:
        assert (await ask(service, "GET", "/usage"))[0] == 401
        assert (await ask(service, "GET", "/keys"))[0] == 401
        assert file.exists()


def test_the_document_has_the_keys_of_the_settings(settings: MakeSettings) -> None:
    """Each operation has its scope, and security exactly where a key is needed."""
    enabled = {"enabled": True}
    for require in REQUIRES.values():
        parts = dict.fromkeys(("events", "periods", "vehicles"), enabled)
        document = openapi(settings(auth=require, **parts))
        required = load(options={"auth": require}).settings.auth.required
        for method, path, endpoint in operations():
            operation = document["paths"][path][method.lower()]
            assert operation.get("x-scope") == endpoint.scope
            needed = [name for each in operation.get("security", []) for name in each]
            is_required = endpoint.scope in required
            ways = ["bearer", "key"]
            ways += ["basic"] if endpoint.scope == "events:write" else []
            assert needed == (ways if is_required else []), path
            assert "403" in operation["responses"] or not (
                is_required or method != "GET"
            )


def openapi(settings: Settings) -> dict[str, Any]:
    """Return the document of an application."""
    document: dict[str, Any] = msgspec.json.decode(
        create_app(settings)[docs.DOCUMENTATION].encode()
    )
    return document


@on_sqlite
async def test_a_key_that_may_only_read_repairs_nothing(
    serve: Serve, make_key: MakeKey, database: Database
) -> None:
    """Neither its own failed events nor, with `events:read-all`, those of others."""
    sender = with_key(await make_key(["events:write", "events:read"]))
    readers = [
        await add_key(database, name, ["events:read", "events:read-all"])
        for name in ("shop", "audit")
    ]
    async with serve() as service:
        async with service.post("/events", json={}, headers=sender) as answer:
            assert (await answer.json())["failed"] == 1
        async with service.get("/events/failed", headers=sender) as answer:
            (failed,) = (await answer.json())["failed"]
        for key in readers:
            path = f"/events/failed/{failed['id']}/replay?application=shop"
            async with service.post(path, headers=with_key(key)) as answer:
                assert answer.status == 403
        async with service.get("/events/failed", headers=sender) as answer:
            assert (await answer.json())["failed"] == [failed]
