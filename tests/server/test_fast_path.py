"""The fast path: repeated requests for cached answers, and everything that ends them.

`test_equal_answers.py` compares its answers with those of the ordinary way.
"""

import asyncio
import gc
import re
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from structlog.typing import EventDict

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.server import fast_path
from service.server.connection_server import ConnectionServer
from service.server.connections import ClientConnection
from service.server.fast_path import Heads, RememberedHead, split_id
from service.server.load_shedding import Shed
from service.usage import repeats
from service.usage.handlers import SNAPSHOTS
from service.vehicles.handlers import LOOKUP_PATH
from service.web.client_identity import Caller
from service.web.http_cache.responses import MAX_BUFFERED_BYTES, prepare_block
from service.web.large_answers import MAX_BLOCK_BYTES
from tests.clock import Clock, LoopTime, drive_periods
from tests.conftest import MakeSettings, always, message
from tests.metric_samples import Read
from tests.patience import GIVE_UP_S
from tests.server.repeating import GET, LOOKUP, VIN, Peer, Repeating, repeating

Until = Callable[[Callable[[], bool]], Awaitable[None]]

TTL_S: Final = 60.0
MESSAGES: Final = 30
TRACED: Final = f"traceparent: 00-{'1' * 32}-{'2' * 16}-01"
"""A request with a trace context takes the ordinary way."""


def adding(*lines: str, to: bytes = GET) -> bytes:
    """Return a request with further header lines."""
    return to[:-2] + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


