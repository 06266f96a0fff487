"""What a caller accepts: media types and content codings (RFC 9110 §12.5)."""

import math
from collections.abc import Sequence
from functools import lru_cache

from service.usage.encodings import CODINGS, IDENTITY, Coding
from service.web.problems import NOT_ACCEPTABLE, RequestProblem


@lru_cache(maxsize=256)
def choose(accept: str, offered: tuple[str, ...]) -> str:
    """The offered type that the caller likes best, the first among equals.

    Raises `RequestProblem` (406) where the caller accepts none of them.
    """
    ranges = [_parse(part) for part in accept.split(",") if part.strip()]
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
    """How much a caller likes a content coding, from 0 (not at all) to 1."""
    ranges = [_parse(part) for part in accept_encoding.split(",") if part.strip()]
    qualities = dict(reversed(ranges))
    return qualities.get(coding, qualities.get("*", 0.0))


def _parse(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            return media_range, _parse_quality(parameter.removeprefix("q="))
    return media_range, 1.0


def _parse_quality(value: str) -> float:
    try:
        quality = float(value)
    except ValueError:
        return 0.0
    return min(max(quality, 0.0), 1.0) if math.isfinite(quality) else 0.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality that the most specific matching range gives."""
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
    """The codings that a caller takes, by their wish and then by ours.

    The plain bytes are for whoever takes nothing else that there is, always.
    """
    qualities = {coding: quality_of(coding, accept_encoding) for coding in offered}
    taken = [coding for coding, quality in qualities.items() if quality > 0]
    taken.sort(key=qualities.__getitem__, reverse=True)
    return tuple(taken) if IDENTITY in taken else (*taken, IDENTITY)
