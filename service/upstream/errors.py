"""What can go wrong with a call to upstream. No error of aiohttp leaves this package.

UpstreamError
├── Unreachable             no whole answer came
│   ├── ConnectFailed       the connection could not be made
│   ├── ConnectionDropped   it was made, and lost
│   └── TryTimedOut         one try took longer than it may
├── UnexpectedStatus        an answer came, with a status that is no success
│   └── ShutOut             the status says that we are not wanted
├── UnusableBody            an answer came whose body cannot be used
│   ├── WrongMediaType      it is of another type than was agreed, such as a page
│   ├── MalformedBody       it is cut off, wrongly encoded, or not JSON
│   ├── BodyTooLarge        it is larger than allowed, once decompressed
│   └── ContractBroken      it is JSON, but not what was agreed
├── BadRequestUrl           the configured address makes no URL to call
├── CircuitOpen             no call was made: upstream is ill and left in peace
└── TooManyWait             no call was made: its turn would come too late
"""

import ssl
from typing import Final

import aiohttp
from aiohttp import http_exceptions


class UpstreamError(Exception):
    """A call to upstream gave nothing that can be used, after `attempts` tries."""

    attempts: int = 1
    retry_after_s: float | None = None

    @property
    def error_type(self) -> str:
        """What logs call it: the status that was answered, else the class."""
        return type(self).__name__


class Unreachable(UpstreamError):
    """No whole answer came."""


class ConnectFailed(Unreachable):
    """The connection could not be made: refused, unknown host, TLS, a proxy."""


class ConnectionDropped(Unreachable):
    """The connection was lost before the answer was whole."""


class TryTimedOut(Unreachable):
    """One try took longer than it may."""


class UnexpectedStatus(UpstreamError):
    """Upstream answered with a status that is no success."""

    def __init__(self, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"upstream answered {status}")
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def error_type(self) -> str:
        return str(self.status)


class ShutOut(UnexpectedStatus):
    """The status says that we are not wanted."""


class UnusableBody(UpstreamError):
    """Upstream answered, but its body cannot be used."""


class WrongMediaType(UnusableBody):
    """The body is of another type than was agreed, such as a page for people."""


class MalformedBody(UnusableBody):
    """The body is cut off, wrongly encoded, or not JSON."""


class BodyTooLarge(UnusableBody):
    """The body is larger than allowed."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")


class ContractBroken(UnusableBody):
    """The body is JSON, but a mandatory field is missing or has the wrong type."""


class BadRequestUrl(UpstreamError):
    """The configured address makes no URL that can be called."""


class CircuitOpen(UpstreamError):
    """No call was made, since too many failed lately; `retry_after_s` says when."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the circuit is open")
        self.retry_after_s: float = retry_after_s


class TooManyWait(UpstreamError):
    """No call was made, since its turn would come too late; it may later."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many calls wait for their turn")
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
    UnicodeError: BadRequestUrl,  # a host that has no IDNA form
    aiohttp.ClientConnectorError: ConnectFailed,
    aiohttp.ServerFingerprintMismatch: ConnectFailed,
    aiohttp.ClientHttpProxyError: ConnectFailed,
    ssl.SSLError: ConnectFailed,
    ssl.CertificateError: ConnectFailed,
    aiohttp.ClientError: ConnectionDropped,
    OSError: ConnectionDropped,
}

FOREIGN: Final = tuple(_TRANSLATIONS)
"""Every foreign error that a call can raise."""


def translate(error: BaseException) -> UpstreamError:
    """Our error for one of aiohttp's: that of the nearest ancestor in the table."""
    for ancestor in type(error).__mro__:
        if ancestor in _TRANSLATIONS:
            return _TRANSLATIONS[ancestor](str(error) or type(error).__name__)
    raise error
