"""Cancellation of a query between the steps of its computation.

A thread cannot be interrupted from outside. So a query checks between its steps whether
its client has left.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_cancelled: Final[ContextVar[threading.Event | None]] = ContextVar(
    "cancelled", default=None
)


class QueryCancelled(Exception):
    """The client of the query has left, so nobody needs the result."""


@contextmanager
def cancellable(cancelled: threading.Event) -> Iterator[None]:
    """Let `check_cancelled` raise in the body once the event is set."""
    token = _cancelled.set(cancelled)
    try:
        check_cancelled()
        yield
    finally:
        _cancelled.reset(token)


def check_cancelled() -> None:
    """Raise `QueryCancelled` if the query of this thread is cancelled."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise QueryCancelled
