"""The bounded buffer of events that wait for delivery."""

from collections import deque
from itertools import islice
from typing import Final

import msgspec

MAX_BATCH_EVENTS: Final = 1_000
MAX_BATCH_BYTES: Final = 900_000
"""Both are within the defaults of the service's limits for one request."""
EVENT_OVERHEAD_BYTES: Final = 200
"""Memory of a buffered event, in addition to its JSON text."""


class BufferFull(Exception):
    """The buffer has no room for this event; it was not accepted."""


class BufferedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as JSON text; not tracked by the garbage collector, which saves time."""

    id: str
    event: bytes

    @property
    def size(self) -> int:
        """Memory in bytes."""
        return len(self.event) + EVENT_OVERHEAD_BYTES


class EventBuffer:
    """Events in the order of `send`, up to `max_bytes` of memory."""

    def __init__(self, max_bytes: int) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._events: deque[BufferedEvent] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: BufferedEvent) -> None:
        """Add an event; raises `BufferFull`."""
        if self.size + event.size > self._max_bytes:
            raise BufferFull(f"{self.size} bytes wait to be sent")
        self._events.append(event)
        self.size += event.size

    def next_batch(self) -> list[BufferedEvent]:
        """Return the oldest events; they stay in the buffer until they are removed."""
        batch: list[BufferedEvent] = []
        size = 0
        for each in islice(self._events, MAX_BATCH_EVENTS):
            size += len(each.event) + 1  # a newline separates events
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(each)
        return batch

    def remove(self, number: int) -> list[BufferedEvent]:
        """Remove and return the oldest events."""
        removed = [self._events.popleft() for _ in range(number)]
        self.size -= sum(each.size for each in removed)
        return removed
