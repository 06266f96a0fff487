"""Outcomes of events, which writers send to the requests that wait for them.

A request names an address in each of its messages. The writer that stores a message
answers there, once. An answer may be lost, so that each wait has a time limit.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from nats.aio.msg import Msg

from service.events.backlog import Reservation
from service.events.model import Event, EventFailure, EventResult, Receipt
from service.events.queue.message import BadMessage, decode_outcome
from service.events.receipts import receipt_of


class Publish(Protocol):
    """Publishes a request's events, and has their outcomes sent to a watch."""

    async def __call__(
        self,
        items: Sequence[Event | EventFailure],
        reservation: Reservation,
        watch: "Watch",
        /,
    ) -> Receipt: ...


class Watch:
    """The results of one request's events, as far as they are known."""

    def __init__(self, address: str, publish: Publish) -> None:
        self._address = address
        self._publish = publish
        self._changed = asyncio.Event()
        self._results: dict[int, list[EventResult]] = {}
        self._is_ended = False

    async def accept(
        self, items: Sequence[Event | EventFailure], reservation: Reservation
    ) -> Receipt:
        """Publish a request's events, with an address for their outcomes.

        Raises what `QueuePublisher.accept` raises.
        """
        return await self._publish(items, reservation, self)

    def reply_to(self, first: int) -> str:
        """Return the address of a message, whose first event is at this place."""
        return f"{self._address}.{first}"

    def note(self, first: int, results: list[EventResult]) -> None:
        """Note the results of a message; a repetition changes nothing."""
        # A message that was stored twice was new the first time.
        self._results.setdefault(first, results)
        self._changed.set()

    def end(self) -> None:
        """End the wait without further results."""
        self._is_ended = True
        self._changed.set()

    async def confirm(self, receipt: Receipt, limit_s: float) -> Receipt:
        """Wait for all results; return the receipt as it is after `limit_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not self._is_ended:
                    results = self._in_order()
                    if len(results) == len(receipt.results):
                        return receipt_of(results, is_stored=True)
                    self._changed.clear()
                    await self._changed.wait()
        return receipt

    def _in_order(self) -> list[EventResult]:
        found = self._results
        return [each for first in sorted(found) for each in found[first]]


class Outcomes:
    """The requests of a process that wait for outcomes, below one subject."""

    def __init__(self, address: str) -> None:
        self.subject = f"{address}.*.*"
        self._address = address
        self._watches: dict[str, Watch] = {}
        self._next = 0
        self._is_ending = False

    @contextmanager
    def watch(self, publish: Publish) -> Iterator[Watch]:
        """Receive the outcomes of one request while the context lasts."""
        self._next += 1
        name = str(self._next)
        made = Watch(f"{self._address}.{name}", publish)
        if self._is_ending:
            made.end()
        self._watches[name] = made
        try:
            yield made
        finally:
            del self._watches[name]

    def end(self) -> None:
        """End all waits, and further ones at once."""
        self._is_ending = True
        for each in self._watches.values():
            each.end()

    async def on_outcome(self, answer: Msg) -> None:
        """Pass an outcome to the request that waits for it."""
        name, first = answer.subject.split(".")[-2:]
        watch = self._watches.get(name)
        if watch is not None and first.isdecimal():
            with suppress(BadMessage):
                watch.note(int(first), decode_outcome(answer.data))
