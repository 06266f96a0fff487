"""Sources of a period's messages: the messages API, or the collected events."""

from collections.abc import Awaitable
from typing import Final, Protocol

from service.upstream.bodies import UpstreamResponse
from service.upstream.client import UpstreamClient

PATH: Final = "/messages/current-period"


class MessageSource(Protocol):
    """Fetches the current period's messages as bytes."""

    def fetch(self, known_etag: str | None) -> Awaitable[UpstreamResponse]:
        """Return the messages, without a body if they still have the known ETag.

        Raises `UpstreamError`; collected messages raise `StorageError` or `ValueError`.
        """


class CollectedBody(Protocol):
    """Reads collected messages as one body; an interface to `events`."""

    async def read(self, known: str | None) -> tuple[bytearray | None, str]:
        """Return the body and its ETag; no body if the ETag is `known`."""


class UpstreamMessages:
    """The messages of the messages API."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    def fetch(self, known_etag: str | None) -> Awaitable[UpstreamResponse]:
        """Call the messages API; raises `UpstreamError`."""
        return self._client.fetch(PATH, etag=known_etag)


class EventMessages:
    """The messages that applications have sent to this service as events."""

    def __init__(self, collected: CollectedBody) -> None:
        self._collected = collected

    async def fetch(self, known_etag: str | None) -> UpstreamResponse:
        """Read the database; raises `StorageError` and `ValueError`."""
        body, etag = await self._collected.read(known_etag)
        return UpstreamResponse(body, attempts=1, etag=etag)
