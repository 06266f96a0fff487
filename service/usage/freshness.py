"""How old a held period may be, and how its age is told (RFC 9111, 5861 and 9211)."""

import math
from typing import Literal, NamedTuple

from service.settings import Cache

State = Literal["fresh", "revalidating", "expired"]
Result = Literal["hit", "stale", "miss"]
Forward = Literal["miss", "stale"]
"""Why upstream was asked while the caller waited: nothing was held, or too old."""

CACHE_NAME = "copilot-usage"


class Freshness(NamedTuple):
    """How one answer stands in time, in whole seconds."""

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
        """The policy that the settings want."""
        return cls(
            settings.ttl_s, settings.stale_while_revalidate_s, settings.stale_if_error_s
        )

    def state(self, age_s: float) -> State:
        """What a period of this age is good for while upstream is well."""
        if age_s < self.ttl_s:
            return "fresh"
        if age_s < self.ttl_s + self.stale_while_revalidate_s:
            return "revalidating"
        return "expired"

    def covers_failure(self, age_s: float) -> bool:
        """Whether a period of this age may still be sent when a refresh fails."""
        return age_s < self.ttl_s + self.stale_if_error_s

    def judge(self, age_s: float, forward: Forward | None = None) -> Freshness:
        """How an answer of this age is told."""
        left_s = math.ceil(self.ttl_s - age_s)
        result: Result = "miss" if forward else "hit" if left_s > 0 else "stale"
        return Freshness(result, int(age_s), left_s, self, forward)
