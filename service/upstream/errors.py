"""Failures of calls to an upstream. No error of aiohttp leaves this package.

UpstreamError
├── Unreachable             no complete answer was received.
│   ├── ConnectFailed       the connection could not be opened.
│   ├── ConnectionDropped   the connection was lost.
│   └── TryTimedOut         a try took longer than `timeout_s`.
├── UnexpectedStatus        the status is not a success.
│   └── Blocked             the status means that upstream blocks us.
├── UnusableBody            the body cannot be used.
│   ├── WrongMediaType      it has another type than expected, such as HTML.
│   ├── MalformedBody       it is truncated, wrongly encoded, or not JSON.
│   ├── BodyTooLarge        it is larger than allowed, after decompression.
│   └── ContractBroken      it is JSON, but does not match the schema.
├── BadRequestUrl           the configured address is not a URL.
├── AddressRefused          the host has an address that is not public.
└── CircuitOpen             no call was made, after too many failures.
"""

import ssl
from typing import Final

import aiohttp
from aiohttp import http_exceptions


class UpstreamError(Exception):
    """A call to an upstream failed, after `attempts` tries."""

    attempts: int = 1
    retry_after_s: float | None = None

    @property
    def error_type(self) -> str:
        """Name of the error in logs: the status, or the class if there is none."""
        return type(self).__name__


class Unreachable(UpstreamError):
    """No complete answer was received."""


class ConnectFailed(Unreachable):
    """The connection could not be opened: refused, unknown host, TLS, a proxy."""


class ConnectionDropped(Unreachable):
    """The connection was lost before the answer was complete."""


class TryTimedOut(Unreachable):
    """A try took longer than `timeout_s`."""


class UnexpectedStatus(UpstreamError):
    """The status of the answer is not a success."""

    def __init__(self, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"upstream answered {status}")
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def error_type(self) -> str:
        return str(self.status)


class Blocked(UnexpectedStatus):
    """The status means that upstream blocks us."""


class UnusableBody(UpstreamError):
    """The body of the answer cannot be used."""


class WrongMediaType(UnusableBody):
    """The body has another type than expected, such as HTML."""


class MalformedBody(UnusableBody):
    """The body is truncated, wrongly encoded, or not JSON."""


class BodyTooLarge(UnusableBody):
    """The body is larger than allowed."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")


class ContractBroken(UnusableBody):
    """The body is JSON, but a mandatory field is missing or has the wrong type."""


class BadRequestUrl(UpstreamError):
    """The configured address is not a URL."""


class AddressRefused(UpstreamError):
    """The host has an address that is not on the public Internet."""


class CircuitOpen(UpstreamError):
    """No call was made after too many failures; retry after `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the circuit is open")
        self.retry_after_s: float = retry_after_s


_TRANSLATIONS: Final[dict[type[BaseException], type[UpstreamError]]] = {
    aiohttp.ConnectionTimeoutError: TryTimedOut,
    aiohttp.ServerTimeoutError: TryTimedOut,
    TimeoutError: TryTimedOut,
    aiohttp.ClientPayloadError: MalformedBody,
    aiohttp.ContentTypeError: MalformedBody,
    aiohttp.WSMessageTypeError: MalformedBody,
    http_exceptions.PayloadEncodingError: MalformedBody,
    http_exceptions.HttpProcessingError: ConnectionDropped,
    aiohttp.ClientResponseError: ConnectionDropped,
    aiohttp.InvalidURL: BadRequestUrl,
    aiohttp.NonHttpUrlClientError: BadRequestUrl,
    aiohttp.RedirectClientError: BadRequestUrl,
    UnicodeError: BadRequestUrl,  # a host without an IDNA form
    aiohttp.ClientConnectorError: ConnectFailed,
    aiohttp.ServerFingerprintMismatch: ConnectFailed,
    aiohttp.ClientHttpProxyError: ConnectFailed,
    ssl.SSLError: ConnectFailed,
    ssl.CertificateError: ConnectFailed,
    aiohttp.ClientError: ConnectionDropped,
    OSError: ConnectionDropped,
}

FOREIGN: Final = tuple(_TRANSLATIONS)
"""Errors of aiohttp and of the standard library that a call can raise."""


def translate(error: BaseException) -> UpstreamError:
    """Return our error for a foreign one, by its nearest class in the table."""
    for ancestor in type(error).__mro__:
        if ancestor in _TRANSLATIONS:
            return _TRANSLATIONS[ancestor](str(error) or type(error).__name__)
    raise error
