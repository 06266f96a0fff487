"""Generated requests get equal answers from the fast path and by the ordinary way."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from tests.clock import Clock, drive_periods
from tests.conftest import MakeSettings, message
from tests.patience import GIVE_UP_S
from tests.server.repeating import VIN, Peer, Repeating, repeating

SOAK_S: Final = float(os.environ.get("SOAK_S", "0"))
"""Seconds of `make soak`, which sets it: more requests, and not the same each time."""
EXAMPLES: Final = 150
REPEATS: Final = 3
"""The first request is parsed by both servers, the others by one of them."""

GENERATED_ID: Final = re.compile(rb"\b[0-9a-f]{32}\b")
OF_THE_MOMENT: Final = (
    (re.compile(rb"(?<=\r\nDate: )[^\r]*"), b""),
    # Each server takes tokens of the same clients.
    (re.compile(rb'(?<=\r\nRateLimit: "default")[^\r]*'), b""),
)

targets = st.sampled_from(
    [
        *["/usage"] * 4,
        "/v1/usage",
        "/usage?plan=text-rules",
        "/usage?limit=1",
        "/usage/",
        f"/vehicles/lookup?vin={VIN}",
        f"/vehicles/lookup?vin={VIN.lower()}",
        f"/vehicles/lookup?vin={VIN}&vin={VIN}",
        "http://a.test/usage",
        "/%75sage",
        "*",
    ]
)
request_lines = st.one_of(
    targets.map(lambda target: f"GET {target} HTTP/1.1"),
    st.sampled_from(
        [
            "GET /usage HTTP/1.0",
            "HEAD /usage HTTP/1.1",
            "OPTIONS /usage HTTP/1.1",
            "CONNECT /usage HTTP/1.1",
            "get /usage HTTP/1.1",
            "GET  /usage HTTP/1.1",
            "GET /usage HTTP/1.1 ",
            "GET /usage",
        ]
    ),
)
VALUES: Final = {
    "Accept": ["*/*", "application/json", "text/csv", "text/html", "application/*;q=0"],
    "Accept-Encoding": ["gzip", "zstd", "gzip, zstd;q=0.5", "identity;q=0", "br", ""],
    "Authorization": ["Bearer abc", "Basic YTpi", "Bearer", "bearer  x "],
    "Connection": ["keep-alive", "close", "Upgrade", "keep-alive, close"],
    "Content-Length": ["0", "-1", "x"],
    "Cookie": ["session=abc", "a=b; c=d"],
    "Expect": ["100-continue", "200-ok"],
    "If-Match": ["*", '"x"'],
    "If-None-Match": ["*", '"x"', "TAG", "W/TAG", '"x", TAG', "TAG-zstd", "garbage"],
    "Transfer-Encoding": ["identity"],
    "Upgrade": ["websocket", "h2c"],
    "X-API-Key": ["one", "two", ""],
    "X-Forwarded-For": ["192.0.2.1", "192.0.2.2, 127.0.0.1", "nobody", ""],
    "X-Junk": ["a", "\x00", "é", "a\tb", "a" * 5_000],
    "X-Request-ID": ["one", "two", "not valid", "", "a" * 128, "a" * 129, "é", "a\x0b"],
    "traceparent": [f"00-{'1' * 32}-{'2' * 16}-01", "garbage"],
}
common = st.sampled_from(["X-Request-ID", "If-None-Match", "Accept-Encoding", "Accept"])
names = common | st.sampled_from(sorted(VALUES))
spellings: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [str, str, str.lower, str.upper, str.title]
)
separators = st.sampled_from([": ", ": ", ": ", ":", ":  ", " : ", ":\t"])
endings = st.sampled_from(
    ["\r\n", "\r\n", "\r\n", "\r\n", " \r\n", "\n", "\r\n folded\r\n"]
)


@st.composite
def header_lines(draw: st.DrawFn) -> str:
    """Return a header line; most are usual, some are odd, and some break HTTP."""
    name = draw(names)
    value = draw(st.sampled_from(VALUES[name]))
    return draw(spellings)(name) + draw(separators) + value + draw(endings)


usual_lines = st.builds(
    lambda name, spelling, at: (
        f"{spelling(name)}: {VALUES[name][at % len(VALUES[name])]}\r\n"
    ),
    common,
    st.sampled_from([str, str.lower]),
    st.integers(0, 4),
)
hosts = st.sampled_from(
    ["Host: a.test\r\n"] * 8 + ["", "host:a.test\r\n", "Host: a b\r\n"]
)


@st.composite
def heads(draw: st.DrawFn) -> str:
    """Return the head of a request."""
    lines = draw(
        st.lists(usual_lines, max_size=3) | st.lists(header_lines(), max_size=4)
    )
    lines.insert(draw(st.integers(0, len(lines))), draw(hosts))
    return draw(request_lines) + "\r\n" + "".join(lines) + "\r\n"


def comparable(answer: bytes, request: bytes) -> list[bytes]:
    """Return the sorted lines of an answer's head, and its body, without the moment."""
    for pattern, replacement in OF_THE_MOMENT:
        answer = pattern.sub(replacement, answer)
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"/vehicles/" in request:
        # The wall clock may pass a second between two look-ups.
        head = re.sub(rb"(?<=\r\nAge: )\d+", b"", head)
    made = [each for each in GENERATED_ID.findall(head) if each not in request]
    for each in made:
        head, body = head.replace(each, b"ID"), body.replace(each, b"ID")
    status, *lines = head.split(b"\r\n")
    return [status, *sorted(lines), body]


