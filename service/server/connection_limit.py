"""The bound on client connections, within the open files of the process.

Without it, idle connections of one client would use up all file descriptors, and no
other client could connect.
"""

import asyncio
import resource
from collections import Counter
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry

from service.observability.metrics import REGISTRY
from service.observability.summaries import Summary
from service.web.client_identity import ClientIdentifier, address_group

OTHER_FILES: Final = 256
"""Files for everything else: databases, upstreams, logs, exports."""


class _ConnectionMetrics:
    """Connections that were closed because there were too many."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.closed = prometheus_client.Counter(
            "copilot_usage_connections_closed",
            "Connections that were closed because the process had too many: idle ones, "
            "or new ones while none was idle; or new ones of one address.",
            ("state",),
            registry=registry,
        )
        for state in ("idle", "new", "address"):
            self.closed.labels(state)


_metrics: Final = REGISTRY.declare(_ConnectionMetrics)
_summary: Final = Summary("http.connections_closed")


def find_limit(max_connections: int) -> int:
    """Return the limit, at most what the open files of the process permit.

    Raises the soft limit of open files as far as that is needed and permitted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, soft - OTHER_FILES))


def closed(state: str, number: int, connections: int) -> None:
    """Count connections that were closed; `state` is idle, new or address."""
    _metrics.current.closed.labels(state).inc(number)
    _summary.add(connections=connections)


class AddressLimit:
    """The bound on connections of one address, or of one network of IPv6.

    Trusted proxies, and connections without an address, have no bound.
    """

    def __init__(self, max_connections: int, clients: ClientIdentifier) -> None:
        self._max_connections = max_connections
        self._clients = clients
        self._open: Counter[str] = Counter()
        self._counted: dict[asyncio.BaseTransport, str] = {}

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Count a new connection until `forget`; return False for one too many."""
        peer = transport.get_extra_info("peername")
        # Unix sockets have a path, which may be empty.
        if not isinstance(peer, tuple) or self._clients.is_trusted(peer[0]):
            return True
        address = address_group(peer[0])
        if self._open[address] >= self._max_connections:
            return False
        self._open[address] += 1
        self._counted[transport] = address
        return True

    def forget(self, transport: asyncio.BaseTransport) -> None:
        """Stop counting a connection that is closed."""
        address = self._counted.pop(transport, None)
        if address is None:
            return
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]
