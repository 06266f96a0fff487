"""Every fault over a real socket, and the draw of faults."""

import asyncio
import gzip
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from aiohttp import (
    ClientPayloadError,
    ClientSession,
)
from msgspec.structs import replace

from service.sandbox.faults import FAULTS, FaultDraw, pack_spaces
from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from tests.conftest import always

MESSAGES = "/messages/current-period"
REPORT = "/reports/7"
REPORT_BODY = b'{"id":7}'
MIB = 1024 * 1024

UntilIdle = Callable[[RunningSandbox], Awaitable[None]]


@pytest.fixture(autouse=True)
def _known_report(running: RunningSandbox) -> None:
    running.sandbox.set_report(7, REPORT_BODY)


async def status_of(session: ClientSession, path: str = REPORT) -> int:
    async with session.get(path, allow_redirects=False) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("path", [MESSAGES, "/reports/unknown"])
@pytest.mark.parametrize(
    "faults, expected",
    [
        (Faults(not_found=1), (404, None)),
        (Faults(too_many_requests=1), (429, "1")),
        (Faults(too_many_requests=1, retry_after="120"), (429, "120")),
        (Faults(server_error=1), (500, None)),
        (Faults(unavailable=1, retry_after="soon"), (503, "soon")),
        (Faults(unavailable=1, retry_after=""), (503, None)),
    ],
    ids=["404", "429", "429 long", "500", "503 odd", "503 bare"],
)
async def test_statuses(
    running: RunningSandbox,
    session: ClientSession,
    path: str,
    faults: Faults,
    expected: tuple[int, str | None],
) -> None:
    """A status fault answers with JSON, 429 and 503 also with `Retry-After`."""
    running.sandbox.faults = faults
    async with session.get(path) as response:
        assert (response.status, response.headers.get("Retry-After")) == expected
        assert (await response.json()).keys() == {"error"}


async def test_reset_sends_rst(running: RunningSandbox) -> None:
    """The client receives RST, not an orderly end."""
    running.sandbox.faults = Faults(reset=1)
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /reports/7 HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert running.sandbox.calls == {REPORT: 1}


async def test_slow_drip_sends_the_body_in_many_pieces(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The body is complete and correct, and arrives in pieces."""
    running.sandbox.faults = Faults(slow_drip=1, times=1)
    async with session.get(REPORT) as response:
        assert response.status == 200
        pieces = [piece async for piece in response.content.iter_any()]
    assert b"".join(pieces) == REPORT_BODY
    assert len(pieces) > 1
    assert await status_of(session) == 200


async def test_truncated_sends_half_of_its_length(
    running: RunningSandbox, session: ClientSession
) -> None:
    """`Content-Length` is that of the whole body; half of it arrives."""
    running.sandbox.faults = Faults(truncated=1)
    async with session.get(REPORT) as response:
        assert response.content_length == len(REPORT_BODY)
        with pytest.raises(ClientPayloadError):
            await response.read()


@pytest.mark.parametrize(
    "fault, of_message", [("wrong_type", "text"), ("missing_field", "timestamp")]
)
async def test_one_mandatory_field_is_corrupt(
    running: RunningSandbox, session: ClientSession, fault: str, of_message: str
) -> None:
    """A field of the report, and one of one of several messages, are corrupt."""
    running.sandbox.faults = always(fault)
    async with session.get(REPORT) as response:
        assert type((await response.json()).get("credit_cost")) is not int
    async with session.get(MESSAGES) as response:
        valid, corrupt = (await response.json())["messages"]
    assert type(valid[of_message]) is str
    assert type(corrupt.get(of_message)) is not str


async def test_gzip_bomb_is_small_on_the_wire(running: RunningSandbox) -> None:
    """Less than 2 MiB are sent, which unpack to 1 GiB."""
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


def test_gzip_bomb_is_valid_gzip() -> None:
    """Header, blocks and checksum are valid."""
    assert gzip.decompress(pack_spaces(3)) == b" " * 3 * MIB


async def test_redirect_leads_to_another_path(
    running: RunningSandbox, session: ClientSession
) -> None:
    """A client that follows the 302 gets the correct answer."""
    running.sandbox.faults = Faults(redirect=1)
    async with session.get(REPORT, allow_redirects=False) as response:
        assert response.status == 302
        assert response.headers["Location"] == "/elsewhere/reports/7"
    async with session.get(REPORT) as response:
        assert await response.read() == REPORT_BODY
    assert running.sandbox.calls == {REPORT: 2, "/elsewhere/reports/7": 1}


async def test_times_ends_the_fault(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The first `times` matching requests get the fault, later ones do not."""
    running.sandbox.faults = Faults(unavailable=1, path="/reports", times=2)
    assert await status_of(session, MESSAGES) == 200
    assert [await status_of(session) for _ in range(4)] == [503, 503, 200, 200]
    assert running.sandbox.calls == {MESSAGES: 1, REPORT: 4}


async def test_setting_faults_restarts_their_times(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Only setting faults restarts `times`; other options do not."""
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


def test_uncertain_draws() -> None:
    """Each probability gives about its share of requests; 0 gives none."""
    assert drawn(Faults()) == {None: 1000}
    counts = drawn(Faults(not_found=0.2, html=0.5))
    assert counts.keys() == {None, "not_found", "html"}
    assert 150 < counts["not_found"] < 250
    assert 350 < counts["html"] < 450


def drawn(faults: Faults) -> Counter[str | None]:
    """Count 1,000 draws by the name of the fault."""
    draw = FaultDraw(faults, Random(1))
    found = [draw.draw(REPORT) for _ in range(1000)]
    names = {fault: name for name, fault in FAULTS.items()}
    return Counter(fault and names[fault] for fault in found)
