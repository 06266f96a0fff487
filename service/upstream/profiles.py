"""Profiles of upstreams: properties of a server that are not settings."""

import math
from typing import Final, NamedTuple


class UpstreamProfile(NamedTuple):
    """Properties of an upstream."""

    name: str
    """Its name in logs and metrics."""
    media_type: str | None = None
    """The only accepted type of its answers; None accepts any."""
    blocking_statuses: frozenset[int] = frozenset()
    """Statuses that mean that it blocks us; further calls would prolong that."""
    requests_per_s: float = 0.0
    """Maximum rate of tries; 0 means no limit."""
    repeats_timeouts: bool = False
    """True if a try that has timed out is repeated; a slow server is slow again."""
    max_hold_s: float = math.inf
    """Upper bound of the time for which a `Retry-After` closes its door."""
    holds_endpoints: bool = False
    """True if a `Retry-After` concerns only the endpoint that has sent it."""


COPILOT: Final = UpstreamProfile(
    "copilot", repeats_timeouts=True, max_hold_s=60.0, holds_endpoints=True
)
"""The API of messages and reports."""
