"""Fixtures of the tests of storage."""

from tests.redis_servers import double, server, shared

__all__ = ["double", "server", "shared"]
