"""The errors of upstream: every foreign one becomes ours."""

import socket
import ssl
from types import ModuleType

import pytest
from aiohttp import client_exceptions, http_exceptions

from service.upstream import errors
from service.upstream.client import translated

EXPECTED = {
    errors.ConnectFailed: """
        ClientConnectorError ClientConnectorDNSError ClientConnectorSSLError
        ClientConnectorCertificateError ClientSSLError ClientProxyConnectionError
        ClientHttpProxyError UnixClientConnectorError ServerFingerprintMismatch
        SSLError SSLCertVerificationError SSLZeroReturnError SSLWantReadError
        SSLWantWriteError SSLSyscallError SSLEOFError""",
    errors.ConnectionDropped: """
        ClientError ClientConnectionError ClientConnectionResetError ClientOSError
        ClientResponseError TooManyRedirects WSServerHandshakeError
        ServerConnectionError ServerDisconnectedError UploadAbortedError
        HttpProcessingError BadHttpMessage HttpBadRequest LineTooLong InvalidHeader
        BadStatusLine BadHttpMethod InvalidURLError
        OSError BlockingIOError ChildProcessError ConnectionError BrokenPipeError
        ConnectionAbortedError ConnectionRefusedError ConnectionResetError
        FileExistsError FileNotFoundError InterruptedError IsADirectoryError
        NotADirectoryError PermissionError ProcessLookupError herror gaierror""",
    errors.TryTimedOut: """
        ServerTimeoutError ConnectionTimeoutError SocketTimeoutError TimeoutError""",
    errors.MalformedBody: """
        ClientPayloadError ContentTypeError WSMessageTypeError
        PayloadEncodingError ContentEncodingError TransferEncodingError
        ContentLengthError DecompressSizeError""",
    errors.BadRequestUrl: """
        InvalidURL InvalidUrlClientError NonHttpUrlClientError RedirectClientError
        InvalidUrlRedirectClientError NonHttpUrlRedirectClientError
        UnicodeError UnicodeDecodeError UnicodeEncodeError UnicodeTranslateError""",
}
OURS_BY_NAME = {
    name: ours for ours, names in EXPECTED.items() for name in names.split()
}


def exceptions_of(module: ModuleType) -> set[type[BaseException]]:
    """The exceptions that a module defines itself."""
    return {
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseException)
        and value.__module__ == module.__name__
    }


def descendants(kind: type[BaseException]) -> set[type[BaseException]]:
    """A class with all that the language and its sockets derive from it."""
    children = [
        child
        for child in kind.__subclasses__()
        if child.__module__ in {"builtins", "socket", "ssl", "encodings.idna"}
    ]
    return {kind}.union(*map(descendants, children))


def sample(kind: type[BaseException]) -> BaseException:
    """An error of a class derived from `kind`, which needs no arguments."""
    blank = {"__init__": lambda self: None, "__str__": lambda self: ""}
    error = type(f"Sample{kind.__name__}", (kind,), blank)()
    assert isinstance(error, BaseException)
    return error


FOREIGN = sorted(
    exceptions_of(client_exceptions)
    | exceptions_of(http_exceptions)
    | descendants(OSError)
    | descendants(UnicodeError)
    | {socket.gaierror, ssl.SSLError},
    key=lambda kind: kind.__name__,
)


def test_every_foreign_error_is_translated() -> None:
    """Each exception of aiohttp and the sockets is caught, as the error meant here."""
    assert OURS_BY_NAME.keys() == {kind.__name__ for kind in FOREIGN}
    for kind in FOREIGN:
        cause = sample(kind)
        with pytest.raises(errors.UpstreamError) as raised, translated():
            raise cause

        assert type(raised.value) is OURS_BY_NAME[kind.__name__], kind
        assert raised.value.__cause__ is cause


def test_an_error_without_a_text_gets_its_class_as_text() -> None:
    """A log never shows an error that says nothing."""
    assert str(errors.translate(TimeoutError())) == "TimeoutError"
    assert str(errors.translate(OSError("gone"))) == "gone"


def test_what_is_no_error_of_a_call_stays_as_it_is() -> None:
    """A mistake of ours is not disguised as a failure of upstream."""
    mistake = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError) as raised:
        errors.translate(mistake)

    assert raised.value is mistake
    assert not isinstance(mistake, errors.FOREIGN)
