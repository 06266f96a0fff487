"""Log lines of slow requests, with the time that they spent in each stage."""

import math
import time
from typing import Final

import structlog

from service.observability.stages import Stages

MAX_LINES: Final = 10
"""Lines in one second: an overload makes all requests slow."""
WINDOW_S: Final = 1.0

log = structlog.get_logger()


class SlowRequests:
    """Logs requests that took longer than a limit, in seconds."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._window_began = -math.inf
        self._lines = 0
        self._omitted = 0

    def log(self, duration_s: float, stages: Stages, **values: object) -> None:
        """Log a request if it was slow, unless there are too many.

        `values` are further values of the line.
        """
        if duration_s <= self._limit_s:
            return
        now = time.monotonic()
        if now - self._window_began >= WINDOW_S:
            self._window_began, self._lines = now, 0
        if self._lines >= MAX_LINES:
            self._omitted += 1
            return
        self._lines += 1
        omitted, self._omitted = self._omitted, 0
        log.warning(
            "http.slow_request",
            duration_s=round(duration_s, 6),
            stages=stages.divide(duration_s),
            omitted=omitted,
            **values,
        )
