"""Browsers that sign in with a key: the cookie, its life, and forged requests."""

from http.cookies import SimpleCookie
from typing import Any, Final
from unittest.mock import patch

import pytest
from aiohttp import ClientResponse, ClientSession
from itsdangerous import TimestampSigner

from service.keys.store import list_keys, revoke_keys
from service.storage.database import Database
from service.web.sessions import COOKIE
from tests.keys.conftest import MakeKey, Serve, on_sqlite, with_key

ALL: Final = {"require": ("*",)}
SECRET: Final = "a secret that is long enough to use"
VIN: Final = "1XPWD40X1ED215307"
REMOVE: Final = f"/vehicles/remove?vin={VIN}"
PROXY: Final = {"trusted_proxies": ("127.0.0.1",)}


async def sign_in(service: ClientSession, key: str) -> dict[str, Any]:
    """Sign in with a key in the body, and return the facts."""
    async with service.post("/session", json={"key": key}) as answer:
        assert answer.status == 200, await answer.text()
        facts: dict[str, Any] = await answer.json()
        return facts


async def code_of(answer: ClientResponse) -> tuple[int, str]:
    """Return status and code of a problem."""
    return answer.status, (await answer.json(content_type=None))["code"]


@on_sqlite
async def test_a_session_has_the_rights_of_its_key(
    serve: Serve, make_key: MakeKey
) -> None:
    """It reads by the cookie alone; what it changes needs its token too."""
    key = await make_key(["usage:read", "vehicles:manage"])
    async with serve(auth=ALL) as service:
        assert (await service.get("/session")).status == 401
        facts = await sign_in(service, key)
        assert facts["scopes"] == ["usage:read", "vehicles:manage"]
        assert facts["name"] == "shop"
        async with service.get("/session") as answer:
            assert await answer.json() == facts
            assert answer.headers["Cache-Control"] == "no-store"
        assert (await service.get("/usage")).status == 200
        assert await code_of(await service.get("/metrics")) == (403, "forbidden")

        for token in ("", "wrong", "\u00e4", facts["csrf_token"][:-1]):
            headers = {"X-CSRF-Token": token} if token else {}
            for path in (REMOVE, "/session"):
                answer = await service.delete(path, headers=headers)
                assert await code_of(answer) == (403, "csrf_token_missing")
        headers = {"X-CSRF-Token": facts["csrf_token"]}
        assert (await service.delete(REMOVE, headers=headers)).status == 200

        # An invalid key in a header is not replaced by the session.
        wrong = with_key("cu_wrong")
        assert (await service.get("/usage", headers=wrong)).status == 401
        assert (await service.delete("/session", headers=headers)).status == 204
        assert not list(service.cookie_jar)
        assert (await service.get("/usage")).status == 401
        assert (await service.delete("/session")).status == 204


@on_sqlite
@pytest.mark.parametrize("scheme", ["", "http", "https", "https, http"])
@pytest.mark.parametrize("limits", [PROXY, {}], ids=["proxy", "stranger"])
async def test_the_cookie_is_out_of_reach(
    scheme: str, limits: dict[str, Any], serve: Serve, make_key: MakeKey
) -> None:
    """Its attributes keep it from scripts, from other sites, and from plain http."""
    key = await make_key()
    headers = with_key(key) | ({"X-Forwarded-Proto": scheme} if scheme else {})
    async with serve(limits=limits, auth={"session_s": 60.0}) as service:
        async with service.post("/session", headers=headers) as answer:
            cookie = SimpleCookie(answer.headers["Set-Cookie"])[COOKIE]
        assert cookie["httponly"] is True
        assert (cookie["samesite"], cookie["path"]) == ("Strict", "/")
        assert cookie["max-age"] == "60"
        assert bool(cookie["secure"]) is (bool(limits) and scheme.startswith("https"))
        assert key not in cookie.value
        deleted = await service.delete("/session", headers=headers)
        assert deleted.status == 204


@on_sqlite
async def test_a_bad_key_does_not_sign_in(serve: Serve, make_key: MakeKey) -> None:
    """The answer is the same without a key and with a wrong one."""
    await make_key()
    async with serve() as service:
        for sent in (None, {"key": "cu_wrong"}, {"key": ""}):
            answer = await service.post("/session", json=sent)
            assert await code_of(answer) == (401, "unauthorized")
        for body, problem in (
            ({"token": "a"}, (422, "invalid_body")),
            ({"key": "a" * 201}, (422, "invalid_body")),
        ):
            assert await code_of(await service.post("/session", json=body)) == problem
        answer = await service.post("/session", data="key")
        assert await code_of(answer) == (415, "unsupported_media_type")


