"""Where a period's messages come from: the messages API, or what is collected here."""

from typing import Final, Protocol, TypeVar

from service.storage.errors import StorageError
from service.upstream.client import Fetched, Reader, UpstreamClient, decode
from service.upstream.errors import UpstreamError
from service.usage.errors import MessagesUnavailable

T = TypeVar("T")

PATH: Final = "/messages/current-period"


class MessageSource(Protocol):
    """Gives the current period's messages."""

    async def fetch(self, read: Reader[T], etag: str | None) -> Fetched[T]:
        """What `read` makes of the messages as upstream's JSON body.

        The value is None where they are still those of `etag`. Raises
        `MessagesUnavailable`.
        """


class CollectedBody(Protocol):
    """Messages kept here, as one body; the interface to `events`."""

    async def read(self, known: str | None) -> tuple[bytearray | None, str]:
        """The body, None where it is still that of the tag `known`, and its tag."""


class UpstreamMessages:
    """The messages API's."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    async def fetch(self, read: Reader[T], etag: str | None) -> Fetched[T]:
        """Ask upstream; raises `MessagesUnavailable`."""
        try:
            return await self._client.fetch(PATH, read, etag=etag)
        except UpstreamError as error:
            raise MessagesUnavailable(
                str(error), retry_after_s=error.retry_after_s
            ) from error


class CollectedMessages:
    """Those that applications have sent to this service."""

    def __init__(self, collected: CollectedBody) -> None:
        self._collected = collected

    async def fetch(self, read: Reader[T], etag: str | None) -> Fetched[T]:
        """Read what is kept; raises `MessagesUnavailable`."""
        try:
            body, tag = await self._collected.read(etag)
            value = None if body is None else await decode(body, read)
        except (StorageError, UpstreamError, ValueError, RecursionError) as error:
            raise MessagesUnavailable(str(error)) from error
        return Fetched(value, attempts=1, etag=tag)
