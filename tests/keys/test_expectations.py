"""Clients that ask before they send a body."""

import asyncio

import pytest
from aiohttp import ClientSession

from tests.keys.conftest import MakeKey, Serve, on_sqlite
from tests.patience import GIVE_UP_S


async def first_head(service: ClientSession, path: str, key: str, body: bytes) -> bytes:
    """Ask to send a body, send it if the service wants it, and return all heads."""
    url = service._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"X-API-Key: {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Expect: 100-continue",
    )
    try:
        writer.write("\r\n".join((*lines, "", "")).encode())
        async with asyncio.timeout(GIVE_UP_S):
            heads = await reader.readuntil(b"\r\n\r\n")
            if heads.startswith(b"HTTP/1.1 100 "):
                writer.write(body)
                heads += await reader.readuntil(b"\r\n\r\n")
        return heads
    finally:
        writer.close()


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
