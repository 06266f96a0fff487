"""`Link` headers (RFC 8288) to the next page, also behind a proxy that cuts paths."""

from typing import Final

from aiohttp import web

from service.web.parameters import encode_cursor

PUBLIC_URL: Final = web.AppKey("public_url", str)
"""The URL at which clients reach the service, without a slash at its end; or empty."""


def next_link(request: web.Request, cursor: object) -> dict[str, str]:
    """Return the header that leads to the page after a cursor, with the same query."""
    target = request.rel_url.update_query(cursor=encode_cursor(cursor))
    return {"Link": f'<{request.app[PUBLIC_URL]}{target}>; rel="next"'}
