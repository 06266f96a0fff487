"""The answers to `GET /usage` that connections may repeat.

The snapshot is fresh, or a refresh runs that has begun when it became stale.
"""

import asyncio
import math
import time
from typing import Final, NamedTuple

from service.observability.http_metrics import tally_of
from service.settings import Scope
from service.usage.cache import SnapshotCache
from service.web.http_cache.responses import prepare_block
from service.web.repeats import PreparedAnswer

MAX_PREPARED: Final = 256
"""Prepared answers of one second."""


class RequestKind(NamedTuple):
    """The parts of a request for the whole period by which answers differ."""

    route: str
    accepted: str | None
    """`Accept-Encoding`."""
    known: str | None
    """`If-None-Match`."""


class UsageRepeats:
    """Prepares an answer once for all equal requests of one second."""

    # Ages and dates have whole seconds. Until one of them changes, the snapshot is
    # replaced or a refresh begins or ends, answers differ only in the lines of the
    # single request.

    def __init__(self, snapshots: SnapshotCache) -> None:
        self._snapshots = snapshots
        self._prepared: dict[RequestKind, PreparedAnswer] = {}
        self._prepared_of = 0
        self._prepared_during: asyncio.Task[None] | None = None
        self._prepared_until = -math.inf

    def find(self, kind: RequestKind) -> PreparedAnswer | None:
        """Return the present answer; None if requests may wait, or it is large."""
        snapshots = self._snapshots
        if (
            snapshots.published != self._prepared_of
            or snapshots.refreshing is not self._prepared_during
            or snapshots.clock() >= self._prepared_until
        ):
            self._start_again()
        return self._prepared.get(kind) or self._prepare(kind)

    def _start_again(self) -> None:
        # Also if nothing can be prepared: a former answer must not stay in memory.
        self._prepared.clear()
        cached, self._prepared_of = self._snapshots.current, self._snapshots.published
        self._prepared_during = self._snapshots.refreshing
        fetched_at = cached.fetched_at if cached else 0.0
        # Before the first answer: what is prepared late prolongs no second.
        now = self._snapshots.clock()
        # The cache has a monotonic clock, while `Date` follows the wall clock.
        date_until = now + 1 - time.time() % 1
        age_until = now + 1 - (now - fetched_at) % 1
        self._prepared_until = min(date_until, age_until)

    def _prepare(self, kind: RequestKind) -> PreparedAnswer | None:
        cached, found = self._snapshots.current, self._snapshots.immediate_answer()
        if cached is None or found is None or len(self._prepared) >= MAX_PREPARED:
            return None
        answer, freshness, usable_until = found
        block = prepare_block(answer, freshness, kind.accepted, kind.known)
        if block is None:
            return None
        # As answers are prepared, so that each answer costs nothing.
        self._snapshots.note_answer(cached)
        self._prepared_until = min(self._prepared_until, usable_until)
        status, head, body = block
        tally = tally_of(kind.route, status, freshness.result)
        prepared = PreparedAnswer(head, bytes(body), tally, cached.snapshot.log_values)
        self._prepared[kind] = prepared
        return prepared


class RepeatedUsage(NamedTuple):
    """The answer to requests of one kind."""

    repeats: UsageRepeats
    kind: RequestKind
    scope: Scope = "usage:read"

    def prepare(self) -> PreparedAnswer | None:
        """Return the present answer, or None for a request that has to be routed."""
        return self.repeats.find(self.kind)