async def exchange(peer: Peer, request: bytes) -> list[list[bytes]]:
    """Send a request several times; return the answers until the connection ends."""
    answers = []
    # Otherwise the server may wait for the rest of a head.
    is_last = not request.endswith(b"\r\n\r\n")
    for _ in range(1 if is_last else REPEATS):
        peer.writer.write(request)
        if is_last:
            peer.writer.write_eof()
        answer = await peer.receive(is_head=request.startswith(b"HEAD "))
        answers.append(comparable(answer, request))
        if not answer or peer.reader.at_eof():
            break
    return answers


@pytest.fixture
async def service(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Repeating]:
    """The service at a fixed age of its snapshot, behind a trusted proxy."""
    drive_periods(monkeypatch, Clock())
    sandbox.sandbox.set_messages([message(n) for n in range(30)])
    vehicles = {"enabled": True, "base_url": sandbox.url + VPIC_PATH, "held_s": 600.0}
    limits = {"rate_per_s": 1e6, "burst": 1_000_000, "trusted_proxies": ["127.0.0.1"]}
    made = settings(
        server={"port": 0, "drain_s": 0.0},
        upstream={"base_url": sandbox.url},
        cache={"ttl_s": 600.0},
        storage={"url": f"sqlite+aiosqlite:///{tmp_path}/vehicles.db"},
        vehicles=vehicles,
        limits=limits,
    )
    async with repeating(made) as service:
        yield service


async def tag_of(service: Repeating) -> str:
    """Return the tag of the snapshot, after the VIN is in memory too."""
    peer = await service.connect(is_ordinary=True)
    look_up = f"GET /vehicles/lookup?vin={VIN} HTTP/1.1\r\nHost: a.test\r\n\r\n"
    await peer.ask(look_up.encode())
    answer = await peer.ask(b"GET /usage HTTP/1.1\r\nHost: a.test\r\n\r\n")
    found = re.search(rb"\r\nETag: (\S+)\r\n", answer, re.IGNORECASE)
    assert found is not None
    return found[1].decode()


async def compare(service: Repeating, tag: str, generated: Sequence[str]) -> None:
    """Assert that both servers answer the same to each of these heads."""
    peers = [await service.connect(is_ordinary=each) for each in (False, True)]
    for each in generated:
        text = each.replace("TAG-zstd", tag[:-1] + '-zstd"').replace("TAG", tag)
        request = text.encode()
        async with asyncio.timeout(GIVE_UP_S):
            ours, theirs = [await exchange(peer, request) for peer in peers]
        assert ours == theirs, request
        if len(ours) < REPEATS or not all(ours[-1][1:]) or peers[0].reader.at_eof():
            break
    for peer in peers:
        peer.writer.transport.abort()
        service.peers.remove(peer)


async def compare_generated(service: Repeating, tag: str, examples: int) -> None:
    """Generate so many lists of heads, and compare the answers to each."""
    drawn: list[list[str]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=not SOAK_S,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(heads(), min_size=1, max_size=3))
    def draw(generated: list[str]) -> None:
        drawn.append(generated)

    draw()
    for generated in drawn:
        await compare(service, tag, generated)


async def test_generated_requests_get_equal_answers(service: Repeating) -> None:
    """Each answer has the same bytes, but for its date, its id and its rate."""
    await compare_generated(service, await tag_of(service), EXAMPLES)
    assert len(service.repeated) >= EXAMPLES // 2
