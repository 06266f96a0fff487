"""The bound on answers that clients have not read yet.

A client that reads slowly keeps its answer in memory. Beyond the bound, the clients
that have read nothing for the longest time are disconnected.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge

from service.observability.metrics import REGISTRY
from service.observability.summaries import Summary


class _UnsentMetrics:
    """Unsent answers, and the clients that were disconnected for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.bytes = Gauge(
            "copilot_usage_unsent_bytes",
            "Size of the answers that clients have not read yet.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.disconnected = Counter(
            "copilot_usage_slow_clients_disconnected",
            "Clients that were disconnected because unread answers filled the memory.",
            registry=registry,
        )


_metrics: Final = REGISTRY.declare(_UnsentMetrics)


class _Body:
    """A body that is being sent, and the connections that it is sent to."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.readers: set[asyncio.BaseTransport] = set()


class UnsentBytes:
    """Counts unsent bytes: the buffers of slow connections, and each body once."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._total = 0
        # The connection that has waited for its client for the longest time is first.
        self._slow: dict[asyncio.Transport, int] = {}
        self._bodies: dict[int, _Body] = {}
        self._summary = Summary("http.slow_clients")

    @property
    def total(self) -> int:
        """The unsent bytes."""
        return self._total

    def pause(self, transport: asyncio.Transport) -> None:
        """Count the buffer of a connection whose client reads too slowly."""
        size = transport.get_write_buffer_size()
        self._slow[transport] = size
        self._change(size)
        self._disconnect_slowest()

    def resume(self, transport: asyncio.Transport) -> None:
        """Stop counting a connection: its client has read enough, or it is closed."""
        size = self._slow.pop(transport, None)
        if size is not None:
            self._change(-size)

    @contextmanager
    def sending(
        self, transport: asyncio.BaseTransport, body: object, size: int
    ) -> Iterator[None]:
        """Count a body once, while it is sent to any connection."""
        key = id(body)  # the caller keeps the body, so that its id is not used again
        if key not in self._bodies:
            self._bodies[key] = _Body(size)
            self._change(size)
        self._bodies[key].readers.add(transport)
        self._disconnect_slowest()
        try:
            yield
        finally:
            self._remove_reader(key, transport)

    def _disconnect_slowest(self) -> None:
        # The last one may have an answer that is larger than the bound by itself.
        while self._total > self._max_bytes and len(self._slow) > 1:
            transport = next(iter(self._slow))
            self.resume(transport)
            for key in [k for k, b in self._bodies.items() if transport in b.readers]:
                self._remove_reader(key, transport)
            _metrics.current.disconnected.inc()
            transport.abort()
            self._summary.add(unsent_bytes=self._total)

    def _remove_reader(self, key: int, transport: asyncio.BaseTransport) -> None:
        body = self._bodies.get(key)
        if body is None or transport not in body.readers:
            return
        body.readers.remove(transport)
        if not body.readers:
            del self._bodies[key]
            self._change(-body.size)

    def _change(self, change: int) -> None:
        self._total += change
        _metrics.current.bytes.set(self._total)


UNSENT: Final = web.AppKey("unsent", UnsentBytes)
