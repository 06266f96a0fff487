"""Freshness of cached answers, and the headers that state it (RFC 9111, 5861, 9211)."""

import math
from typing import Literal, NamedTuple

from service.settings import Cache

State = Literal["fresh", "revalidating", "expired"]
Result = Literal["hit", "stale", "miss"]
Forward = Literal["miss", "stale"]
"""Why a caller waited for a refresh: nothing was cached, or it was too old."""

CACHE_NAME = "copilot-usage"


class Freshness(NamedTuple):
    """The age of one answer, in whole seconds."""

    result: Result
    age_s: int
    left_s: int
    """What is left of its time to live; below 0 once it is stale."""
    policy: "Policy"
    forward: Forward | None = None

    @property
    def cache_status(self) -> str:
        """The `Cache-Status` header: where the answer came from, and if it is stale."""
        if self.forward is not None:
            return f"{CACHE_NAME}; fwd={self.forward}; stored"
        detail = "; detail=stale" if self.result == "stale" else ""
        return f"{CACHE_NAME}; hit; ttl={self.left_s}{detail}"

    @property
    def cache_control(self) -> str:
        """The `Cache-Control` header: what is left, and what stale answers are for."""
        return (
            f"max-age={max(0, self.left_s)}"
            f", stale-while-revalidate={int(self.policy.stale_while_revalidate_s)}"
            f", stale-if-error={int(self.policy.stale_if_error_s)}"
        )


class Policy(NamedTuple):
    """The times of the cache, in seconds."""

    ttl_s: float
    stale_while_revalidate_s: float
    stale_if_error_s: float

    @classmethod
    def of(cls, settings: Cache) -> "Policy":
        """Return the policy of the settings."""
        return cls(
            settings.ttl_s, settings.stale_while_revalidate_s, settings.stale_if_error_s
        )

    def state(self, age_s: float) -> State:
        """Return the use of a snapshot of this age while upstream is healthy."""
        if age_s < self.ttl_s:
            return "fresh"
        if age_s < self.ttl_s + self.stale_while_revalidate_s:
            return "revalidating"
        return "expired"

    def covers_failure(self, age_s: float) -> bool:
        """Return whether a snapshot of this age may be served when a refresh fails."""
        return age_s < self.ttl_s + self.stale_if_error_s

    def judge(self, age_s: float, forward: Forward | None = None) -> Freshness:
        """Return the freshness of an answer of this age."""
        left_s = math.ceil(self.ttl_s - age_s)
        result: Result = "miss" if forward else "hit" if left_s > 0 else "stale"
        return Freshness(result, int(age_s), left_s, self, forward)
