"""When a try is repeated, and after which wait: aiohttp-retry's options, all set.

aiohttp-retry runs the loop. By default it would retry no exception, resend POSTs on
5xx and ignore `Retry-After`; here every option is given outright. Each try raises one
of our own errors, so the choice of what to repeat stands in one place, below.

A budget bounds retries to a share of the recent calls: when everything fails, retries
must not multiply the load. A floor lets small traffic retry too.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import structlog
from aiohttp_retry import RetryOptionsBase

from service import metrics
from service.settings import Upstream
from service.upstream import errors
from service.upstream.peers import COPILOT, Peer

RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# POST too: here it asks what is too long for a URL, and changes nothing.
RETRIED_METHODS: Final = frozenset({"GET", "POST"})

SLICES: Final = 10
"""The window moves by a tenth of itself, so that it holds ten counts and no calls."""

CheckRetry = Callable[[errors.UpstreamError], None]
"""Raises the failure of the last try where no retry may be made."""

log = structlog.get_logger()


class RetriedStatus(errors.UnexpectedStatus):
    """A status that may be gone at the next try."""


RETRIED_ERRORS: Final = (errors.Unreachable, errors.MalformedBody, RetriedStatus)


class Backoff(RetryOptionsBase):
    """The retries of one call: exponential bounds, full jitter, `Retry-After` heeded.

    `failure` is the last try's error; the caller sets it, since aiohttp-retry passes
    none on. `check_retry` is called before each retry, and raises where it may not be
    made.
    """

    def __init__(
        self, settings: Upstream, check_retry: CheckRetry, peer: Peer = COPILOT
    ) -> None:
        super().__init__(
            attempts=settings.attempts,
            statuses=frozenset(),
            exceptions=RETRIED_ERRORS,
            methods=RETRIED_METHODS,
            retry_all_server_errors=False,
            evaluate_response_callback=None,
        )
        self._settings = settings
        self._check_retry = check_retry
        self._peer = peer
        self.failure: errors.UpstreamError | None = None

    def get_timeout(self, attempt: int, response: Any = None) -> float:
        """Return the seconds to wait after try number `attempt`, counted from 1.

        aiohttp-retry asks this once before each retry and at no other time, so what
        is raised here ends the call.
        """
        if self.failure is not None:
            self._check_retry(self.failure)
        wait_s = self._wait_s(attempt)
        reason = self.failure.error_type if self.failure else "unknown"
        metrics.retried(self._peer.name, reason)
        log.warning(
            "upstream.retry",
            upstream=self._peer.name,
            wait_s=round(wait_s, 4),
            reason=reason,
        )
        return wait_s

    def _wait_s(self, attempt: int) -> float:
        asked_s = self.failure.retry_after_s if self.failure else None
        if asked_s is not None:
            return min(asked_s, self._settings.retry_after_max_s)
        bound_s = self._settings.backoff_base_s * 2 ** (attempt - 1)
        return random.uniform(0, min(bound_s, self._settings.backoff_max_s))  # noqa: S311


def unexpected_status(
    status: int, retry_after: str | None, peer: Peer = COPILOT
) -> errors.UnexpectedStatus:
    """The error for a status, of the class that says whether to try again."""
    kind = RetriedStatus if status in RETRIED_STATUSES else errors.UnexpectedStatus
    if status in peer.refusals:
        kind = errors.ShutOut
    return kind(status, parse_retry_after(retry_after))


def parse_retry_after(value: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110 §10.2.3), or None.

    Both forms are read, a number of seconds and a date; nonsense counts as absent.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # the older forms of a date name no zone: it is GMT
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


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
