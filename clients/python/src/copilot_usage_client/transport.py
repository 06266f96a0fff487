"""One request over HTTP, with the standard library."""

from __future__ import annotations

# A child that is forked during the first look-up of a host name would never find it.
import encodings.idna  # noqa: F401
import http.client
import ssl
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""The receipt of a full request with the maximum number of errors has less."""

# A host name that no encoding has raises the last two.
FAILURES: Final = (OSError, http.client.HTTPException, LookupError, ValueError)


class Answer(NamedTuple):
    """An answer of the service; `retry_after` is the header's text."""

    status: int
    body: bytes = b""
    retry_after: str | None = None


class NoAnswer(Exception):
    """The service could not be reached, or its answer was cut off."""


class Target(NamedTuple):
    """The address to which events are sent."""

    scheme: str
    host: str
    port: int | None
    path: str
    url: str


def parse_url(url: str) -> Target:
    """Return the target for the URL of a service; raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"expected an http or https URL with a host, not {url!r}")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("the URL of the service has no user, query or fragment")
    path = parts.path.rstrip("/") + "/events"
    whole = f"{parts.scheme}://{parts.netloc}{path}"
    return Target(parts.scheme, parts.hostname, parts.port, path, whole)


def check_key(key: str) -> str:
    """Return the key; raises `ValueError` if no header may have it."""
    # A key that was read from a file may end with a newline. No message shows the key.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the key is empty, or has characters that no key has")
    return key


class Transport:
    """A connection that is kept between requests; for one thread."""

    def __init__(
        self, target: Target, timeout_s: float, context: ssl.SSLContext | None
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._context = context
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Send a request; raises `NoAnswer`."""
        if self._connection is not None:
            try:
                return self._post(self._connection, body, headers)
            except (http.client.RemoteDisconnected, ConnectionError):
                # The service closes a connection that was idle for long.
                self.close()
            except FAILURES as error:
                raise self._failed(error) from error
        try:
            self._connection = self._connect()
            return self._post(self._connection, body, headers)
        except FAILURES as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _failed(self, error: Exception) -> NoAnswer:
        self.close()
        return NoAnswer(f"{type(error).__name__}: {error}")

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout_s = self._target.host, self._target.port, self._timeout_s
        if self._target.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        return http.client.HTTPSConnection(
            host, port, timeout=timeout_s, context=self._context
        )

    def _post(
        self,
        connection: http.client.HTTPConnection,
        body: bytes,
        headers: dict[str, str],
    ) -> Answer:
        if connection.sock is None:
            connection.connect()
        # A service that refuses a request may answer and close before it has the body.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", self._target.path, body, headers)
        response = connection.getresponse()
        with response:
            answered = response.read(MAX_ANSWER_BYTES)
            retry_after = response.getheader("Retry-After")
            if not response.isclosed() or response.will_close:
                self.close()
            return Answer(response.status, answered, retry_after)
