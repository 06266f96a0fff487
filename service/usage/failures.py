"""Failures of refreshes: the last one, and the pause of the upstream after it."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple


class Failure(NamedTuple):
    """A refresh that has failed: its Unix time, and the class of the error."""

    at: float
    error: str


class Failures:
    """The failures of the refreshes of a cache."""

    def __init__(self, pause_s: float, clock: Callable[[], float]) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._paused_until = -math.inf
        self.last: Failure | None = None
        self.has_failed = False
        """True if the last refresh has failed."""

    @property
    def is_pausing(self) -> bool:
        """True while the upstream gets a pause."""
        return self._clock() < self._paused_until

    def note(self, error: Exception) -> None:
        """Note that a refresh has failed, and begin a pause."""
        self.has_failed = True
        self._paused_until = self._clock() + self._pause_s
        self.last = Failure(time.time(), type(error).__name__)

    def end(self) -> None:
        """Note that a refresh has succeeded."""
        self.has_failed = False
