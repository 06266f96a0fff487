"""Recognition of requests that a browser sends from a page of another origin."""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from service.settings import EVERY_ORIGIN

FETCH_SITE: Final = "Sec-Fetch-Site"
OWN: Final = frozenset({"same-origin", "none"})
"""Values for the service's own pages, and for what the user entered."""
DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def is_cross_origin(request: web.BaseRequest, own_hosts: AbstractSet[str]) -> bool:
    """Return whether a browser sent a request from a page of another origin.

    `own_hosts` are the names under which the client may know the service. Clients that
    are not browsers send none of these headers.
    """
    # Browsers send it to https and to localhost only. No page can change it.
    site = request.headers.get(FETCH_SITE)
    if site is not None:
        return site.strip().lower() not in OWN
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return False
    scheme, host = _split(origin)
    port = DEFAULT_PORTS.get(scheme, "")
    own = {each.lower().removesuffix(port) for each in own_hosts}
    return not host or host.removesuffix(port) not in own


def is_permitted(request: web.BaseRequest, origins: Collection[str]) -> bool:
    """Return whether a page has one of these origins; `*` stands for all of them."""
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and (origin in origins or EVERY_ORIGIN in origins)


def _split(origin: str) -> tuple[str, str]:
    """Return scheme and host; `null` has no host."""
    try:
        parts = urlsplit(origin.strip().lower())
    except ValueError:  # such as an invalid IPv6 address
        return "", ""
    return parts.scheme, parts.netloc
