"""Every fault as a client sees it over a real socket, and when each one strikes."""

import asyncio
import gzip
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from aiohttp import (
    ClientOSError,
    ClientPayloadError,
    ClientSession,
    ServerDisconnectedError,
)
from msgspec.structs import replace

from service.sandbox.faults import FAULTS, FaultDraw, pack_spaces
from service.sandbox.options import SWITCHES, Faults, SandboxOptions
from service.sandbox.server import RunningSandbox
from tests.sandbox.conftest import impatient

MESSAGES = "/messages/current-period"
REPORT = "/reports/7"
REPORT_BODY = b'{"id":7}'
MIB = 1024 * 1024

Settle = Callable[[RunningSandbox], Awaitable[None]]


@pytest.fixture(autouse=True)
def _known_report(running: RunningSandbox) -> None:
    running.sandbox.set_report(7, REPORT_BODY)


async def status_of(session: ClientSession, path: str = REPORT) -> int:
    async with session.get(path, allow_redirects=False) as response:
        await response.read()
        return response.status


def test_the_faults_of_any_upstream_come_first() -> None:
    """The faults played everywhere are the first switches of `Faults`, in order."""
    assert tuple(FAULTS) == SWITCHES[: len(FAULTS)]


@pytest.mark.parametrize("path", [MESSAGES, REPORT, "/reports/unknown"])
@pytest.mark.parametrize(
    "faults, expected",
    [
        (Faults(not_found=1), (404, None)),
        (Faults(too_many_requests=1), (429, "1")),
        (Faults(too_many_requests=1, retry_after="120"), (429, "120")),
        (Faults(too_many_requests=1, retry_after=""), (429, None)),
        (Faults(server_error=1), (500, None)),
        (Faults(unavailable=1), (503, "1")),
        (Faults(unavailable=1, retry_after="soon"), (503, "soon")),
        (Faults(unavailable=1, retry_after=""), (503, None)),
    ],
    ids=["404", "429", "429 long", "429 bare", "500", "503", "503 odd", "503 bare"],
)
async def test_statuses(
    running: RunningSandbox,
    session: ClientSession,
    path: str,
    faults: Faults,
    expected: tuple[int, str | None],
) -> None:
    """A fault of status answers it with JSON, 429 and 503 with `Retry-After`."""
    running.sandbox.faults = faults
    async with session.get(path) as response:
        assert (response.status, response.headers.get("Retry-After")) == expected
        assert (await response.json()).keys() == {"error"}


