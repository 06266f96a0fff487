"""When a try is repeated, and after which wait: aiohttp-retry's options, all set.

aiohttp-retry runs the loop. By default it would retry no exception, resend POSTs on
5xx and ignore `Retry-After`; here every option is given outright. Each try raises one
of our own errors, so the choice of what to repeat stands in one place, below.
"""

import random
import time
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

log = structlog.get_logger()


class RetriedStatus(errors.UnexpectedStatus):
    """A status that may be gone at the next try."""


RETRIED_ERRORS: Final = (errors.Unreachable, errors.MalformedBody, RetriedStatus)


class Backoff(RetryOptionsBase):
    """The retries of one call: exponential bounds, full jitter, `Retry-After` heeded.

    `failure` is the last try's error; the caller sets it, since aiohttp-retry passes
    none on.
    """

    def __init__(self, settings: Upstream, peer: Peer = COPILOT) -> None:
        super().__init__(
            attempts=settings.attempts,
            statuses=frozenset(),
            exceptions=RETRIED_ERRORS,
            methods=RETRIED_METHODS,
            retry_all_server_errors=False,
            evaluate_response_callback=None,
        )
        self._settings = settings
        self._peer = peer
        self.failure: errors.UpstreamError | None = None

    def get_timeout(self, attempt: int, response: Any = None) -> float:
        """Seconds to wait after try number `attempt`, counted from 1."""
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
