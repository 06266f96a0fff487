"""Raw requests over a socket, and a strategy that makes well-formed and broken ones."""

import errno
import socket
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from hypothesis import strategies as st

from tests.patience import GIVE_UP_S

TARGETS: Final = (
    *("/usage", "/usage?limit=1", "/usage?limit=2.0", "/usage?sort=credits_used:desc"),
    *("/usage?from=2020-01-01&to=2020-02-01", "/usage?cursor=AAAA", "/usage?plan=none"),
    *("/usage/1000", "/usage/..", "/usage/%2e%2e", "/usage/daily?tz=localtime"),
    *("/usage/reports", "/usage/plans", "/v1/usage", "/", "/docs", "/openapi.json"),
    *("/health/live", "/health/ready", "/metrics", "/dashboard/", "/none"),
    *("/usage?a=b", "/usage?limit=1&limit=2", "/usage%00", "/%ff", "//usage", "*"),
    *("http://a.test/usage", "http://", "usage", "/usage#a", "/caf\u00e9", "/a b"),
    "/usage?" + "x" * 9_000,
)
METHODS: Final = (
    "GET",
    "POST",
    "DELETE",
    "OPTIONS",
    "PUT",
    "TRACE",
    "CONNECT",
    "get",
    "X",
)
VERSIONS: Final = ("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/1")
HOSTS: Final = (
    "Host: a.test",
    "Host: a.test:80",
    "Host: [::1]:80",
    "Host: a b",
    "Host:",
)
FIELDS: Final = (
    *("Accept: */*", "Accept: text/csv", "Accept: image/png", "Accept: ;;,"),
    *('Accept: application/json;profile="a;q=0"', "Accept: text/html"),
    *("Accept-Encoding: gzip", "Accept-Encoding: zstd;q=0, gzip", "Accept-Encoding: *"),
    *('If-None-Match: "a"', "If-None-Match: *", "If-None-Match: ,", 'If-Match: "a"'),
    *("If-Match: *", "Range: bytes=0-1", "Expect: x", "Expect: 100-continue"),
    *("X-Request-ID: a b", "X-Request-ID: " + "x" * 200, "traceparent: 00-a-b-c"),
    *("Connection: close", "Connection: keep-alive", "Connection: upgrade"),
    *("Upgrade: websocket", "Authorization: Bearer x", "Authorization: Basic ====="),
    *("Cookie: a=b", "Content-Type: application/json", "Origin: https://b.test"),
    *(
        "X-Forwarded-For: 1.2.3.4, unknown",
        "Bad Header: x",
        ": x",
        "A: \x00",
        " folded",
    ),
)
BODIES: Final = (
    b"",
    b"Content-Length: 0\r\n\r\n",
    b"Content-Length: 2\r\n\r\n{}",
    b"Content-Length: 9\r\n\r\n{}",
    b"Content-Length: 2, 2\r\n\r\n{}",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}",
)
JUNK: Final = (b"\r\n", b"hello\r\n\r\n", b"\x16\x03\x01", b"\x00", b"GET", b"\r\n\r\n")


class RawRequest(NamedTuple):
    """Bytes to send, and the method that they seem to have."""

    method: str
    data: bytes
    is_well_formed: bool
    """A server that follows the standards answers it, and reads on after it."""


def exchange(port: int, pieces: Sequence[bytes]) -> bytes:
    """Send pieces on a connection, end the sending half, and return what comes back.

    Raises `TimeoutError` where the service neither answers nor closes.
    """
    with socket.create_connection(("127.0.0.1", port), GIVE_UP_S) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            # It may have answered and closed before everything was sent.
            if error.errno not in {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}:
                raise
        received = b""
        try:
            while data := connection.recv(65_536):
                received += data
        except ConnectionResetError:
            pass  # it closed with unread bytes of ours: what came before counts
        return received


@st.composite
def raw_requests(draw: st.DrawFn) -> RawRequest:
    """Return a request, of which any part may be wrong."""
    method = draw(st.sampled_from(METHODS))
    target = draw(st.sampled_from(TARGETS))
    version = draw(st.sampled_from(VERSIONS) | st.just("HTTP/1.1"))
    hosts = draw(st.lists(st.sampled_from(HOSTS), max_size=2) | st.just([HOSTS[0]]))
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=4))
    body = draw(st.sampled_from(BODIES) | st.just(b""))
    head = "\r\n".join([f"{method} {target} {version}", *hosts, *fields]) + "\r\n"
    data = head.encode() + (body or b"\r\n")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.sampled_from(JUNK)) + data[place:]
    return RawRequest(method, data, is_well_formed=False)


@st.composite
def good_requests(draw: st.DrawFn) -> RawRequest:
    """Return a request that any server of HTTP/1.1 answers and reads on after."""
    method = draw(st.sampled_from(("GET", "HEAD", "OPTIONS", "POST", "DELETE", "PUT")))
    target = draw(
        st.sampled_from([each for each in TARGETS[:22] if "cursor" not in each])
    )
    good = [each for each in FIELDS[:15] if not each.startswith("Expect")]
    fields = draw(st.lists(st.sampled_from(good), max_size=3, unique=True))
    body = draw(st.sampled_from((b"", BODIES[1], BODIES[2], BODIES[7])))
    lines = [f"{method} {target} HTTP/1.1", HOSTS[0], *fields]
    data = ("\r\n".join(lines) + "\r\n").encode() + (body or b"\r\n")
    return RawRequest(method, data, is_well_formed=True)


@st.composite
def pieces_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Return the same bytes in some pieces, as a network may deliver them."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=3))
    bounds = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]
