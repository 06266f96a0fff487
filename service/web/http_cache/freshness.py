"""Freshness of cached answers, and the headers that state it (RFC 9111, 5861, 9211)."""

from typing import Final, Literal, NamedTuple

from service.settings import CacheSettings

FreshnessState = Literal["fresh", "revalidating", "expired"]
CacheResult = Literal["hit", "stale", "miss"]
Forward = Literal["miss", "stale"]
"""Why the request waited for a refresh: nothing was cached, or it was too old."""

CACHE_NAME = "copilot-usage"
NEGOTIATED: Final = "Accept, Accept-Encoding"
CREDENTIALS: Final = "Authorization, X-API-Key, Cookie"


class Freshness(NamedTuple):
    """The age of one answer, in whole seconds."""

    result: CacheResult
    age_s: int
    left_s: int
    """The rest of its `max-age`; negative once it is older than that."""
    policy: "Policy"
    forward: Forward | None = None

    @property
    def cache_status(self) -> str:
        """The `Cache-Status` header: a hit or a miss, and whether it is stale."""
        if self.forward is not None:
            return f"{CACHE_NAME}; fwd={self.forward}; stored"
        detail = "; detail=stale" if self.result == "stale" else ""
        return f"{CACHE_NAME}; hit; ttl={self.left_s}{detail}"

    @property
    def cache_control(self) -> str:
        """The `Cache-Control` header: max-age, and the use of stale answers."""
        # The whole time to live: a cache subtracts `Age` itself (RFC 9111 §4.2).
        shared = "private, " if self.policy.is_private else ""
        if self.policy.is_immutable:
            return f"{shared}max-age={int(self.policy.ttl_s)}, immutable"
        return (
            f"{shared}max-age={int(self.policy.ttl_s)}"
            f", stale-while-revalidate={int(self.policy.stale_while_revalidate_s)}"
            f", stale-if-error={int(self.policy.stale_if_error_s)}"
        )

    @property
    def vary(self) -> str:
        """The `Vary` header: the headers of a request by which answers differ."""
        # Who signs in next in a browser must not get what it has stored for others.
        return f"{NEGOTIATED}, {CREDENTIALS}" if self.policy.is_private else NEGOTIATED


class Policy(NamedTuple):
    """The times of the cache, in seconds."""

    ttl_s: float
    stale_while_revalidate_s: float
    stale_if_error_s: float
    is_private: bool = False
    """Answers are for clients with a key, so shared caches must not store them."""
    is_immutable: bool = False
    """Answers never change, so caches need not ask again (RFC 8246)."""

    @classmethod
    def of(cls, settings: CacheSettings, *, is_private: bool = False) -> "Policy":
        """Return the policy of the settings."""
        return cls(
            settings.ttl_s,
            settings.stale_while_revalidate_s,
            settings.stale_if_error_s,
            is_private,
        )

    def state(self, age_s: float) -> FreshnessState:
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
        is_fresh = age_s < self.ttl_s
        result: CacheResult = "miss" if forward else "hit" if is_fresh else "stale"
        # Age and rest add up to `max-age`, and change at the same time.
        left_s = int(self.ttl_s) - int(age_s)
        return Freshness(result, int(age_s), left_s, self, forward)