@pytest.fixture
def options() -> dict[str, Any]:
    """Sections of settings that a test adds to."""
    return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the snapshot cache."""
    clock = Clock()
    drive_periods(monkeypatch, clock)
    return clock


@pytest.fixture
async def service(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    tmp_path: Path,
    clock: Clock,
    options: dict[str, Any],
) -> AsyncIterator[Repeating]:
    """The service, with a fresh snapshot and a VIN in memory."""
    sandbox.sandbox.set_messages([message(n) for n in range(MESSAGES)])
    vehicles = {"enabled": True, "base_url": sandbox.url + VPIC_PATH, "held_s": 60.0}
    sections = {
        "server": {"port": 0, "drain_s": 0.0},
        "upstream": {"base_url": sandbox.url},
        "cache": {"ttl_s": TTL_S},
        "storage": {"url": f"sqlite+aiosqlite:///{tmp_path}/vehicles.db"},
        "vehicles": vehicles,
    }
    named = sections.keys() | options.keys()
    made = {name: sections.get(name, {}) | options.get(name, {}) for name in named}
    async with repeating(settings(**made)) as service:
        peer = await service.connect(is_ordinary=True, host="127.0.0.9")
        for request in (GET, LOOKUP):
            assert (await peer.ask(request)).startswith(b"HTTP/1.1 200")
        yield service


@pytest.fixture
async def peer(service: Repeating) -> Peer:
    """A connection whose requests for the snapshot and for the VIN are remembered."""
    peer = await service.connect()
    await remember(service, peer, GET, LOOKUP)
    return peer


async def remember(service: Repeating, peer: Peer, *requests: bytes) -> None:
    """Send requests until each of them is answered by the fast path."""
    for request in requests:
        before = len(service.repeated)
        async with asyncio.timeout(GIVE_UP_S):
            while len(service.repeated) == before:
                assert await peer.ask(request)
    service.repeated.clear()


def comparable(answer: bytes) -> list[bytes]:
    """Return the lines of an answer, without its id and its date."""
    of_the_moment = (b"X-Request-ID: ", b"Date: ")
    return [x for x in answer.split(b"\r\n") if not x.startswith(of_the_moment)]


# Repetition.


async def test_a_repeated_request_is_not_parsed(service: Repeating, peer: Peer) -> None:
    """Bytes that aiohttp has parsed once are answered at once, on any connection."""
    other = await service.connect()
    for request in (GET, LOOKUP):
        for each in (peer, other, peer):
            assert await each.ask(request) in service.repeated


@pytest.mark.parametrize("request_", [GET, LOOKUP], ids=["usage", "lookup"])
async def test_requests_may_differ_in_their_id(
    service: Repeating, peer: Peer, request_: bytes
) -> None:
    """An id of the client is answered, whatever the one was that was remembered."""
    for name in ("X-Request-ID", "x-request-id", "X-Request-Id"):
        await remember(service, peer, adding(f"{name}: first", to=request_))
        for request_id in ("second", "a" * 128, "0.9_~+/=:-"):
            answer = await peer.ask(adding(f"{name}: {request_id}", to=request_))
            assert answer in service.repeated
            assert f"\r\nX-Request-ID: {request_id}\r\n".encode() in answer


async def test_an_invalid_id_is_replaced(service: Repeating, peer: Peer) -> None:
    """A client whose id is not valid gets a new one."""
    await remember(service, peer, adding("X-Request-ID: valid"))
    for value in ("", "a b", "a" * 129, "cu_key"):
        answer = await peer.ask(adding(f"X-Request-ID: {value}"))
        assert re.search(rb"\r\nX-Request-ID: [0-9a-f]{32}\r\n", answer)


async def test_each_repeated_answer_has_an_id_of_its_own(peer: Peer) -> None:
    """Without an id of the client, each answer gets a new one."""
    answers = {await peer.ask(GET) for _ in range(5)}
    assert len(answers) == 5
    assert len({tuple(comparable(each)) for each in answers}) == 1


ROUTED: Final = [
    *[adding(line) for line in (TRACED, "Connection: close", "Content-Length: 0")],
    *[adding(line) for line in ("Expect: 100-continue", 'If-Match: "a"')],
    adding("Upgrade: h2c"),
    *[GET.replace(b"GET", each) for each in (b"HEAD", b"POST", b"CONNECT", b"get")],
    GET.replace(b"/usage", b"/usage?plan=none"),
]


async def test_some_requests_are_always_routed(service: Repeating) -> None:
    """Requests with a trace, a body or another method are never remembered."""
    for request in ROUTED:
        for _ in range(2):
            peer = await service.connect()
            assert await peer.ask(request)
            await peer.ask(request)
    assert service.repeated == []


# Reads that are more or less than one head.


@pytest.fixture
def connection(service: Repeating, peer: Peer) -> ClientConnection:
    """The service's end of `peer`'s connection."""
    port = peer.writer.get_extra_info("sockname")[1]
    assert service.runner.server is not None
    found = [
        each
        for each in service.runner.server.connections
        if isinstance(each, ClientConnection) and each.peername[1] == port  # type: ignore[index]
    ]
    return found[0]


async def test_a_head_byte_by_byte(
    service: Repeating, peer: Peer, connection: ClientConnection
) -> None:
    """A head in pieces is parsed, and the next whole one is repeated."""
    for at in range(len(GET)):
        connection.data_received(GET[at : at + 1])
    answer = await peer.receive()
    assert answer.startswith(b"HTTP/1.1 200")
    assert service.repeated == []
    assert comparable(await peer.ask(GET)) == comparable(answer)
    assert len(service.repeated) == 1


async def test_a_remembered_head_inside_of_another(
    service: Repeating, peer: Peer, connection: ClientConnection
) -> None:
    """Bytes after a partial head belong to it, also if they are a remembered head."""
    connection.data_received(b"GET /nowhere HTTP/1.1\r\nX-Part: ")
    connection.data_received(GET)
    assert (await peer.receive()).startswith(b"HTTP/1.1 404")
    assert service.repeated == []


async def test_a_remembered_head_as_a_body(
    service: Repeating, peer: Peer, connection: ClientConnection
) -> None:
    """A body of the same bytes as a remembered head is no request."""
    head = f"POST /usage HTTP/1.1\r\nHost: a\r\nContent-Length: {len(GET)}\r\n\r\n"
    connection.data_received(head.encode())
    connection.data_received(GET)
    assert (await peer.receive()).startswith(b"HTTP/1.1 405")
    assert service.repeated == []
    assert (await peer.ask(GET)).startswith(b"HTTP/1.1 200")


async def test_two_heads_in_one_read(
    service: Repeating, peer: Peer, connection: ClientConnection
) -> None:
    """Pipelined requests are answered in order, by the ordinary way."""
    connection.data_received(GET + LOOKUP)
    # Received while the first two are in progress.
    connection.data_received(GET)
    answers = [await peer.receive() for _ in range(3)]
    assert [VIN.encode() in each for each in answers] == [False, True, False]
    assert service.repeated == []
    assert await peer.ask(GET) in service.repeated
    assert VIN.encode() in await peer.ask(LOOKUP)


async def test_a_pipelined_request_is_not_taken_for_the_first(
    service: Repeating, peer: Peer, connection: ClientConnection
) -> None:
    """The bytes of a head are remembered for its own answer only."""
    first, second = adding("X-Case: first", to=LOOKUP), adding("X-Case: second")
    connection.data_received(first)
    connection.data_received(second)
    assert VIN.encode() in await peer.receive()
    assert VIN.encode() not in await peer.receive()
    for _ in range(2):
        assert VIN.encode() in await peer.ask(first)
        assert VIN.encode() not in await peer.ask(second)
    assert len(service.repeated) >= 2


@pytest.mark.parametrize("body", [b"", b"2\r\n{}\r\n"], ids=["empty", "chunk"])
async def test_a_trailer_is_no_header_of_a_later_request(
    service: Repeating, body: bytes
) -> None:
    """Otherwise the same bytes of other clients would get this answer, a 304."""
    chunked = b"POST /usage HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    first, other = await service.connect(), await service.connect()
    for at_once in (True, False):
        trailed = chunked + body + b"0\r\nIf-None-Match: *\r\n\r\n"
        first.writer.write(trailed + GET if at_once else trailed)
        assert (await first.receive()).startswith(b"HTTP/1.1 405")
        assert await first.ask(GET) == b""
        first = await service.connect()
    for _ in range(3):
        assert (await other.ask(GET)).startswith(b"HTTP/1.1 200")


async def test_chunks_without_a_trailer_keep_the_connection(peer: Peer) -> None:
    """The next request is answered, in whatever pieces the end arrives."""
    chunked = b"POST /usage HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for end in (b"0\r\n\r\n", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"):
        assert (await peer.ask(chunked + end)).startswith(b"HTTP/1.1 405")
        assert (await peer.ask(GET)).startswith(b"HTTP/1.1 200")


async def test_the_end_of_the_client_follows_its_request(
    service: Repeating, peer: Peer
) -> None:
    """A client that ends its half right after a remembered head gets its answer."""
    peer.writer.write(GET)
    peer.writer.write_eof()
    assert await peer.receive() in service.repeated
    assert await peer.receive() == b""


# What an answer depends on.


async def test_a_new_snapshot_shows_at_once(
    service: Repeating, sandbox: RunningSandbox, peer: Peer
) -> None:
    """The request after a refresh gets the new snapshot."""
    before = await peer.ask(GET)
    sandbox.sandbox.set_messages([message(n) for n in range(MESSAGES + 1)])
    await service.app[SNAPSHOTS].start_refresh()
    after = await peer.ask(GET)
    assert before.count(b"message_id") == MESSAGES
    assert after.count(b"message_id") == MESSAGES + 1
    assert len(service.repeated) == 2


async def test_a_known_tag_is_compared_with_each_snapshot(
    service: Repeating, sandbox: RunningSandbox, peer: Peer
) -> None:
    """A remembered `If-None-Match` gets 304, and 200 after a change."""
    tag = next(
        line.split(b": ")[1].decode()
        for line in (await peer.ask(GET)).split(b"\r\n")
        if line.lower().startswith(b"etag: ")
    )
    conditional = adding(f"If-None-Match: {tag}")
    await remember(service, peer, conditional)
    assert (await peer.ask(conditional)).startswith(b"HTTP/1.1 304")
    sandbox.sandbox.set_messages([message(n) for n in range(MESSAGES + 1)])
    await service.app[SNAPSHOTS].start_refresh()
    assert (await peer.ask(conditional)).startswith(b"HTTP/1.1 200")
    assert len(service.repeated) == 2


async def test_a_large_snapshot_is_not_repeated(
    service: Repeating, sandbox: RunningSandbox, peer: Peer
) -> None:
    """An answer that has become too large for one block is sent by aiohttp."""
    sandbox.sandbox.set_messages([message(n) for n in range(2_000)])
    await service.app[SNAPSHOTS].start_refresh()
    answer = await peer.ask(GET)
    assert len(answer) > MAX_BLOCK_BYTES
    assert service.repeated == []


async def test_more_kinds_of_requests_than_prepared_answers(
    service: Repeating, peer: Peer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for a further answer, requests take the ordinary way."""
    monkeypatch.setattr(repeats, "MAX_PREPARED", 0)
    clock.pass_s(1.0)
    assert (await peer.ask(GET)).startswith(b"HTTP/1.1 200")
    assert service.repeated == []


