"""Queries that wait for a call to vPIC; clients take turns in each call.

A call has up to 50 queries of all clients: each client in turn adds one. At most
`vehicles.concurrency` calls are in progress, and one client is never in all of them.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Final

from service.settings import Settings
from service.vehicles.errors import LookupsFull
from service.vehicles.model import Query
from service.vehicles.pending import Fetch
from service.vehicles.vin import number_of
from service.vehicles.vpic import MAX_BATCH
from service.web.lane_metrics import LaneMetrics

LANE: Final = "vpic_calls"

GATHER_S: Final = 0.015
"""Time after the begin of a call in which queries are gathered, unless they fill one.

A lone query finds a call that began earlier, so it is sent at once.
"""
BUSY_QUERIES: Final = MAX_BATCH // 5
BUSY_S: Final = 1.0
"""After a call with so many queries, calls are evenly spaced for so long.

Otherwise the burst of the rate limit would be spent on the few queries that come first.
A query that is alone for `GATHER_S` is sent all the same.
"""


class Group:
    """The queries of one fetch that have not ended: they wait, or are in calls."""

    def __init__(self, fetch: Fetch, queries: Collection[Query]) -> None:
        self.fetch = fetch
        self.has_begun = asyncio.Event()
        """The first query is in a call, or has ended."""
        self.has_stopped_waiting = asyncio.Event()
        """No query waits any more."""
        self.has_ended = asyncio.Event()
        self._waiting = self._unfinished = len(queries)

    def stop_waiting(self) -> None:
        """Note that one query does not wait any more."""
        self._waiting -= 1
        self.has_begun.set()
        if not self._waiting:
            self.has_stopped_waiting.set()

    def end(self) -> None:
        """Note that one query has ended."""
        self._unfinished -= 1
        if not self._unfinished:
            self.has_ended.set()


class Waiting:
    """A query of a group, from its arrival to its end."""

    def __init__(self, query: Query, group: Group, arrived: float) -> None:
        self.query = query
        self.group = group
        self.arrived = arrived

    @property
    def client(self) -> Hashable:
        """The client whose turns it takes."""
        return self.group.fetch.client


Refusal = tuple[Waiting, LookupsFull]
"""A query that has no place in the queue, with the reason."""


class QueryQueue:
    """The queue in front of vPIC; there is one in each process."""

    def __init__(self, settings: Settings) -> None:
        vehicles, limits = settings.vehicles, settings.limits
        self._per_s = vehicles.requests_per_s / settings.server.workers
        self._max_wait_s = limits.queue_wait_s
        self._max_waiting = limits.max_queue * MAX_BATCH
        self._max_calls = vehicles.concurrency
        # In the order of turns; a client is removed with its last query.
        self._waiting: dict[Hashable, deque[Waiting]] = {}
        self._running: Counter[Hashable] = Counter()
        self._calls = 0
        self._metrics = LaneMetrics(LANE)
        self.called_at = -math.inf
        """When the last call began, by the clock of the event loop."""
        self._busy_until = -math.inf
        self.waiting = 0
        """Queries that wait."""
        self.has_changed = asyncio.Event()

    def add(self, group: Group, queries: Sequence[Query]) -> list[Refusal]:
        """Add the queries of a group; return those that have no place any more.

        Raises `LookupsFull` if the first would wait longer than `limits.queue_wait_s`.
        """
        self._refuse_long_wait(group.fetch.client)
        now = asyncio.get_running_loop().time()
        refusals: list[Refusal] = []
        for query in queries:
            each = Waiting(query, group, now)
            refusal = self._make_room(each)
            if refusal is not None:
                refusals.append(refusal)
            if refusal is None or refusal[0] is not each:
                self._waiting.setdefault(each.client, deque()).append(each)
                self.waiting += 1
        self._changed()
        return refusals

    def remove(self, group: Group) -> list[Waiting]:
        """Remove the queries of a group that wait, and return them."""
        own = self._waiting.get(group.fetch.client, deque())
        removed = [each for each in own if each.group is group]
        for each in removed:
            own.remove(each)
            self._note_removed(each)
        self._changed()
        return removed

    @property
    def gathers_for_s(self) -> float:
        """Seconds for which the queries that wait should wait for others."""
        if not 0 < self.waiting < MAX_BATCH:
            return 0.0
        now = asyncio.get_running_loop().time()
        if not self._per_s or now >= self._busy_until:
            return self.called_at + GATHER_S - now
        until = self.called_at + max(GATHER_S, 1 / self._per_s)
        if self.waiting == 1:
            ((lone,),) = self._waiting.values()
            until = min(until, lone.arrived + GATHER_S)
        return until - now

    @property
    def may_call(self) -> bool:
        """True if a call may begin now for one of the queries that wait."""
        return any(True for _ in self._eligible())

    def take(self) -> list[Waiting]:
        """Begin a call, and return its queries: of each client in turn.

        It has each VIN once: the rows of an answer do not show which hint they are for.
        """
        batch: dict[str, Waiting] = {}
        turns = deque(iter(list(self._waiting[each])) for each in self._eligible())
        while turns and len(batch) < MAX_BATCH:
            own = turns.popleft()
            each = next((w for w in own if number_of(w.query) not in batch), None)
            if each is not None:
                batch[number_of(each.query)] = each
                self._take_out(each)
                turns.append(own)
        self._begin(batch.values())
        return list(batch.values())

    def end_call(self, batch: Collection[Waiting]) -> None:
        """End a call."""
        self._calls -= 1
        self._running -= Counter({each.client for each in batch})
        self._metrics.ended(self._calls)
        self._changed()

    def full(self, reason: str, wait_s: float | None = None) -> LookupsFull:
        """Count a refusal, and return its error."""
        self._metrics.refused(reason)
        detail = f"{LANE}: {self._calls} run and {self.waiting} VINs wait"
        wait_s = self._max_wait_s if wait_s is None else wait_s
        return LookupsFull(detail, max(1.0, wait_s))

    def _begin(self, batch: Collection[Waiting]) -> None:
        if not batch:
            return
        self._calls += 1
        self._running += Counter({each.client for each in batch})
        self.called_at = now = asyncio.get_running_loop().time()
        if len(batch) >= BUSY_QUERIES:
            self._busy_until = now + BUSY_S
        waits_s = [now - each.arrived for each in batch]
        self._metrics.started_all(waits_s, self._calls)
        self._changed()

    def _eligible(self) -> Iterator[Hashable]:
        """Yield the clients that wait and are not in all calls already."""
        if self._calls >= self._max_calls:
            return
        max_own = max(1, self._max_calls - 1)
        for client in self._waiting:
            if self._running[client] < max_own:
                yield client

    def _take_out(self, each: Waiting) -> None:
        """Remove a query, and let the further ones of its client wait behind others."""
        own = self._waiting[each.client]
        own.remove(each)
        self._note_removed(each)
        if own:
            self._waiting[each.client] = self._waiting.pop(each.client)

    def _note_removed(self, each: Waiting) -> None:
        self.waiting -= 1
        each.group.stop_waiting()
        if not self._waiting[each.client]:
            del self._waiting[each.client]

    def _make_room(self, new: Waiting) -> Refusal | None:
        """Return the query that has no place: of the client with the most, or the new.

        The queue is as long as `limits.max_queue` full calls.
        """
        if self.waiting < self._max_waiting:
            return None
        own = len(self._waiting.get(new.client, ()))
        other = max(self._waiting.values(), key=len)
        if len(other) <= own + 1:
            new.group.stop_waiting()
            return new, self.full("queue_full")
        displaced = other.pop()
        self._note_removed(displaced)
        return displaced, self.full("displaced")

    def _refuse_long_wait(self, client: Hashable) -> None:
        if not self._per_s:
            return
        own = len(self._waiting.get(client, ()))
        before = sum(min(len(each), own + 1) for each in self._waiting.values())
        wait_s = math.floor(before / MAX_BATCH) / self._per_s
        if wait_s > self._max_wait_s:
            raise self.full("expected_wait", wait_s)

    def _changed(self) -> None:
        self._metrics.waiting(self.waiting)
        self.has_changed.set()
