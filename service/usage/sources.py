"""Sources of a period's messages: the messages API, or the collected events."""

from collections.abc import Awaitable
from typing import Final, Protocol

from service.upstream.bodies import UpstreamResponse
from service.upstream.client import UpstreamClient
from service.usage.snapshots.spans import Span

PATH: Final = "/messages/current-period"


class MessageSource(Protocol):
    """Fetches the current period's messages as bytes."""

    has_all_spans: bool
    """True if it can fetch each span by itself."""

    def fetch(
        self, known_etag: str | None, span: Span | None = None
    ) -> Awaitable[UpstreamResponse]:
        """Return the messages, without a body if they still have the known ETag.

        The body may have messages outside the span. Raises `UpstreamError`; collected
        messages raise `StorageError` or `ValueError`.
        """


class CollectedBody(Protocol):
    """Reads collected messages as one body; an interface to `events`."""

    async def read(
        self, known: str | None, bounds: tuple[int, int] | None = None
    ) -> tuple[bytearray | None, str]:
        """Return the body and its ETag; no body if the ETag is `known`.

        `bounds` are instants in microseconds, the end exclusive.
        """


class UpstreamMessages:
    """The messages of the messages API."""

    has_all_spans = False

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    def fetch(
        self, known_etag: str | None, span: Span | None = None
    ) -> Awaitable[UpstreamResponse]:
        """Call the messages API, which knows no spans; raises `UpstreamError`."""
        return self._client.fetch(PATH, etag=known_etag)


class EventMessages:
    """The messages that applications have sent to this service as events."""

    has_all_spans = True

    def __init__(self, collected: CollectedBody) -> None:
        self._collected = collected

    async def fetch(
        self, known_etag: str | None, span: Span | None = None
    ) -> UpstreamResponse:
        """Read the database; raises `StorageError` and `ValueError`."""
        bounds = None if span is None else (span.begin, span.end)
        body, etag = await self._collected.read(known_etag, bounds)
        return UpstreamResponse(body, attempts=1, etag=etag)
