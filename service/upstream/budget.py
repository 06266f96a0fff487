"""The retry budget: when everything fails, retries must not multiply the load.

Retries stay below a share of the recent calls. A floor lets small traffic retry too,
where a share of few calls would be none.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from service.settings import Upstream

SLICES: Final = 10
"""The window moves by a tenth of itself, so that it holds ten counts and no calls."""


class _Slice:
    """What happened in one tenth of a window."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0
        self.retries = 0


class RetryBudget:
    """Counts the calls and retries of the last `retry_window_s`."""

    def __init__(
        self, settings: Upstream, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._slices: deque[_Slice] = deque()

    def record_call(self) -> None:
        """Count a call, however often it is retried later."""
        self._current_slice().calls += 1

    def take_retry(self) -> bool:
        """Whether one more retry may be made now; if so, it is counted as made."""
        current = self._current_slice()
        calls = sum(each.calls for each in self._slices)
        retries = sum(each.retries for each in self._slices)
        allowed = max(self._settings.retry_floor, calls * self._settings.retry_rate)
        if retries + 1 > allowed:
            return False
        current.retries += 1
        return True

    def _current_slice(self) -> _Slice:
        number = int(self._clock() / self._settings.retry_window_s * SLICES)
        while self._slices and self._slices[0].number <= number - SLICES:
            self._slices.popleft()
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(_Slice(number))
        return self._slices[-1]
