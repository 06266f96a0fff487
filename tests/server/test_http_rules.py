"""Rules of HTTP that the parser does not check, on requests as they are parsed."""

import pytest
from aiohttp import HttpVersion
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from service.server.http_rules import find_violation

HTTP_1_1 = HttpVersion(1, 1)


def code_of(
    *fields: tuple[str, str], version: HttpVersion = HTTP_1_1, method: str = "GET"
) -> str | None:
    """Return the code of the violation of a request with these fields."""
    headers = CIMultiDict(fields)
    found = find_violation(
        make_mocked_request(method, "/", headers=headers, version=version)
    )
    return found.kind.code if found else None


@pytest.mark.parametrize(
    "host",
    [
        *("a.test", "a.test:80", "a.test:", "", "A_b.test", "192.0.2.1", "x%20y"),
        *("[::1]", "[2001:db8::1]:8000", "[v1.fe80::a+en1]", "a-b.c~d!$&'()*+,;="),
    ],
)
def test_hosts_of_rfc_3986_are_valid(host: str) -> None:
    """Also forms that are rare: an empty one, and future versions of addresses."""
    assert code_of(("Host", host)) is None


@pytest.mark.parametrize(
    "host",
    [
        *("a b", "a,b.test:x", "a/b", "user@a", "a:80:80", "a\tb", "%zz", "é.test"),
        *(
            "[]",
            "[.]",
            "[v]",
            "[1::2::3]",
            "[::1",
            "::1",
            "[fe80::1%25en0]",
            "a:\u0661",
        ),
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    """RFC 9112 §3.2: a server answers them with 400."""
    assert code_of(("Host", host)) == "request_refused"


def test_there_is_one_host() -> None:
    """HTTP/1.0 does not know the field."""
    assert code_of() == "request_refused"
    assert code_of(("Host", "a"), ("Host", "a")) == "request_refused"
    assert code_of(version=HttpVersion(1, 0)) is None


@pytest.mark.parametrize("version", [HttpVersion(2, 0), HttpVersion(0, 9)])
def test_other_versions_are_refused(version: HttpVersion) -> None:
    """What follows in such a request is not known."""
    refused = code_of(("Host", "a"), version=version)
    assert refused == "http_version_not_supported"


@pytest.mark.parametrize(
    "lines, code",
    [
        (["100-continue"], None),
        (["100-Continue"], None),
        (["x"], "expectation_failed"),
        (["100-continue", "x"], "expectation_failed"),
        (["100-continue, x"], "expectation_failed"),
    ],
)
def test_expectations(lines: list[str], code: str | None) -> None:
    """All lines of the field count."""
    assert code_of(("Host", "a"), *(("Expect", line) for line in lines)) == code


@pytest.mark.parametrize(
    "value, code",
    [
        *[("chunked", None), ("Chunked", None)],
        *[(each, "request_refused") for each in ("", "gzip, chunked", "x, chunked")],
    ],
)
def test_transfer_codings(value: str, code: str | None) -> None:
    """RFC 9112 §6.1: no body of another coding is decoded, so it is refused."""
    fields = ("Host", "a"), ("Transfer-Encoding", value)
    assert code_of(*fields) == code
    assert code_of(*fields, version=HttpVersion(1, 0)) == "request_refused"


def test_no_body_is_longer_than_the_parser_can_count() -> None:
    """The largest number of 64 bits means for it that there is no length."""
    length = "9" * 18
    assert code_of(("Host", "a"), ("Content-Length", length)) is None
    assert code_of(("Host", "a"), ("Content-Length", "1" + length)) == "request_refused"


def test_a_tunnel_is_refused() -> None:
    """The parser would read what follows its head as further requests."""
    assert code_of(("Host", "a"), method="CONNECT") == "request_refused"
