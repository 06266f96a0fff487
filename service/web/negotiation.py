"""Content negotiation: media types and content codings (RFC 9110 §12.5)."""

from collections.abc import Sequence
from functools import lru_cache

from service.web.header_values import Weighted, parse_weighted
from service.web.http_cache.encodings import CODINGS, IDENTITY, Coding
from service.web.problems import NOT_ACCEPTABLE, RequestProblem


@lru_cache(maxsize=256)
def choose(accept: str, offered: tuple[str, ...]) -> str:
    """Return the offered media type of the highest quality, the first among equals.

    Raises `RequestProblem` (406) if the client accepts none of them.
    """
    ranges = parse_weighted(accept)
    if not ranges:
        return offered[0]
    quality, best = max(
        ((_quality(media_type, ranges), media_type) for media_type in offered),
        key=lambda rated: rated[0],
    )
    if quality == 0:
        raise RequestProblem(NOT_ACCEPTABLE, f"offered: {', '.join(offered)}")
    return best


def quality_of(coding: str, accept_encoding: str) -> float:
    """Return the quality of a content coding, from 0 (not acceptable) to 1."""
    # Reversed, so that the first of several equal names counts.
    qualities = dict(reversed(parse_weighted(accept_encoding)))
    return qualities.get(coding, qualities.get("*", 0.0))


def _quality(media_type: str, ranges: Sequence[Weighted]) -> float:
    """Return the quality of the most specific range that matches."""
    qualities = dict(reversed(ranges))
    major = media_type.partition("/")[0] + "/*"
    for candidate in (media_type, major, "*/*"):
        if candidate in qualities:
            return qualities[candidate]
    return 0.0


@lru_cache(maxsize=256)
def codings_for(
    accept_encoding: str, offered: tuple[Coding, ...] = CODINGS
) -> tuple[Coding, ...]:
    """Return the acceptable codings by quality, then in the order of `offered`.

    `identity` is always among them: an answer without a coding beats an error (406).
    """
    qualities = {coding: quality_of(coding, accept_encoding) for coding in offered}
    acceptable = [coding for coding, quality in qualities.items() if quality > 0]
    acceptable.sort(key=qualities.__getitem__, reverse=True)
    return tuple(acceptable) if IDENTITY in acceptable else (*acceptable, IDENTITY)
