"""Least-recently-used cache, bounded in entries and, optionally, in bytes."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Mapping that drops its least recently used entries beyond its bounds.

    Values must not be None. `size_of` returns the bytes of a value; without it,
    `max_bytes` has no effect. For one thread.
    """

    def __init__(
        self,
        max_entries: float = math.inf,
        *,
        max_bytes: float = math.inf,
        size_of: Callable[[V], int] | None = None,
    ) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._bytes = 0
        # The method itself: the rate limit reads a bucket for each request.
        self.peek = self._entries.get
        """Return the value of a key, or None; do not mark it as recently used."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None, and mark it as recently used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Store a value as the most recently used; drop what exceeds the bounds."""
        if self._size_of is not None:
            self.remove(key)
            self._bytes += self._size_of(value)
        entries = self._entries
        entries[key] = value
        entries.move_to_end(key)
        while len(entries) > self._max_entries or self._bytes > self._max_bytes:
            self._forget(entries.popitem(last=False)[1])

    def remove(self, key: K) -> None:
        """Remove the entry of a key, if there is one."""
        value = self._entries.pop(key, None)
        if value is not None:
            self._forget(value)

    def _forget(self, value: V) -> None:
        if self._size_of is not None:
            self._bytes -= self._size_of(value)
