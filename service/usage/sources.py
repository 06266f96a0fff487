"""Sources of a period's messages: the messages API, or the events collected here."""

from collections.abc import Awaitable
from typing import Final, Protocol

from service.upstream.client import UpstreamClient, UpstreamResponse

PATH: Final = "/messages/current-period"


class MessageSource(Protocol):
    """Fetches the current period's messages; it does not look into them."""

    def fetch(self, known_etag: str | None) -> Awaitable[UpstreamResponse]:
        """Fetch the messages, without a body where they are still those of the tag.

        Raises `UpstreamError`, or `StorageError` and `ValueError` of collected ones.
        """


class CollectedBody(Protocol):
    """Reads collected messages as one body; the interface to `events`."""

    async def read(self, known: str | None) -> tuple[bytearray | None, str]:
        """Return the body, None where it is still that of `known`, and its tag."""


class UpstreamMessages:
    """The messages of the messages API."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    def fetch(self, known_etag: str | None) -> Awaitable[UpstreamResponse]:
        """Call upstream; raises `UpstreamError`."""
        return self._client.fetch(PATH, etag=known_etag)


class CollectedMessages:
    """The messages that applications have sent to this service."""

    def __init__(self, collected: CollectedBody) -> None:
        self._collected = collected

    async def fetch(self, known_etag: str | None) -> UpstreamResponse:
        """Read the database; raises `StorageError` and `ValueError`."""
        body, etag = await self._collected.read(known_etag)
        return UpstreamResponse(body, attempts=1, etag=etag)
