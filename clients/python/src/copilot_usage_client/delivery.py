"""Decides what is sent when, and what an answer means; does no network I/O itself.

The caller sends what `next_request` returns, and passes the outcome to `handle`. No
event leaves the outbox before the service has given a result for it.
"""

from __future__ import annotations

import gzip
import json
import logging
import random
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final

from copilot_usage_client.outbox import MAX_BATCH_EVENTS, Batch, Outbox
from copilot_usage_client.problems import Problem
from copilot_usage_client.transport import Answer, NoAnswer

LINGER_S: Final = 0.05
"""Time that an event waits for others to join its request."""
FIRST_BACKOFF_S: Final = 0.2
MAX_BACKOFF_S: Final = 30.0
MAX_RETRY_AFTER_S: Final = 3_600.0
"""Upper bound of a `Retry-After` that is obeyed."""
SPILL_S: Final = 0.2
"""Time between two writes to the spool while the service does not accept events."""
LOOK_AGAIN_S: Final = 30.0
"""Time after which an idle client looks for files of processes that were killed."""
POLL_S: Final = 0.1
"""Time between two looks at files that other processes are sending."""

ACCEPTED: Final = 202
TRANSIENT: Final = frozenset({408, 425, 429})
"""They mean "not now", as all 5xx do: RFC 9110, RFC 8470 and RFC 6585."""
SPLIT: Final = frozenset({400, 413, 422})
"""A single event of the batch may have caused them."""
DELIVERED: Final = frozenset({"accepted", "duplicate"})
PROBLEMS: Final = {
    "failed": "the service keeps it as a failed event",
    "conflict": "another event has the same id; this one is kept as a failed event",
}

log = logging.getLogger("copilot_usage_client")


