"""Bodies of an upstream: reading within a limit, a quick check, and decoding."""

import codecs
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import aiohttp
import msgspec

from service.upstream import errors, lenient_json

T = TypeVar("T")

MAX_WHITE_SPACE_BYTES: Final = 1_024
"""Accepted white space before and after a body."""
JSON_BRACKETS: Final = frozenset({b"{}", b"[]"})


class Body(Protocol):
    """A body that grows while it is received, such as a `bytearray`."""

    def __len__(self) -> int:
        """Return the size in bytes."""

    def __iadd__(self, chunk: bytes, /) -> "Body":
        """Append a chunk; the result takes the place of this body."""

    def __getitem__(self, part: slice, /) -> bytes | bytearray:
        """Return some bytes of the begin or of the end."""


NewBody = Callable[[], Body]


class UpstreamResponse(NamedTuple):
    """A JSON body that is not decoded yet, and the number of tries.

    The body is None if it still matches the `etag` of the call.
    """

    body: Any
    """A `Body` of the kind that the client makes, by default a `bytearray`."""
    attempts: int
    etag: str | None = None


async def read_json(
    response: aiohttp.ClientResponse, limit_bytes: int, new_body: NewBody = bytearray
) -> Body:
    """Return the decompressed body of a JSON document.

    Raises `BodyTooLarge` once it passes the limit, and `MalformedBody` for a truncated
    body, or one that is not JSON.
    """
    if (response.content_length or 0) > limit_bytes:
        raise errors.BodyTooLarge(limit_bytes)
    # `Content-Length` counts compressed bytes, so this counts decompressed ones.
    body = new_body()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit_bytes:
                raise errors.BodyTooLarge(limit_bytes)
        if not is_json(body):
            raise errors.MalformedBody("the body is not a complete JSON document")
    except BaseException:
        # The traceback, which has cycles, would keep the body until a full collection.
        del body
        raise
    return body


def is_json(body: Body) -> bool:
    """Return whether a body begins and ends as a JSON document, in constant time."""
    begin = bytes(body[:MAX_WHITE_SPACE_BYTES]).removeprefix(codecs.BOM_UTF8)
    end = bytes(body[-MAX_WHITE_SPACE_BYTES:])
    return begin.lstrip()[:1] + end.rstrip()[-1:] in JSON_BRACKETS


def decode(response: UpstreamResponse, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode the body of a response, which must have one.

    Raises `ContractBroken` and `MalformedBody`.
    """
    assert response.body is not None  # noqa: S101 - the call had no etag
    try:
        return lenient_json.decode(response.body[:], decoder)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # JSON that is nested too deeply is complete. It must not count as the truncated
        # body of an overloaded upstream.
        is_json = isinstance(error, msgspec.ValidationError | RecursionError)
        kind = errors.ContractBroken if is_json else errors.MalformedBody
        unusable = kind(str(error))
        unusable.attempts = response.attempts
        raise unusable from error
