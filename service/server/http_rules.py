"""Rules of HTTP that the parser does not check: version, body, `Host` and `Expect`."""

import re
from ipaddress import IPv6Address
from typing import Final

from aiohttp import HttpVersion, hdrs, web
from multidict import CIMultiDictProxy

from service.web.header_values import joined, split_list
from service.web.problems import (
    EXPECTATION_FAILED,
    HTTP_VERSION_NOT_SUPPORTED,
    REQUEST_REFUSED,
    RequestProblem,
)

CONTINUE: Final = "100-continue"
CHUNKED: Final = "chunked"
MAX_LENGTH_DIGITS: Final = 18
"""The parser takes the largest number of 64 bits for no length at all."""
MAX_KNOWN_HOSTS: Final = 1_024

# RFC 3986 §3.2.2 and RFC 9110 §7.2: an empty value is allowed, white space is not.
_HOST: Final = re.compile(
    r"(?:\[(?P<literal>[^\]]+)\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)"
    r"(?::[0-9]*)?"
)
_FUTURE_ADDRESS: Final = re.compile(r"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+")
_known_hosts: Final[set[str]] = set()


def find_violation(request: web.BaseRequest) -> RequestProblem | None:
    """Return why a request breaks HTTP, or None for a request that may be answered."""
    # Not `request.version`, which caches it: a refusal states our version instead.
    version = request._version
    if version.major != 1:
        supported = "this server supports HTTP/1.1 and HTTP/1.0"
        return RequestProblem(HTTP_VERSION_NOT_SUPPORTED, supported)
    if request.method == hdrs.METH_CONNECT:
        # The parser ends it with its head, and would read a body as further requests.
        return RequestProblem(REQUEST_REFUSED, "this server is no proxy")
    reason = _body_fault(request.headers, version)
    if reason is not None:
        return RequestProblem(REQUEST_REFUSED, reason)
    hosts = request.headers.getall(hdrs.HOST, ())
    if len(hosts) != 1 or hosts[0] not in _known_hosts:
        reason = _host_fault(hosts, version)
        if reason is not None:
            return RequestProblem(REQUEST_REFUSED, reason)
    expect = joined(request.headers, hdrs.EXPECT)
    if expect is not None and set(split_list(expect.lower())) - {CONTINUE}:
        return RequestProblem(EXPECTATION_FAILED, f"the only expectation is {CONTINUE}")
    return None


def _body_fault(headers: CIMultiDictProxy[str], version: HttpVersion) -> str | None:
    """Return why the end of a body is ambiguous (RFC 9112 §6.1)."""
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and not version.minor:
        return "HTTP/1.0 has no transfer coding"
    # The parser decodes no other one, and takes an empty value for none.
    if coding is not None and coding.lower() != CHUNKED:
        return f"the only transfer coding is {CHUNKED}"
    if len(headers.get(hdrs.CONTENT_LENGTH, "")) > MAX_LENGTH_DIGITS:
        return "the body is too long"
    return None


def _host_fault(hosts: tuple[str, ...] | list[str], version: HttpVersion) -> str | None:
    """Return what is wrong with the `Host` fields (RFC 9112 §3.2)."""
    if not hosts:
        # HTTP/1.0 does not know the field.
        return "a request has to have a Host field" if version.minor else None
    if len(hosts) > 1:
        return "a request must not have several Host fields"
    if not _is_host(hosts[0]):
        return "the Host field is not valid"
    if len(_known_hosts) < MAX_KNOWN_HOSTS:
        _known_hosts.add(hosts[0])
    return None


def _is_host(value: str) -> bool:
    """Return whether a value is a host and a port (RFC 3986 §3.2.2 and §3.2.3)."""
    host = _HOST.fullmatch(value)
    if host is None:
        return False
    literal = host["literal"]
    if literal is None or _FUTURE_ADDRESS.fullmatch(literal):
        return True
    try:
        IPv6Address(literal)
    except ValueError:
        return False
    return "%" not in literal  # a zone is only known to the client's machine