async def test_reset_breaks_the_connection(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The client gets no byte of an answer, only a broken connection."""
    running.sandbox.faults = Faults(reset=1)
    with pytest.raises((ClientOSError, ServerDisconnectedError)):
        await session.get(REPORT)


async def test_reset_is_a_real_one(running: RunningSandbox) -> None:
    """What arrives is RST, not an orderly end."""
    running.sandbox.faults = Faults(reset=1)
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /reports/7 HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert running.sandbox.calls == {REPORT: 1}


async def test_hang_lasts_until_the_client_leaves(
    running: RunningSandbox, session: ClientSession, settle: Settle
) -> None:
    """No answer comes; once the client has left nothing is in flight."""
    running.sandbox.faults = Faults(hang=1, path="/reports")
    with pytest.raises(TimeoutError):
        async with impatient(running):
            await session.get(REPORT)
    await settle(running)
    assert running.sandbox.calls[REPORT] == 1


async def test_slow_drip_sends_the_sound_body_in_many_pieces(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The body is whole and right, and came bit by bit."""
    running.sandbox.faults = Faults(slow_drip=1, times=1)
    async with session.get(REPORT) as response:
        assert response.status == 200
        pieces = [piece async for piece in response.content.iter_any()]
    assert b"".join(pieces) == REPORT_BODY
    assert len(pieces) > 1
    assert await status_of(session) == 200


async def test_slow_drip_keeps_the_status(
    running: RunningSandbox, session: ClientSession
) -> None:
    """An unknown report stays a 404 though it drips."""
    running.sandbox.faults = Faults(slow_drip=1)
    async with session.get("/reports/unknown") as response:
        assert response.status == 404


async def test_truncated_promises_more_than_it_sends(
    running: RunningSandbox, session: ClientSession
) -> None:
    """`Content-Length` is the whole body's, half of it comes, then the end."""
    running.sandbox.faults = Faults(truncated=1)
    async with session.get(REPORT) as response:
        assert response.content_length == len(REPORT_BODY)
        with pytest.raises(ClientPayloadError):
            await response.read()


MANDATORY = {"id": int, "name": str, "credit_cost": int}
MANDATORY_OF_MESSAGES = {"id": int, "text": str, "timestamp": str}


def faults_of(thing: dict[str, Any], mandatory: dict[str, type]) -> list[str]:
    return [
        f"{name} {'wrong' if name in thing else 'missing'}"
        for name, kind in mandatory.items()
        if type(thing.get(name)) is not kind
    ]


@pytest.mark.parametrize(
    "faults, of_report, of_message",
    [
        (Faults(wrong_type=1), ["credit_cost wrong"], ["text wrong"]),
        (Faults(missing_field=1), ["credit_cost missing"], ["timestamp missing"]),
    ],
    ids=["wrong_type", "missing_field"],
)
async def test_one_mandatory_field_is_spoilt(
    running: RunningSandbox,
    session: ClientSession,
    faults: Faults,
    of_report: list[str],
    of_message: list[str],
) -> None:
    """All is sound but one field of the report, and of one message of several."""
    running.sandbox.faults = faults
    async with session.get(REPORT) as response:
        assert faults_of(await response.json(), MANDATORY) == of_report
    async with session.get(MESSAGES) as response:
        assert response.status == 200
        sound, spoilt = (await response.json())["messages"]
    assert faults_of(sound, MANDATORY_OF_MESSAGES) == []
    assert faults_of(spoilt, MANDATORY_OF_MESSAGES) == of_message


async def test_html_comes_with_200(
    running: RunningSandbox, session: ClientSession
) -> None:
    """A page of HTML stands where JSON should."""
    running.sandbox.faults = Faults(html=1)
    async with session.get(MESSAGES) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert (await response.text()).startswith("<!DOCTYPE html>")


async def test_gzip_bomb_is_small_on_the_wire(running: RunningSandbox) -> None:
    """Under 2 MiB travel, and say of themselves that they unpack to 1 GiB."""
    running.sandbox.faults = Faults(gzip_bomb=1)
    async with (
        ClientSession(running.url, auto_decompress=False) as session,
        session.get(REPORT) as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        wire = await response.read()
    assert len(wire) < 2 * MIB
    assert int.from_bytes(wire[-4:], "little") == 1024 * MIB
    unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(wire, 32 * MIB)
    assert unpacked == b" " * 32 * MIB


async def test_gzip_bomb_goes_off_in_an_unwary_client(
    running: RunningSandbox, session: ClientSession
) -> None:
    """A client that unpacks as it reads gets many times what travelled."""
    running.sandbox.faults = Faults(gzip_bomb=1)
    async with session.get(REPORT) as response:
        assert len(await response.content.readexactly(8 * MIB)) == 8 * MIB
        response.close()


def test_gzip_bomb_is_sound_gzip() -> None:
    """Header, blocks and checksum hold together, so only its size is wrong."""
    assert gzip.decompress(pack_spaces(3)) == b" " * 3 * MIB


async def test_redirect_leads_elsewhere_on_the_same_server(
    running: RunningSandbox, session: ClientSession
) -> None:
    """302 names another path, and who follows it gets the sound answer."""
    running.sandbox.faults = Faults(redirect=1)
    async with session.get(REPORT, allow_redirects=False) as response:
        assert response.status == 302
        assert response.headers["Location"] == "/elsewhere/reports/7"
    async with session.get(REPORT) as response:
        assert await response.read() == REPORT_BODY
    assert running.sandbox.calls == {REPORT: 2, "/elsewhere/reports/7": 1}


async def test_huge_body_goes_on_and_stops_with_the_client(
    running: RunningSandbox, session: ClientSession, settle: Settle
) -> None:
    """Any number of bytes can be read, no length is told, and leaving ends it."""
    running.sandbox.faults = Faults(huge_body=1, path="/messages")
    async with session.get(MESSAGES) as response:
        assert response.content_length is None
        assert len(await response.content.readexactly(32 * MIB)) == 32 * MIB
        response.close()
    await settle(running)


async def test_path_chooses_what_is_faulted(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Only paths that start with `path` meet the fault."""
    running.sandbox.faults = Faults(server_error=1, path="/reports")
    assert await status_of(session, REPORT) == 500
    assert await status_of(session, MESSAGES) == 200


async def test_times_ends_the_fault(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The first `times` matching requests are faulted, then all is well again."""
    running.sandbox.faults = Faults(unavailable=1, path="/reports", times=2)
    assert await status_of(session, MESSAGES) == 200
    assert [await status_of(session) for _ in range(4)] == [503, 503, 200, 200]
    assert running.sandbox.calls == {MESSAGES: 1, REPORT: 4}


async def test_setting_faults_begins_their_times_anew(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The same faults set again strike again; other options leave them alone."""
    sandbox = running.sandbox
    sandbox.faults = once = Faults(unavailable=1, times=1)
    assert [await status_of(session) for _ in range(2)] == [503, 200]
    sandbox.options = replace(sandbox.options, latency_ms=0.1)
    assert await status_of(session) == 200
    sandbox.faults = once
    assert [await status_of(session) for _ in range(2)] == [503, 200]
    sandbox.options = replace(sandbox.options, faults=Faults(not_found=1))
    assert sandbox.faults == Faults(not_found=1)
    assert await status_of(session) == 404


async def test_faults_come_before_the_error_rate(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Where both would strike, the fault decides."""
    running.sandbox.options = SandboxOptions(
        error_rate=1, faults=Faults(not_found=1, path="/reports")
    )
    assert await status_of(session, REPORT) == 404
    assert await status_of(session, MESSAGES) == 500


@pytest.mark.parametrize(
    "faults, expected",
    [
        (Faults(), {None: 1000}),
        (Faults(hang=1), {"hang": 1000}),
        (Faults(html=1, reset=1), {"reset": 1000}),
    ],
    ids=["none", "one", "first of two"],
)
def test_certain_draws(faults: Faults, expected: dict[str | None, int]) -> None:
    """0 never strikes, 1 always, and the earlier switch goes first."""
    assert drawn(faults) == expected


def test_uncertain_draws() -> None:
    """Probabilities between strike about that often, side by side."""
    counts = drawn(Faults(not_found=0.2, html=0.5))
    assert counts.keys() == {None, "not_found", "html"}
    assert 150 < counts["not_found"] < 250
    assert 350 < counts["html"] < 450


def drawn(faults: Faults) -> Counter[str | None]:
    """Count what 1,000 draws give, by the fault's name."""
    draw = FaultDraw(faults, Random(1))
    found = [draw.draw(REPORT) for _ in range(1000)]
    names = {fault: name for name, fault in FAULTS.items()}
    return Counter(fault and names[fault] for fault in found)
