"""URLs of Redis: one server, or Sentinels that know which server is the master."""

import re
from typing import Final, NamedTuple

from service.settings.types import MAX_PORT, split_url

SCHEMES: Final = ("redis", "rediss", "unix")
SENTINEL: Final = "+sentinel"
SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT: Final = 26_379
CLUSTER: Final = re.compile(r"rediss?[+-]cluster")
HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


class SentinelUrl(NamedTuple):
    """The parts of `redis+sentinel://user:password@host:port,host:port/name/db`."""

    scheme: str
    """`redis`, or `rediss` for TLS to the Sentinels and to the servers."""
    login: str
    """User and password of the servers as the URL has them, with the `@`; or empty."""
    sentinels: tuple[tuple[str, int], ...]
    service: str
    """The name under which the Sentinels monitor the master."""
    database: int

    def url_of(self, host: str, port: int) -> str:
        """Return the URL of a server that the Sentinels have named."""
        shown = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.login}{shown}:{port}/{self.database}"


def is_sentinel_url(url: str) -> bool:
    """Return whether a URL names Sentinels instead of a server."""
    return url.partition(":")[0] in SENTINEL_SCHEMES


def check_redis_url(url: str) -> None:
    """Raise `ValueError` for a URL that is neither of a server nor of Sentinels."""
    scheme = url.partition(":")[0]
    if CLUSTER.fullmatch(scheme):
        raise ValueError(
            "expected one server, or Sentinels (redis+sentinel): Redis Cluster is not "
            "supported"
        )
    if scheme in SENTINEL_SCHEMES:
        parse_sentinel_url(url)
        return
    parts = split_url(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(
            "expected a redis, rediss, unix, redis+sentinel or rediss+sentinel URL, "
            "or an empty text"
        )
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise ValueError("expected a URL with a host, or with a path for unix")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL without options")


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Return the parts of a URL of Sentinels; raise `ValueError` if it is invalid."""
    # By hand: `urlsplit` refuses several addresses of IPv6.
    scheme, _, rest = url.partition("://")
    if "?" in rest or "#" in rest:
        raise ValueError("expected a URL without options")
    place, _, path = rest.partition("/")
    login, separator, hosts = place.rpartition("@")
    service, _, database = path.partition("/")
    if not service:
        raise ValueError(
            "expected the name of the master after the Sentinels, such as /mymaster"
        )
    return SentinelUrl(
        scheme.removesuffix(SENTINEL),
        login + separator,
        tuple(_parse_host(each) for each in hosts.split(",")),
        service,
        _parse_database(database),
    )


def _parse_host(text: str) -> tuple[str, int]:
    found = HOST.fullmatch(text)
    if found is None:
        raise ValueError("expected Sentinels as host:port,host:port")
    port = int(found[2] or SENTINEL_PORT)
    if not 0 < port <= MAX_PORT:
        raise ValueError(f"port out of range 1-{MAX_PORT}")
    return found[1].strip("[]"), port


def _parse_database(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError("expected a number of a database after the master's name")
    return int(text)
