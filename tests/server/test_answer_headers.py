"""Headers that every answer has, or must not have, as bytes on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.server.runner import listening
from tests.conftest import MakeSettings, message
from tests.patience import GIVE_UP_S

MESSAGES: Final = 2_000
"""A period whose answer is sent in slices."""
GET: Final = b"GET %s HTTP/1.1\r\nHost: a.test\r\n%s\r\n"


@pytest.fixture
async def port(settings: MakeSettings, sandbox: RunningSandbox) -> AsyncIterator[int]:
    """A service whose headers must arrive soon."""
    sandbox.sandbox.set_messages([message(number) for number in range(MESSAGES)])
    made = settings(
        server={"port": 0, "drain_s": 0.0, "header_timeout_s": 0.3},
        cache={"ttl_s": 3_600.0},
        upstream={"base_url": sandbox.url},
    )
    async with listening(create_app(made), made.server) as url:
        yield int(url.rpartition(":")[2])


async def head_of(port: int, request: bytes) -> tuple[int, dict[str, list[str]]]:
    """The status and the fields of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(GIVE_UP_S):
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    finally:
        writer.close()
    fields: dict[str, list[str]] = {}
    for line in filter(None, lines):
        name, _, value = line.partition(": ")
        fields.setdefault(name.lower(), []).append(value)
    return int(status.split()[1]), fields


async def test_answers_name_no_software_and_allow_no_guess(port: int) -> None:
    """Each kind of answer: cached, streamed, refused, redirected, malformed, late."""
    _, first = await head_of(port, GET % (b"/usage", b""))
    etag = first["etag"][0].encode()
    compressed = b"Accept-Encoding: gzip\r\n"
    _, packed = await head_of(port, GET % (b"/usage", compressed))
    known = compressed + b"If-None-Match: %s\r\n" % packed["etag"][0].encode()
    answers = {
        "first": (GET % (b"/usage", b""), 200),
        "fast path": (GET % (b"/usage", compressed), 200),
        "fast path, 304": (GET % (b"/usage", known), 304),
        "304": (GET % (b"/usage?", b"If-None-Match: %s\r\n" % etag), 304),
        "last": (GET % (b"/usage", compressed + b"Connection: close\r\n"), 200),
        "old": (b"GET /usage HTTP/1.0\r\n\r\n", 200),
        "head": (b"HEAD /usage HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        "page": (GET % (b"/usage?limit=2", b""), 200),
        "live": (GET % (b"/health/live", b""), 200),
        "ready": (GET % (b"/health/ready", b""), 200),
        "metrics": (GET % (b"/metrics", b""), 200),
        "documentation": (GET % (b"/docs", b""), 200),
        "redirect": (GET % (b"/dashboard", b""), 308),
        "no path": (GET % (b"/nowhere", b""), 404),
        "no file": (GET % (b"/dashboard/none.js", b""), 404),
        "no method": (b"PUT /usage HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        "no host": (b"GET /usage HTTP/1.1\r\n\r\n", 400),
        "malformed": (b"nonsense\r\n\r\n", 400),
        "long path": (GET % (b"/" + b"a" * 9_000, b""), 414),
        "long field": (GET % (b"/", b"X-A: " + b"a" * 9_000 + b"\r\n"), 431),
        "late": (b"GET /usage HTTP/1.1\r\nHo", 408),
    }
    for name, (request, expected) in answers.items():
        status, fields = await head_of(port, request)

        assert status == expected, name
        assert fields["x-content-type-options"] == ["nosniff"], name
        assert "server" not in fields, name
