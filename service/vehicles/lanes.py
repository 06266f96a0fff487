"""The lanes of requests about vehicles: look-ups, removals, exports and lists."""

from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

from service.settings import Settings
from service.vehicles import problems
from service.vehicles.export import MAX_EXPORT_S, MAX_EXPORTS
from service.vehicles.listing import TIME_LIMIT_S as LIST_LIMIT_S
from service.vehicles.removals import TIME_LIMIT_S
from service.web.lanes import Lane, LaneKinds, LaneLimits

MAX_LISTS: Final = 2
"""Lists at once: look-ups need the connections to the database too."""


class Lanes(NamedTuple):
    """The lanes of one process."""

    lookups: Lane
    """Occupied while the database is read."""
    removals: Lane
    """Occupied until the transaction of the group ends."""
    exports: Lane
    lists: Lane
    """Occupied while the database is read, which takes seconds for a rare filter."""


def open_lanes(identify: Callable[[Any], Hashable], settings: Settings) -> Lanes:
    """Return the lanes; `identify` returns the client of a request."""
    vehicles, limits = settings.vehicles, settings.limits
    lookups = LaneLimits.of(
        limits, concurrency=vehicles.max_lookups, time_limit_s=vehicles.deadline_s
    )
    removals = LaneLimits.of(
        limits, concurrency=vehicles.max_removals, time_limit_s=TIME_LIMIT_S
    )
    lists = LaneLimits.of(limits, concurrency=MAX_LISTS, time_limit_s=LIST_LIMIT_S)
    # An export may take minutes, so none waits for another.
    exports = LaneLimits(MAX_EXPORTS, 0, 0.0, MAX_EXPORT_S)

    def lane(name: str, kinds: LaneKinds, bounds: LaneLimits) -> Lane:
        return Lane(name, kinds, bounds, identify)

    return Lanes(
        lane(
            "vehicle_lookups",
            LaneKinds(problems.LOOKUPS_FULL, problems.VEHICLE_UNAVAILABLE),
            lookups,
        ),
        lane(
            "vehicle_removals",
            LaneKinds(problems.REMOVALS_FULL, problems.REMOVAL_TIMEOUT),
            removals,
        ),
        lane(
            "vehicle_exports",
            LaneKinds(problems.TOO_MANY_EXPORTS, problems.EXPORT_FAILED),
            exports,
        ),
        lane(
            "vehicle_lists",
            LaneKinds(problems.LOOKUPS_FULL, problems.VEHICLE_UNAVAILABLE),
            lists,
        ),
    )
