"""Bodies of an upstream: reading within a limit, a quick check, and decoding."""

import codecs
from typing import Final, NamedTuple, TypeVar

import aiohttp
import msgspec

from service.upstream import errors, lenient_json

T = TypeVar("T")

MAX_WHITE_SPACE_BYTES: Final = 1_024
"""Accepted white space before and after a body."""
JSON_BRACKETS: Final = frozenset({b"{}", b"[]"})


class UpstreamResponse(NamedTuple):
    """A JSON body that is not decoded yet, and the number of tries.

    The body is None if it still matches the `etag` of the call.
    """

    body: bytearray | None
    attempts: int
    etag: str | None = None


async def read_bounded(response: aiohttp.ClientResponse, limit_bytes: int) -> bytearray:
    """Return the decompressed body; raise `BodyTooLarge` once it passes the limit."""
    if (response.content_length or 0) > limit_bytes:
        raise errors.BodyTooLarge(limit_bytes)
    # `Content-Length` counts compressed bytes, so this counts decompressed ones.
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit_bytes:
            raise errors.BodyTooLarge(limit_bytes)
    return body


def check_is_json(body: bytearray) -> None:
    """Raise `MalformedBody` for a truncated body, or one that is not JSON.

    Checks only the first and the last character, in constant time. Removes a byte
    order mark.
    """
    if body.startswith(codecs.BOM_UTF8):
        del body[: len(codecs.BOM_UTF8)]
    begin = bytes(body[:MAX_WHITE_SPACE_BYTES]).lstrip()[:1]
    end = bytes(body[-MAX_WHITE_SPACE_BYTES:]).rstrip()[-1:]
    if begin + end not in JSON_BRACKETS:
        raise errors.MalformedBody("the body is not a complete JSON document")


def decode(response: UpstreamResponse, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode the body of a response, which must have one.

    Raises `ContractBroken` and `MalformedBody`.
    """
    assert response.body is not None  # noqa: S101 - the call had no etag
    try:
        return lenient_json.decode(response.body, decoder)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # JSON that is nested too deeply is complete. It must not count as the truncated
        # body of an overloaded upstream.
        is_json = isinstance(error, msgspec.ValidationError | RecursionError)
        kind = errors.ContractBroken if is_json else errors.MalformedBody
        unusable = kind(str(error))
        unusable.attempts = response.attempts
        raise unusable from error
