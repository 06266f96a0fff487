"""Freshness of cached answers by their age."""

from typing import Final

import pytest

from service.web.http_cache.freshness import (
    FreshnessState,
    Policy,
)

POLICY: Final = Policy(ttl_s=60, stale_while_revalidate_s=300, stale_if_error_s=600)
NO_CACHING: Final = Policy(0, 0, 0)


@pytest.mark.parametrize(
    "policy, age_s, state, covers_failure",
    [
        (POLICY, 0, "fresh", True),
        (POLICY, 60, "revalidating", True),
        (POLICY, 360, "expired", True),
        (POLICY, 659.999, "expired", True),
        (POLICY, 660, "expired", False),
        (POLICY, float("inf"), "expired", False),
        (Policy(60, 300, 0), 61, "revalidating", False),
        (NO_CACHING, 0, "expired", False),
    ],
)
def test_each_window_excludes_its_end(
    policy: Policy, age_s: float, state: FreshnessState, *, covers_failure: bool
) -> None:
    """A window includes its beginning and excludes its end."""
    assert policy.state(age_s) == state
    assert policy.covers_failure(age_s) is covers_failure


@pytest.mark.parametrize("age_s", [0, 0.25, 30, 59.9, 60, 60.1, 400])
def test_caches_and_we_agree_on_the_end(age_s: float) -> None:
    """Caches compare `Age` with `max-age`, which stays, so an answer ends once."""
    freshness = POLICY.judge(age_s)

    max_age, *_ = freshness.cache_control.split(", ")
    assert max_age == "max-age=60"
    assert (freshness.age_s < 60) is (freshness.result == "hit") is (age_s < 60)
    assert freshness.age_s + freshness.left_s == POLICY.ttl_s


@pytest.mark.parametrize("age_s", [0, 1.4, 1.6, 2, 2.4, 2.6, 3])
def test_a_fraction_of_the_time_to_live_changes_no_header(age_s: float) -> None:
    """Headers have whole seconds, so they change with those of the age only."""
    freshness = Policy(2.5, 0, 600).judge(age_s)

    assert freshness.cache_control.startswith("max-age=2,")
    assert freshness.age_s + freshness.left_s == 2
    assert (freshness.result == "hit") is (age_s < 2.5)