async def test_ages_follow_the_clock(peer: Peer, clock: Clock) -> None:
    """`Age` grows by each second, within the time to live."""
    ages = []
    for _ in range(3):
        (age,) = [x for x in (await peer.ask(GET)).split(b"\r\n") if b"Age:" in x]
        ages.append(int(age.split(b": ")[1]))
        clock.pass_s(0.5)
    assert ages == [0, 0, 1]


@pytest.mark.parametrize("options", [{"cache": {"ttl_s": 2.5}}], ids=["fractional"])
async def test_both_ways_answer_the_same_at_each_age(
    service: Repeating, peer: Peer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within a second, if the time to live has a fraction."""
    ordinary = await service.connect(is_ordinary=True)
    # `Date` never changes, so that only the age ends the use of an answer.
    monkeypatch.setattr(repeats, "time", SimpleNamespace(time=lambda: 0.0))
    for _ in range(10):
        repeated = comparable(await peer.ask(GET))
        assert repeated == comparable(await ordinary.ask(GET))
        clock.pass_s(0.25)
    assert len(service.repeated) == 10


async def test_an_age_that_changes_meanwhile_is_used_once(
    peer: Peer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer whose second ends while it is prepared is not used in the next one."""

    def prepare_slowly(*arguments: Any) -> Any:
        block = prepare_block(*arguments)
        clock.pass_s(0.002)
        return block

    monkeypatch.setattr(repeats, "prepare_block", prepare_slowly)
    clock.pass_s(0.999)
    assert b"\r\nAge: 0\r\n" in await peer.ask(GET)
    assert b"\r\nAge: 1\r\n" in await peer.ask(GET)


async def test_two_kinds_of_answers_keep_to_one_second(
    service: Repeating,
    peer: Peer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer that is prepared late does not prolong the use of another one."""
    other = adding("Accept-Encoding: gzip")
    await remember(service, peer, other)

    def prepare_slowly(*arguments: Any) -> Any:
        clock.pass_s(0.002)
        return prepare_block(*arguments)

    clock.pass_s(1.9)
    assert b"\r\nAge: 1\r\n" in await peer.ask(GET)
    clock.pass_s(0.099)
    monkeypatch.setattr(repeats, "prepare_block", prepare_slowly)
    assert await peer.ask(other)
    assert b"\r\nAge: 2\r\n" in await peer.ask(GET)


async def test_a_replaced_snapshot_is_released(
    service: Repeating, sandbox: RunningSandbox, peer: Peer
) -> None:
    """A small snapshot is dropped when a large one, which is not repeated, follows."""
    assert await peer.ask(GET) in service.repeated
    cache = service.app[SNAPSHOTS]
    assert cache.current is not None
    former = weakref.ref(cache.current.snapshot)
    sandbox.sandbox.set_messages([message(n) for n in range(2_000)])
    await cache.start_refresh()
    assert len(await peer.ask(GET)) > MAX_BLOCK_BYTES
    gc.collect()
    assert former() is None


async def test_a_stale_snapshot_is_not_repeated(
    service: Repeating, peer: Peer, clock: Clock
) -> None:
    """After the time to live the ordinary way refreshes; then it is repeated again."""
    clock.pass_s(TTL_S)
    answer = await peer.ask(GET)
    assert service.repeated == []
    assert b"; fwd=stale" in answer
    assert b"; hit" in await peer.ask(GET)
    assert len(service.repeated) == 1


@pytest.mark.parametrize("options", [{"cache": {"stale_while_revalidate_s": TTL_S}}])
async def test_a_stale_answer_is_repeated_while_a_refresh_runs(
    service: Repeating,
    peer: Peer,
    sandbox: RunningSandbox,
    clock: Clock,
    added: Read,
) -> None:
    """The request that starts a refresh is routed; those until its end are not."""
    sandbox.sandbox.faults = always("hang", times=1)
    clock.pass_s(TTL_S)
    first = await peer.ask(GET)
    assert b"; detail=stale" in first
    assert service.repeated == []
    stale = added("copilot_usage_cache_results_total", result="stale")
    assert comparable(await peer.ask(GET)) == comparable(first)
    assert len(service.repeated) == 1
    assert added("copilot_usage_cache_results_total", result="stale") == stale + 1

    cache = service.app[SNAPSHOTS]
    assert cache.refreshing is not None
    cache.refreshing.cancel()
    await asyncio.wait([cache.refreshing])
    assert comparable(await peer.ask(GET)) == comparable(first)
    assert len(service.repeated) == 1
    assert cache.refreshing is not None


@pytest.mark.parametrize("options", [{"cache": {"stale_while_revalidate_s": TTL_S}}])
async def test_an_expired_answer_is_not_repeated(
    service: Repeating, peer: Peer, sandbox: RunningSandbox, clock: Clock
) -> None:
    """A request waits for the running refresh if the answer is too old for others."""
    sandbox.sandbox.faults = always("hang", times=1)
    clock.pass_s(TTL_S)
    await peer.ask(GET)
    await peer.ask(GET)
    assert len(service.repeated) == 1
    clock.pass_s(TTL_S)
    assert service.app[SNAPSHOTS].immediate_answer() is None


async def test_a_removed_vin_is_not_repeated(
    service: Repeating, peer: Peer, sandbox: RunningSandbox
) -> None:
    """After a removal, vPIC is asked, and its new answer is repeated."""
    assert b'"cached_result":true' in await peer.ask(LOOKUP)
    sandbox.sandbox.set_vehicle(VIN, {"Model": "389"})
    target = f"DELETE /vehicles/remove?vin={VIN} HTTP/1.1\r\nHost: a\r\n\r\n"
    assert b"true" in await peer.ask(target.encode())
    assert b'"cached_result":false' in await peer.ask(LOOKUP)
    assert b'"model":"389"' in await peer.ask(LOOKUP)
    assert len(service.repeated) == 2


LIMITED: Final = {"limits": {"rate_per_s": 0.001, "burst": 6}}
TRUSTING: Final = {"limits": {**LIMITED["limits"], "trusted_proxies": ["127.0.0.1"]}}


def remaining(answer: bytes) -> str:
    """Return the rest of a client's tokens, or the status of an answer without."""
    found = answer.partition(b'RateLimit: "default";r=')[2].partition(b";")[0]
    return found.decode() if answer.startswith(b"HTTP/1.1 200") else "refused"


@pytest.mark.parametrize("options", [LIMITED], ids=["limited"])
async def test_each_address_is_charged(service: Repeating) -> None:
    """Clients that send the same bytes from two addresses have two rates."""
    one, other = [await service.connect(host=f"127.0.0.{n}") for n in (2, 3)]
    answers = [await one.ask(GET) for _ in range(8)]
    assert [remaining(each) for each in answers] == [*"543210", "refused", "refused"]
    assert [remaining(await other.ask(GET)) for _ in range(2)] == ["5", "4"]
    assert len(service.repeated) == 5 + 2


@pytest.mark.parametrize("options", [TRUSTING], ids=["proxied"])
async def test_forwarded_addresses_count_behind_trusted_proxies(
    service: Repeating,
) -> None:
    """The same bytes name a client on a proxy's connection, and nobody on others."""
    trusted, stranger = await service.connect(), await service.connect(host="127.0.0.2")
    forwarded = [adding(f"X-Forwarded-For: 192.0.2.{n}") for n in (1, 2)]
    for left in "54":
        for request in forwarded:
            assert remaining(await trusted.ask(request)) == left
    answers = [await stranger.ask(request) for request in forwarded * 2]
    assert [remaining(each) for each in answers] == [*"5432"]
    assert len(service.repeated) >= 4


@pytest.mark.parametrize("options", [LIMITED], ids=["limited"])
async def test_each_credential_is_charged(service: Repeating) -> None:
    """Two keys on one connection have two rates, and one key on two has one."""
    peers = [await service.connect(host=f"127.0.0.{n}") for n in (2, 3)]
    for left in "531":
        answers = [await each.ask(adding("X-API-Key: one")) for each in peers]
        assert remaining(answers[0]) == left
        assert remaining(answers[1]) == str(int(left) - 1)
    assert remaining(await peers[0].ask(adding("X-API-Key: one"))) == "refused"
    assert remaining(await peers[0].ask(adding("X-API-Key: two"))) == "5"


# Logs and metrics.


@pytest.mark.parametrize("request_", [GET, LOOKUP], ids=["usage", "lookup"])
@pytest.mark.usefixtures("peer")
async def test_both_ways_log_the_same(
    service: Repeating, log_entries: list[EventDict], request_: bytes
) -> None:
    """The log lines have equal fields, and differ in their duration only."""
    log_entries.clear()
    for is_ordinary in (True, False):
        peer = await service.connect(is_ordinary=is_ordinary)
        await peer.ask(adding("X-Request-ID: ours", to=request_))
        await peer.ask(adding("X-Request-ID: ours", to=request_))
    lines = [each for each in log_entries if each["event"] == "http.request"]
    assert len(service.repeated) == 1
    assert len(lines) == 4
    assert [each.pop("duration_s") >= 0 for each in lines] == [True] * 4
    assert all(each == lines[0] for each in lines)


@pytest.mark.parametrize("request_", [GET, LOOKUP], ids=["usage", "lookup"])
async def test_repeated_answers_are_counted(
    service: Repeating, peer: Peer, added: Read, request_: bytes
) -> None:
    """Each counts in all metrics as an answer of the ordinary way."""
    path = LOOKUP_PATH if request_ is LOOKUP else "/usage"
    labels = {
        "http_request_method": "GET",
        "http_route": path,
        "http_response_status_code": "200",
    }
    name = "http_server_request_duration_seconds"
    before = added(f"{name}_count", **labels)
    for _ in range(3):
        await peer.ask(request_)
    assert len(service.repeated) == 3
    assert added(f"{name}_count", **labels) - before == 3
    assert added(f"{name}_bucket", **labels, le="+Inf") == before + 3
    domain = path.split("/")[1]
    answers = added("copilot_usage_answers_total", domain=domain, outcome="ok")
    assert answers == before + 3


async def test_repeated_look_ups_are_counted(peer: Peer, added: Read) -> None:
    """A look-up from memory counts as a hit."""
    hits = {"reason": "none", "result": "hit"}
    before = added("copilot_usage_vehicles_lookups_total", **hits)
    await peer.ask(LOOKUP)
    assert added("copilot_usage_vehicles_lookups_total", **hits) == before + 1


# Connections.


async def test_a_client_that_does_not_read_stops_the_answers(
    service: Repeating, peer: Peer, connection: ClientConnection, until: Until
) -> None:
    """Answers that nobody reads fill the buffer to its limit, and no further."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    transport = connection.transport
    assert transport is not None
    async with asyncio.timeout(GIVE_UP_S):
        while not connection.writing_paused:
            connection.data_received(GET)
            await asyncio.sleep(0)
    answered = len(service.repeated)
    for _ in range(20):
        connection.data_received(GET)
        await asyncio.sleep(0)
    assert len(service.repeated) == answered
    limit = MAX_BUFFERED_BYTES + 2 * len(service.repeated[0])
    assert transport.get_write_buffer_size() <= limit
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(answered + 20):
        assert (await peer.receive()).startswith(b"HTTP/1.1 200")
    await until(lambda: connection.is_idle and not connection.writing_paused)
    assert await peer.ask(GET) in service.repeated


KEEPALIVE_S: Final = 1_000.0


@pytest.mark.parametrize("options", [{"server": {"keepalive_s": KEEPALIVE_S}}])
async def test_a_repeated_answer_postpones_the_idle_timeout(
    service: Repeating, peer: Peer, loop_time: LoopTime
) -> None:
    """A connection is closed `keepalive_s` after its last answer, of either way."""
    for _ in range(3):
        await loop_time.pass_s(KEEPALIVE_S * 0.9)
        assert await peer.ask(GET) in service.repeated
    await loop_time.pass_s(KEEPALIVE_S * 1.1)
    # aiohttp's timer may have to run twice.
    await loop_time.pass_s(KEEPALIVE_S * 0.1)
    assert await peer.receive() == b""


@pytest.mark.parametrize("options", [{"server": {"keepalive_s": KEEPALIVE_S}}])
async def test_a_refusal_postpones_the_idle_timeout(
    peer: Peer,
    connection: ClientConnection,
    loop_time: LoopTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client whose requests are shed is not idle."""
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    shed = Shed(refusal, closes=False)
    monkeypatch.setattr(connection._queue, "shed", lambda _data: shed)
    for _ in range(3):
        await loop_time.pass_s(KEEPALIVE_S * 0.9)
        assert await peer.ask(adding("X-New: 1")) == refusal


@pytest.mark.usefixtures("peer")
async def test_the_first_request_may_be_a_repeated_one(
    service: Repeating, loop_time: LoopTime
) -> None:
    """It ends the time limit of the first head, after which nothing is sent."""
    fresh = await service.connect()
    assert await fresh.ask(GET) in service.repeated
    await loop_time.pass_s(service.runner._bounds.header_timeout_s * 1.1)
    assert await fresh.ask(GET) in service.repeated


@pytest.mark.parametrize(
    "options", [{"server": {"drain_s": 100.0, "shutdown_grace_s": 300.0}}]
)
async def test_a_draining_server_repeats_nothing(
    service: Repeating, peer: Peer
) -> None:
    """While the service drains, each connection gets one more answer and is closed."""
    closing = asyncio.create_task(service.runner.cleanup())
    await asyncio.sleep(0)
    fresh = await service.connect()
    for each in (peer, fresh):
        assert b"\r\nConnection: close\r\n" in await each.ask(GET)
        assert await each.receive() == b""
    assert service.repeated == []
    closing.cancel()
    await asyncio.wait([closing])


async def test_a_connection_accepted_just_before_the_drain_closes_too(
    service: Repeating, peer: Peer
) -> None:
    """The event loop may report it only when the drain has begun."""
    assert await peer.ask(GET) in service.repeated
    service.repeated.clear()
    server = service.runner.server
    assert isinstance(server, ConnectionServer)
    protocol = server()
    server.drain()
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: protocol, ours)
    late = Peer(*await asyncio.open_connection(sock=theirs))
    service.peers.append(late)
    assert b"\r\nConnection: close\r\n" in await late.ask(GET)
    assert await late.receive() == b""
    assert service.repeated == []


# Remembered heads.


def meaning() -> RememberedHead:
    """Return the meaning of a head."""
    nobody: Any = None
    return RememberedHead(lambda: None, None, "/", Caller(nobody, None, None, ""))


async def test_heads_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are used stay; of the others, the oldest are forgotten."""
    monkeypatch.setattr(fast_path, "MAX_HEADS", 10)
    heads, used = Heads[RememberedHead](), meaning()
    heads.put(b"used", used)
    for number in range(1_000):
        heads.put(b"%d" % number, meaning())
        assert heads.find(b"used") is used
        assert len(heads) <= 20
    assert heads.find(b"999") is not None
    assert heads.find(b"900") is None


async def test_heads_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long heads displace others sooner."""
    monkeypatch.setattr(fast_path, "MAX_BYTES", 1_000)
    heads = Heads[RememberedHead]()
    for number in range(100):
        heads.put(b"%0300d" % number, meaning())
        assert len(heads) <= 6


async def test_unused_heads_are_forgotten_in_time(loop_time: LoopTime) -> None:
    """A head that is not used for two rotations is dropped."""
    heads = Heads[RememberedHead]()
    heads.put(b"used", meaning())
    heads.put(b"unused", meaning())
    for _ in range(3):
        await loop_time.pass_s(1.1 * fast_path.ROTATE_AFTER_S)
        assert heads.find(b"used") is not None
    assert heads.find(b"unused") is None
    assert len(heads) == 1


@pytest.mark.parametrize(
    "line, key, value",
    [
        (b"X-Request-ID: abc", b"X-Request-ID: ", "abc"),
        (b"X-Request-ID: a b", b"X-Request-ID: a b", ""),
        (b"X-Request-ID:abc", b"X-Request-ID:abc", ""),
        (b"X-Request-ID: abc ", b"X-Request-ID: abc ", ""),
        (b"Y-X-Request-ID: abc", b"Y-X-Request-ID: abc", ""),
        (b"A: X-Request-ID: abc", b"A: X-Request-ID: abc", ""),
    ],
)
def test_only_a_usual_valid_id_is_cut_out(line: bytes, key: bytes, value: str) -> None:
    """Other spellings are part of the head, as any other header."""
    head = b"GET / HTTP/1.1\r\n%s\r\nHost: a\r\n\r\n"
    assert split_id(head % line) == (head % key, value)
