"""A real Redis through which workers share refreshes."""

from tests.redis_servers import server

__all__ = ["server"]
