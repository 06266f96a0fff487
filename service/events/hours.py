"""Hours of a range of time, as numbers since 1970."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from service.events.count_statements import HOUR_US, MAX_HOURS
from service.events.statements import EventFilter
from service.instants import now_us
from service.web.parameters import InvalidParameter

EXPECTED: Final = "expected at most 400 days from `from` to `to`, if counted by hour"


def check_range(since: int | None, until: int | None) -> None:
    """Raise `InvalidParameter` for more than 400 days, in microseconds since 1970."""
    if since is not None and until is not None and until - since > MAX_HOURS * HOUR_US:
        raise InvalidParameter("from", EXPECTED)


def check_number(hours: int) -> None:
    """Raise `InvalidParameter` for more hours than 400 days have.

    A range that begins and ends within an hour has parts of one hour more.
    """
    if hours > MAX_HOURS + 1:
        raise InvalidParameter("from", EXPECTED)


def hours_of_range(event_filter: EventFilter, counts: Mapping[int, int]) -> range:
    """Return all hours of a filter. Raises `InvalidParameter` for too many.

    An open range begins with the first counted hour, and ends with the last one or now.
    """
    since, until = event_filter.since, event_filter.until
    if not counts and since is None:
        return range(0)
    first = min(counts) if since is None else since // HOUR_US
    if until is None:
        end = max(now_us() // HOUR_US, *counts, first) + 1
    else:
        end = -(-until // HOUR_US)
    check_number(end - first)
    return range(first, end)


def format_hour(hour: int) -> str:
    """Return `2024-04-29T02:00Z`; unlike datetime, numpy has hours before year 1."""
    return f"{np.datetime64(hour, 'h')}:00Z"
