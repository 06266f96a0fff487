"""Conditional requests: `If-Match` and `If-None-Match` (RFC 9110 §13.1)."""

from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.web.header_values import joined, parse_entity_tags
from service.web.problems import PRECONDITION_FAILED, RequestProblem

ANY: Final = "*"
REDIRECT_END: Final = 400


def matches(field: str, etag: str | None, *, is_strong: bool) -> bool:
    """Return whether the entity tag of a representation is among those of a field.

    `*` matches any representation. The strong comparison refuses weak tags.
    """
    if field.strip() == ANY:
        return True
    tags = parse_entity_tags(etag or "")
    if not tags or (is_strong and tags[0].is_weak):
        return False
    return any(
        given.opaque == tags[0].opaque and not (is_strong and given.is_weak)
        for given in parse_entity_tags(field)
    )


def check_if_match(request: web.BaseRequest, etag: str | None) -> None:
    """Raise `RequestProblem` (412) where the client names another representation.

    `etag` is None for a resource without entity tags, of which only `*` is true.
    """
    field = joined(request.headers, hdrs.IF_MATCH)
    if field is not None and not matches(field, etag, is_strong=True):
        raise RequestProblem(
            PRECONDITION_FAILED, "If-Match names no current representation"
        )


async def handle_if_match(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Call the handler of a request with `If-Match`, and check its answer.

    Raises `RequestProblem` (412). It comes after every other error of the request
    (RFC 9110 §13.2.1). A handler with effects calls `check_if_match` before them.
    """
    response = await handler(request)
    # A stream, and a block of a cached answer, were checked before they were sent.
    if isinstance(response, web.Response) and response.status < REDIRECT_END:
        check_if_match(request, response.headers.get(hdrs.ETAG))
    return response


def is_not_modified(if_none_match: str | None, etag: str | None) -> bool:
    """Return whether the client has this representation already."""
    return if_none_match is not None and matches(if_none_match, etag, is_strong=False)
