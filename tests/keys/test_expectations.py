"""Clients that ask before they send a body."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from service.keys.store import digest_of
from tests.keys.conftest import MakeKey, Serve, on_sqlite, with_key
from tests.patience import GIVE_UP_S


class Asking:
    """A client that asks before it sends its body."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Return the next head of the service."""
        async with asyncio.timeout(GIVE_UP_S):
            return await self._reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def asking(
    service: ClientSession, line: str, key: str, *lines: str
) -> AsyncIterator[Asking]:
    """Ask to send a body."""
    url = service._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = (
        f"{line} HTTP/1.1",
        "Host: localhost",
        f"X-API-Key: {key}",
        "Content-Type: application/json",
        "Expect: 100-Continue",
        *lines,
    )
    try:
        writer.write("\r\n".join((*head, "", "")).encode())
        yield Asking(reader, writer)
    finally:
        writer.close()


async def first_head(service: ClientSession, path: str, key: str, body: bytes) -> bytes:
    """Ask to send a body, send it if the service wants it, and return all heads."""
    length = f"Content-Length: {len(body)}"
    async with asking(service, f"POST {path}", key, length) as client:
        heads = await client.head()
        if heads.startswith(b"HTTP/1.1 100 "):
            client.writer.write(body)
            heads += await client.head()
        return heads


@on_sqlite
@pytest.mark.parametrize(
    "path, body, accepted",
    [
        ("/events", b"[]", 202),
        ("/keys", b'{"name": "board"}', 201),
        ("/vehicles/lookup", b'{"vins": ["1XPWD40X1ED215307"]}', 200),
    ],
)
async def test_only_a_client_with_rights_is_asked_for_its_body(
    path: str, body: bytes, accepted: int, serve: Serve, make_key: MakeKey
) -> None:
    """Others get their refusal at once, on a connection that closes afterwards."""
    good, narrow = await make_key(), await make_key(["metrics:read"])
    async with serve(auth={"require": ("*",)}) as service:
        for key, status in (("cu_wrong", 401), (narrow, 403)):
            head = await first_head(service, path, key, body)
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"\r\nConnection: close\r\n" in head
        head = await first_head(service, path, good, body)
        assert head.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 %d " % accepted)
        assert b"\r\nConnection: close\r\n" not in head
        head = await first_head(service, path, good, b" " * 9_000_000)
        assert head.startswith(b"HTTP/1.1 413 ")


@on_sqlite
@pytest.mark.parametrize("length", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_nobody_is_asked_for_a_body_that_nothing_reads(
    length: str, serve: Serve, make_key: MakeKey
) -> None:
    """Neither an unknown path or method, nor an endpoint without a body, wants it."""
    key = await make_key()
    lines = {
        "POST /nowhere": 404,
        "PUT /events": 405,
        "OPTIONS /events": 405,
        "GET /usage": 200,
        "GET /events": 200,
        "GET /dashboard/nowhere.js": 404,
        "POST /events/failed/1/replay": 404,
        "DELETE /keys/1": 404,
        "POST /admin/circuit/nowhere": 404,
    }
    async with serve() as service:
        for line, status in lines.items():
            async with asking(service, line, key, length) as client:
                head = await client.head()
                assert head.startswith(b"HTTP/1.1 %d " % status), line
                assert b"\r\nConnection: close\r\n" in head


@on_sqlite
@pytest.mark.parametrize(
    "path, body",
    [
        ("/events", b"[]"),
        ("/keys", b'{"name": "board"}'),
        ("/vehicles/lookup", b'{"vins": ["1XPWD40X1ED215307"]}'),
        ("/admin/log-level", b'{"level": "info"}'),
    ],
)
async def test_a_key_that_is_revoked_during_the_body_is_refused(
    path: str, body: bytes, serve: Serve, make_key: MakeKey
) -> None:
    """The body of a slow client does not keep its key valid."""
    key, admin = await make_key(), with_key(await make_key(["admin"]))
    length = f"Content-Length: {len(body)}"
    async with (
        serve(auth={"require": ("*",)}) as service,
        asking(service, f"POST {path}", key, length) as client,
    ):
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        client.writer.write(body[:1])
        key_id = digest_of(key).hex()[:12]
        revoked = await service.delete(f"/keys/{key_id}", headers=admin)
        assert revoked.status == 204
        client.writer.write(body[1:])
        assert (await client.head()).startswith(b"HTTP/1.1 401 ")


@on_sqlite
async def test_a_revoked_key_is_no_hindrance_where_none_is_needed(
    serve: Serve, make_key: MakeKey
) -> None:
    """A slow body with a key that is revoked is as one without a key."""
    key, admin = await make_key(), with_key(await make_key(["admin"]))
    body = b'{"vins": ["1XPWD40X1ED215307"]}'
    length = f"Content-Length: {len(body)}"
    async with serve(auth={"require": ()}) as service:
        async with service.get("/events", headers=with_key(key)) as answer:
            assert answer.status == 200
        async with asking(service, "POST /vehicles/lookup", key, length) as client:
            assert (await client.head()).startswith(b"HTTP/1.1 100 ")
            await service.delete(f"/keys/{digest_of(key).hex()[:12]}", headers=admin)
            client.writer.write(body)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
