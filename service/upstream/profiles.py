"""Profiles of upstreams: properties of a server that are not settings."""

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


COPILOT: Final = UpstreamProfile("copilot")
"""The API of messages and reports."""
