"""URLs of Redis Sentinel."""

import pytest

from service.settings.redis_urls import SentinelUrl, parse_sentinel_url


@pytest.mark.parametrize(
    "url, parts, server",
    [
        (
            "redis+sentinel://a.test/m",
            SentinelUrl("redis", "", (("a.test", 26_379),), "m", 0),
            "redis://10.0.0.1:6379/0",
        ),
        (
            "rediss+sentinel://me:p%2Fa@a.test:1,b_c.test,10.0.0.9:2/m/3",
            SentinelUrl(
                "rediss",
                "me:p%2Fa@",
                (("a.test", 1), ("b_c.test", 26_379), ("10.0.0.9", 2)),
                "m",
                3,
            ),
            "rediss://me:p%2Fa@10.0.0.1:6379/3",
        ),
        (
            "redis+sentinel://:p@ss@[::1]:1,[fe80::2]/m/",
            SentinelUrl("redis", ":p@ss@", (("::1", 1), ("fe80::2", 26_379)), "m", 0),
            "redis://:p@ss@10.0.0.1:6379/0",
        ),
    ],
    ids=["least", "all", "IPv6"],
)
def test_a_url_has_all_that_a_master_needs(
    url: str, parts: SentinelUrl, server: str
) -> None:
    """The URL of a master has the login, the database and the scheme."""
    assert parse_sentinel_url(url) == parts
    assert parts.url_of("10.0.0.1", 6_379) == server


def test_an_ipv6_address_of_a_master_is_in_brackets() -> None:
    """Otherwise its port would be a part of it."""
    parts = parse_sentinel_url("redis+sentinel://a.test/m")
    assert parts.url_of("fe80::1", 6_379) == "redis://[fe80::1]:6379/0"
