"""Summaries of frequent events: one log line a second at most, with their number."""

import math
import time
from contextvars import Context
from typing import Any, Final

import structlog

INTERVAL_S: Final = 1.0

log = structlog.get_logger()


class Summary:
    """Counts events of one kind, and logs them together."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._number = 0
        self._logged_at = -math.inf

    def add(self, **values: Any) -> None:
        """Count one event, and log those since the last line if that is due.

        `values` describe the state now. The line belongs to no request.
        """
        self._number += 1
        now = time.monotonic()
        if now - self._logged_at < INTERVAL_S:
            return
        Context().run(log.warning, self._event, number=self._number, **values)
        self._logged_at, self._number = now, 0