@on_sqlite
async def test_a_revoked_key_ends_its_sessions(
    serve: Serve, make_key: MakeKey, database: Database
) -> None:
    """The cookie contains the id of a key, which must still be valid."""
    key = await make_key()
    async with serve(events={"enabled": True, "key_ttl_s": 0.0}, auth=ALL) as service:
        await sign_in(service, key)
        assert (await service.get("/usage")).status == 200
        await revoke_keys(database, "shop")
        assert (await service.get("/usage")).status == 401
        assert (await service.get("/session")).status == 401


@on_sqlite
async def test_a_cookie_is_valid_for_its_time_and_its_secret(
    serve: Serve, make_key: MakeKey, database: Database
) -> None:
    """Old, changed and foreign cookies are none; services share what they sign."""
    key = await make_key()
    (stored,) = await list_keys(database)
    auth = ALL | {"session_secret": SECRET, "session_s": 100.0}

    async def status(service: ClientSession, cookie: str) -> int:
        service.cookie_jar.clear()
        headers = {"Cookie": f"{COOKIE}={cookie}"}
        async with service.get("/session", headers=headers) as answer:
            return answer.status

    async with serve(auth=auth) as one, serve(auth=auth) as two:
        await sign_in(one, key)
        cookie = next(iter(one.cookie_jar)).value
        assert stored.id in cookie
        assert [await status(each, cookie) for each in (one, two)] == [200, 200]
        for bad in (cookie[:-1], "x" + cookie, "", "a.b.c", stored.id, "\u00e4.x.y"):
            assert await status(one, bad) == 401
        get_timestamp = TimestampSigner.get_timestamp
        # Clocks of machines differ by seconds; more is an error of one of them.
        for later_s, expected in ((99, 200), (101, 401), (-5, 200), (-100, 401)):
            with patch.object(
                TimestampSigner,
                "get_timestamp",
                lambda self, s=later_s: get_timestamp(self) + s,
            ):
                assert await status(one, cookie) == expected
    async with serve(auth=ALL) as other:
        assert await status(other, cookie) == 401


CROSS_SITE: Final[dict[str, dict[str, str]]] = {
    "site": {"Sec-Fetch-Site": "cross-site"},
    "subdomain": {"Sec-Fetch-Site": "same-site"},
    "foreign": {"Origin": "https://evil.example"},
    "null": {"Origin": "null"},
    "port": {"Origin": "http://127.0.0.1:1"},
    "broken": {"Origin": "http://["},
    "forwarded": {"Origin": "http://us.test", "X-Forwarded-Host": "us.test"},
}


@on_sqlite
@pytest.mark.parametrize("origin", CROSS_SITE)
async def test_other_pages_cannot_change_data(
    origin: str, serve: Serve, make_key: MakeKey
) -> None:
    """A form that another page sends is refused, where no key is needed either."""
    headers = {"Content-Type": "text/plain", **CROSS_SITE[origin]}
    key = await make_key()
    async with serve(auth={"require": ()}) as service:
        for method, path in (
            ("POST", REMOVE),
            ("DELETE", REMOVE),
            ("POST", "/vehicles/lookup"),
            ("POST", "/events"),
            ("POST", "/events/failed/1/replay"),
            ("POST", "/keys"),
            ("DELETE", "/keys/1"),
            ("POST", "/session"),
            ("DELETE", "/session"),
        ):
            answer = await service.request(method, path, headers=headers, data="x")
            assert await code_of(answer) == (403, "cross_origin"), path
        # Reading has no effect, and a page cannot send this header without permission.
        assert (await service.get("/usage", headers=headers)).status == 200
        allowed = headers | with_key(key)
        assert (await service.post(REMOVE, headers=allowed)).status == 200


@on_sqlite
async def test_own_pages_and_programs_may_change_data(
    serve: Serve, make_key: MakeKey
) -> None:
    """Same-origin requests are permitted, also behind a proxy that renames the host."""
    key = await make_key()
    async with serve(auth={"require": ()}, limits=PROXY) as service:
        own = str(service._base_url).rstrip("/")
        for headers in (
            {},
            {"Origin": own},
            {"Origin": own.upper()},
            {"Origin": "https://us.test", "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "https://us.test", "X-Forwarded-Host": "us.test:443"},
            {"Origin": "https://us.test", "X-Forwarded-Host": "us.test"},
            {"Origin": "https://us.test", "Host": "us.test"},
        ):
            assert (await service.post(REMOVE, headers=headers)).status == 200, headers
        beacon = with_key(key) | {"Content-Type": "text/plain"}
        answer = await service.post("/events", data="[]", headers=beacon)
        assert answer.status == 202
        answer = await service.post("/events", data="[]")
        assert answer.status == 401