class Delivery:
    """Sends the events of an outbox, one batch at a time."""

    def __init__(self, outbox: Outbox, key: str, *, compresses: bool) -> None:
        self._outbox = outbox
        self._compresses = compresses
        self._headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/x-ndjson",
            "User-Agent": "copilot-usage-client",
        }
        if compresses:
            self._headers["Content-Encoding"] = "gzip"
        self._batch: Batch | None = None
        self._parts: list[list[bytes]] = []
        """Parts of the batch that are not delivered yet, the next one last."""
        self._failures = 0
        self._is_refused = False
        self._retry_at = self._not_before = 0.0
        self._linger_until: float | None = None
        self._looked_at = 0.0
        self.hurries = False
        """Whether `flush` or `close` waits: nothing lingers then."""
        self.delivered = self.failed = 0

    @property
    def earliest(self) -> float:
        """Moment of the next try after a failure, by the monotonic clock."""
        return max(self._retry_at, self._not_before)

    # --- what is sent -----------------------------------------------------------------

    def next_request(self) -> tuple[bytes, dict[str, str]] | None:
        """Return the next body and its headers; None if it is not time yet."""
        if self._is_waiting():
            if self._failures:
                self._outbox.spill()
            return None
        if not self._parts:
            self._take()
        if not self._parts:
            return None
        body = b"".join(self._parts[-1])
        if self._compresses:
            body = gzip.compress(body, 1)
        return body, {**self._headers, "X-Sent-At": _now()}

    def pause_s(self) -> float:
        """Return how long to wait for `next_request`; `on_wake` ends the wait early."""
        now = time.monotonic()
        if self._parts:
            return 0.0
        if now < self.earliest:
            rest_s = self.earliest - now
            return min(SPILL_S, rest_s)
        if self._linger_until is not None:
            self._outbox.wake_at = MAX_BATCH_EVENTS
            return self._linger_until - now
        self._outbox.wake_at = 1
        if len(self._outbox):
            return 0.0
        return POLL_S if self.hurries else LOOK_AGAIN_S

    def hurry(self) -> None:
        """End a pause after a failure; a `Retry-After` is obeyed all the same."""
        self._retry_at = 0.0

    def _is_waiting(self) -> bool:
        """Return whether to wait: after a failure, or for a batch to fill up."""
        now = time.monotonic()
        if now < self.earliest:
            return True
        waiting = len(self._outbox)
        if self._failures or self.hurries or not 0 < waiting < MAX_BATCH_EVENTS:
            self._linger_until = None
        elif self._linger_until is None:
            self._linger_until = now + LINGER_S
        return self._linger_until is not None and now < self._linger_until

    def _take(self) -> None:
        self._linger_until = None
        self._batch = self._outbox.take()
        if self._batch is not None:
            self._parts = _split(self._batch.lines, self._outbox.batch_bytes)
            self._parts.reverse()

    # --- what an answer means ---------------------------------------------------------

    def handle(self, outcome: Answer | NoAnswer) -> None:
        """Take the outcome of the last request."""
        if self._batch is None:
            return  # it was given back meanwhile
        if isinstance(outcome, NoAnswer):
            self._try_later(str(outcome))
        elif outcome.status == ACCEPTED:
            self._handle_receipt(outcome)
        elif outcome.status in TRANSIENT or outcome.status >= 500:
            self._try_later(f"status {outcome.status}", outcome.retry_after)
        elif outcome.status in SPLIT:
            self._split_further(outcome)
        else:
            self._refuse(f"the service answers {outcome.status}", outcome)

    def give_back(self) -> None:
        """Return what is in flight to the outbox: its answer has no effect any more."""
        if self._batch is not None:
            self._end_batch()

    def _handle_receipt(self, answer: Answer) -> None:
        lines = self._parts[-1]
        results = _results_of(answer.body)
        if results is None:
            self._try_later("the answer was cut off")
            return
        if len(results) != len(lines):
            self._refuse("the answer is no receipt for these events", answer)
            return
        self._parts.pop()
        self._succeed()
        for line, result in zip(lines, results):
            self._note_result(line, result)

    def _note_result(self, line: bytes, result: Any) -> None:
        status = result.get("status") if isinstance(result, dict) else None
        if status in DELIVERED:
            self.delivered += 1
            return
        self.failed += 1
        errors = result.get("errors") if isinstance(result, dict) else None
        found = errors if isinstance(errors, list) else []
        known = tuple(each for each in found if isinstance(each, dict))
        code = status if status in PROBLEMS else "failed"
        self._outbox.note(Problem(code, PROBLEMS[code], 1, _event_of(line), known))

    def _split_further(self, answer: Answer) -> None:
        """Halve the batch; an event that is refused on its own is given up."""
        lines = self._parts.pop()
        middle = len(lines) // 2
        if middle:
            self._parts += [lines[middle:], lines[:middle]]
            return
        self._succeed()
        self.failed += 1
        message = f"the service answers {answer.status} to this event alone"
        self._outbox.note(Problem("rejected", message, 1, _event_of(lines[0])))

    def _succeed(self) -> None:
        if self._failures:
            log.info("the service accepts events again")
        self._failures = 0
        self._is_refused = False
        self._retry_at = self._not_before = 0.0
        if not self._parts and self._batch is not None:
            self._outbox.finish(self._batch)
            self._batch = None

    def _refuse(self, reason: str, answer: Answer) -> None:
        """Keep the events: somebody has to mend the key, the URL, or the service."""
        is_new, self._is_refused = not self._is_refused, True
        self._try_later(reason, answer.retry_after)
        if is_new:
            message = f"{reason}; the events are kept, and sent again later"
            self._outbox.note(Problem("refused", message, 0))

    def _try_later(self, reason: str, retry_after: str | None = None) -> None:
        now = time.monotonic()
        self._failures += 1
        # Failures have no limit, so without one for the exponent it would overflow.
        bound_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures - 1, 20))
        # Clients that failed together must not come back together.
        wait_s = bound_s * random.uniform(0.5, 1.0)  # noqa: S311
        asked_s = min(_seconds_of(retry_after), MAX_RETRY_AFTER_S)
        self._retry_at, self._not_before = now + wait_s, now + asked_s
        if self._failures == 1:
            log.warning("events are not delivered, and kept: %s", reason)
        self._end_batch()

    def _end_batch(self) -> None:
        rest = [line for part in reversed(self._parts) for line in part]
        batch, self._batch, self._parts = self._batch, None, []
        if batch is not None:
            self._outbox.finish(batch, rest)


def _split(lines: Sequence[bytes], max_bytes: int) -> list[list[bytes]]:
    """Return the lines in parts, each of which fits into a request."""
    parts: list[list[bytes]] = []
    size = max_bytes
    for line in lines:
        size += len(line)
        if size > max_bytes or len(parts[-1]) >= MAX_BATCH_EVENTS:
            parts.append([])
            size = len(line)
        parts[-1].append(line)
    return parts


def _results_of(body: bytes) -> list[Any] | None:
    """Return the results of a receipt, none for another document, None if cut off."""
    try:
        receipt = json.loads(body)
    except ValueError:
        return None
    except RecursionError:
        return []
    results = receipt.get("results") if isinstance(receipt, dict) else None
    return results if isinstance(results, list) else []


def _event_of(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _seconds_of(retry_after: str | None) -> float:
    """Return the seconds of a `Retry-After` (RFC 9110 §10.2.3), 0 if it is invalid."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
