"""The metric of log lines that were dropped."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry

from service.observability.line_queue import Kind
from service.observability.metrics import REGISTRY

ADD_AFTER_S: Final = 0.5
"""Time for which drops are collected: under overload there are thousands a second."""


class LogMetrics:
    """Log lines that were dropped, by kind."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.dropped = prometheus_client.Counter(
            "copilot_usage_log_lines_dropped",
            "Log lines that were dropped: the output was slow, closed or failing.",
            ("kind",),
            registry=registry,
        )
        for kind in Kind:
            # A counter that begins at 0 shows its first growth too.
            self.dropped.labels(kind.label)


_metrics: Final = REGISTRY.declare(LogMetrics)


class DropCounts:
    """Adds the drops of one queue to the metric, some time after they happened."""

    # Never while a line is logged: a finalizer may log while this thread has locked
    # the metrics, and would wait for itself.

    def __init__(self) -> None:
        self.adding = Lock()
        """Locked while drops are added."""
        self.reset()

    def reset(self) -> None:
        """Start again, as a forked process does."""
        self._added: Counter[Kind] = Counter()
        self._adding_on: asyncio.AbstractEventLoop | None = None

    def add_soon(self, dropped: Mapping[Kind, int]) -> None:
        """Call `add` soon on the running event loop, or at once without one."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.add(dropped)
            return
        if loop is not self._adding_on:
            self._adding_on = loop
            loop.call_later(ADD_AFTER_S, self.add, dropped)

    def add(self, dropped: Mapping[Kind, int]) -> None:
        """Add the drops that are new in `dropped`, unless another call does so now."""
        self._adding_on = None
        if not self.adding.acquire(blocking=False):
            return
        try:
            for kind, count in dropped.items():
                new = count - self._added[kind]
                if new:
                    self._added[kind] = count
                    _metrics.current.dropped.labels(kind.label).inc(new)
        finally:
            self.adding.release()
