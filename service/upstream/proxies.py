"""The proxy of the environment: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.

aiohttp could read them itself (`trust_env`), but would then also send passwords of
`~/.netrc`.
"""

from typing import Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import structlog
from aiohttp import encode_basic_auth, hdrs
from yarl import URL

SCHEMES: Final = frozenset({"http", "https"})

log = structlog.get_logger()


class Proxy(NamedTuple):
    """A proxy without its credentials, which errors of aiohttp would show."""

    url: URL
    credentials: dict[str, str]
    """The header with them; empty without any."""


def proxy_for(base_url: str, upstream: str) -> Proxy | None:
    """Return the proxy for an upstream, None for none.

    The log has its address without credentials. A proxy that is no HTTP proxy is not
    used, and a warning says so.
    """
    target = urlsplit(base_url)  # `URL` refuses more
    text = getproxies_environment().get(target.scheme)
    if not text or proxy_bypass(target.netloc.rpartition("@")[2]):
        return None
    proxy = _parse(text)
    if proxy is None:
        log.warning("upstream.proxy_ignored", upstream=upstream)
        return None
    log.info("upstream.proxy", upstream=upstream, proxy=str(proxy.url))
    return proxy


def _parse(text: str) -> Proxy | None:
    """Return an HTTP proxy by its URL; without a scheme it is `http`."""
    try:
        url = URL(text if "://" in text else f"http://{text}")
        if url.scheme not in SCHEMES or not url.host:
            return None
        credentials = {}
        if url.user is not None:
            login = encode_basic_auth(url.user, url.password or "")
            credentials = {str(hdrs.PROXY_AUTHORIZATION): login}
        return Proxy(url.origin(), credentials)
    except ValueError:
        return None
