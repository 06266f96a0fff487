"""Retries: which failures are repeated, after which wait, and how many in all.

aiohttp-retry runs the loop. By default it retries no exception, resends POSTs on 5xx
and ignores `Retry-After`, so every option is set here. Each try raises one of our own
errors, so `RETRIED_ERRORS` alone decides what is repeated.

A budget limits retries to a share of the recent calls: during an outage, retries must
not multiply the load. A floor permits some retries under little traffic.
"""

import random
import re
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import structlog
from aiohttp_retry import RetryOptionsBase
from multidict import MultiMapping

from service.settings import UpstreamSettings
from service.upstream import errors, metrics
from service.upstream.profiles import COPILOT, UpstreamProfile

# They mean "not now": RFC 9110 (408), RFC 8470 (425), RFC 6585 (429).
RETRIED_CLIENT_ERRORS: Final = frozenset({408, 425, 429})
# What a server does not implement, it will not implement a moment later.
PERMANENT_SERVER_ERRORS: Final = frozenset({501, 505})
# POST is safe here: it sends a query that is too long for a URL.
RETRIED_METHODS: Final = frozenset({"GET", "POST"})

# RFC 9110 permits whole seconds only; a server that sends a fraction means it too.
SECONDS: Final = re.compile(r"\s*\d+(\.\d+)?\s*(,\s*\d+(\.\d+)?\s*)*", re.ASCII)

SLICES: Final = 10
"""Parts of the window, each with two counts, so that no list of calls is needed."""

CheckRetry = Callable[[errors.UpstreamError], None]
"""Raises the failure of the last try, unless a retry may be made."""

log = structlog.get_logger()


class RetriedStatus(errors.UnexpectedStatus):
    """A status after which another try may succeed."""


RETRIED_ERRORS: Final = (errors.Unreachable, errors.MalformedBody, RetriedStatus)


class Backoff(RetryOptionsBase):
    """Retries of one call: exponential backoff with full jitter, and `Retry-After`.

    The caller sets `failure` to the error of the last try, since aiohttp-retry does
    not pass it on. `check_retry` is called before each retry, and may raise.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        check_retry: CheckRetry,
        profile: UpstreamProfile = COPILOT,
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
        self._profile = profile
        self.failure: errors.UpstreamError | None = None

    def get_timeout(self, attempt: int, response: Any = None) -> float:
        """Return the seconds to wait after try number `attempt`, counted from 1."""
        # aiohttp-retry calls this once before each retry, so an error ends the call.
        if self.failure is not None:
            self._check_retry(self.failure)
        wait_s = self._wait_s(attempt)
        reason = self.failure.error_type if self.failure else "unknown"
        metrics.retried(self._profile.name, reason)
        log.warning(
            "upstream.retry",
            upstream=self._profile.name,
            wait_s=round(wait_s, 4),
            reason=reason,
        )
        return wait_s

    def _wait_s(self, attempt: int) -> float:
        retry_after_s = self.failure.retry_after_s if self.failure else None
        if retry_after_s is not None:
            return min(retry_after_s, self._settings.retry_after_max_s)
        # Full jitter: calls that failed together must not be repeated together.
        bound_s = self._settings.backoff_base_s * 2 ** (attempt - 1)
        return random.uniform(0, min(bound_s, self._settings.backoff_max_s))  # noqa: S311


def unexpected_status(
    status: int, profile: UpstreamProfile = COPILOT
) -> errors.UnexpectedStatus:
    """Return the error for a status; its class decides about retries."""
    kind = RetriedStatus if is_retried(status) else errors.UnexpectedStatus
    if status in profile.blocking_statuses:
        kind = errors.Blocked
    return kind(status)


def is_retried(status: int) -> bool:
    """Return whether a later try may have another status."""
    if status in RETRIED_CLIENT_ERRORS:
        return True
    return 500 <= status < 600 and status not in PERMANENT_SERVER_ERRORS


def retry_after_of(headers: MultiMapping[str]) -> float | None:
    """Return the seconds of the `Retry-After` headers of an answer, or None.

    The longest valid one of a repeated header counts.
    """
    values = headers.getall("Retry-After", ())
    waits_s = [parse_retry_after(each, headers.get("Date")) for each in values]
    return max((each for each in waits_s if each is not None), default=None)


def parse_retry_after(value: str, answered_at: str | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110 §10.2.3), or None.

    It is a number of seconds, or a date, which is compared with the `Date` of the
    answer, so that clocks may differ. Seconds may have a fraction, and a proxy may have
    joined several of them by commas. An invalid value counts as absent.
    """
    if SECONDS.fullmatch(value):
        return max(map(float, value.split(",")))
    moment = _parse_date(value)
    if moment is None:
        return None
    sent = _parse_date(answered_at or "")
    return max(0.0, moment - (time.time() if sent is None else sent))


def _parse_date(value: str) -> float | None:
    """Return a date of HTTP in seconds since 1970, or None."""
    try:
        moment: datetime = parsedate_to_datetime(value.strip())
        if moment.tzinfo is None:  # obsolete formats of dates, in GMT
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


class _Slice:
    """Counts of one part of the window."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0
        self.retries = 0


class RetryBudget:
    """Counts the calls and retries of the last `retry_window_s`."""

    def __init__(
        self, settings: UpstreamSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._slices: deque[_Slice] = deque()

    def record_call(self) -> None:
        """Count a call, before its first try."""
        self._current_slice().calls += 1

    def take_retry(self) -> bool:
        """Return True if a retry may be made now, and count it."""
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
