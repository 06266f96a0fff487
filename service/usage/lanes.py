"""The lanes of requests on usage: queries, loads of kept periods, and exports."""

from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

from service.settings import Settings
from service.usage import problems
from service.web.lanes import Lane, LaneKinds, LaneLimits

MAX_EXPORTS: Final = 2
"""Exports at once in a process; one client never has all of them."""
MAX_EXPORT_S: Final = 900.0
"""Maximum duration of an export: a slow client blocks one of `MAX_EXPORTS`."""


class Lanes(NamedTuple):
    """The lanes of one process."""

    queries: Lane
    """Everything that is computed from a snapshot for one request."""
    period_loads: Lane
    """Queries that load a whole kept period."""
    exports: Lane
    """None waits for another: an export may take minutes."""


def open_lanes(identify: Callable[[Any], Hashable], settings: Settings) -> Lanes:
    """Return the lanes; `identify` returns the client of a request."""
    query_kinds = LaneKinds(problems.QUERIES_FULL, problems.QUERY_TIMEOUT)
    export_kinds = LaneKinds(problems.EXPORTS_FULL, problems.EXPORT_TIMEOUT)
    exports = LaneLimits(MAX_EXPORTS, 0, 0.0, MAX_EXPORT_S)

    def query_lane(name: str, concurrency: int) -> Lane:
        limit_s = settings.usage.query_timeout_s
        bounds = LaneLimits.of(
            settings.limits, concurrency=concurrency, time_limit_s=limit_s
        )
        return Lane(name, query_kinds, bounds, identify)

    return Lanes(
        query_lane("usage_queries", settings.usage.max_queries),
        query_lane("usage_period_loads", 1),
        Lane("usage_exports", export_kinds, exports, identify),
    )
