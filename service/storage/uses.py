"""Uses of the database, each with connections of its own.

So one kind of work never waits for the connections of another one.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from service.settings import StorageSettings


class Use(StrEnum):
    """The work that a transaction is for; metrics and log lines have its value."""

    KEYS = "keys"
    """Reads of the API keys, by one background task."""
    EVENTS = "events"
    """Writes of events, at most two groups at a time."""
    EVENT_QUERIES = "event_queries"
    """Queries on events, in a lane."""
    FEED = "feed"
    """Queries on events by their consumers."""
    USAGE = "usage"
    """Reads of the messages of a period, by a refresh."""
    PERIODS = "periods"
    """Kept periods: writes of one background task, and reads of requests."""
    BUDGETS = "budgets"
    """Budgets, and the deliveries of their firings."""
    VEHICLES = "vehicles"
    """Look-ups and removals of vehicles."""
    RETENTION = "retention"
    """Maintenance by background tasks: counts, and removals of expired rows."""
    SCHEMA = "schema"
    """The check of the schema at the start, and migrations."""
    OTHER = "other"
    """Replays of failed events, and commands."""


TIMED_BY_CALLER: Final = frozenset({Use.EVENT_QUERIES, Use.USAGE})
"""Uses whose callers limit the time, so that a statement may exceed `timeout_s`."""
LOGGED_BY_CALLER: Final = frozenset(
    {
        *(Use.EVENTS, Use.PERIODS, Use.BUDGETS),
        *(Use.VEHICLES, Use.RETENTION, Use.SCHEMA),
    }
)
"""Uses whose callers log each failure with their own event."""

EVENT_CONNECTIONS: Final = 2
"""Groups of events that are written at once; one after the other in SQLite."""
USAGE_CONNECTIONS: Final = 2
PERIOD_CONNECTIONS: Final = 2
BUDGET_CONNECTIONS: Final = 2


class UseLimits(NamedTuple):
    """Bounds that depend on settings of other sections."""

    queue_wait_s: float
    """Maximum wait of a write for its turn, except of events."""
    event_queries: int
    """Number of event queries that run at once."""
    logs_failures: bool = True
    """Whether failures are logged; a command reports its own."""


COMMAND: Final = UseLimits(5.0, event_queries=1, logs_failures=False)
"""The bounds for a command, which serves no requests."""


def connections_of(settings: StorageSettings, limits: UseLimits) -> Mapping[Use, int]:
    """Return the maximum number of connections of each use."""
    return {
        Use.KEYS: 1,
        Use.EVENTS: EVENT_CONNECTIONS,
        Use.EVENT_QUERIES: limits.event_queries,
        Use.FEED: limits.event_queries,
        Use.USAGE: USAGE_CONNECTIONS,
        Use.PERIODS: PERIOD_CONNECTIONS,
        Use.BUDGETS: BUDGET_CONNECTIONS,
        Use.VEHICLES: settings.connections,
        Use.RETENTION: 1,
        Use.SCHEMA: 1,
        Use.OTHER: settings.connections,
    }
