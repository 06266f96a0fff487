"""What age makes of a held period, and how its headers tell that to caches."""

from typing import Final

import pytest

from service.usage.freshness import Forward, Policy, Result, State

POLICY: Final = Policy(ttl_s=60, stale_while_revalidate_s=300, stale_if_error_s=600)
HOLDS_NOTHING: Final = Policy(0, 0, 0)


@pytest.mark.parametrize(
    "policy, age_s, state, covers_failure",
    [
        (POLICY, 0, "fresh", True),
        (POLICY, 59.999, "fresh", True),
        (POLICY, 60, "revalidating", True),
        (POLICY, 359.999, "revalidating", True),
        (POLICY, 360, "expired", True),
        (POLICY, 659.999, "expired", True),
        (POLICY, 660, "expired", False),
        (POLICY, float("inf"), "expired", False),
        (Policy(60, 300, 0), 59, "fresh", True),
        (Policy(60, 300, 0), 61, "revalidating", False),
        (HOLDS_NOTHING, 0, "expired", False),
    ],
)
def test_windows_begin_and_end_to_the_moment(
    policy: Policy, age_s: float, state: State, *, covers_failure: bool
) -> None:
    """A window holds its beginning and not its end, as ages are counted in HTTP."""
    assert policy.state(age_s) == state
    assert policy.covers_failure(age_s) is covers_failure


@pytest.mark.parametrize(
    "age_s, result, age, max_age, cache_status",
    [
        (0, "hit", 0, 60, "copilot-usage; hit; ttl=60"),
        (0.001, "hit", 0, 60, "copilot-usage; hit; ttl=60"),
        (1, "hit", 1, 59, "copilot-usage; hit; ttl=59"),
        (59.5, "hit", 59, 1, "copilot-usage; hit; ttl=1"),
        (60, "stale", 60, 0, "copilot-usage; hit; ttl=0; detail=stale"),
        (60.5, "stale", 60, 0, "copilot-usage; hit; ttl=0; detail=stale"),
        (61, "stale", 61, 0, "copilot-usage; hit; ttl=-1; detail=stale"),
        (86_460, "stale", 86_460, 0, "copilot-usage; hit; ttl=-86400; detail=stale"),
    ],
)
def test_an_age_is_told_exactly(
    age_s: float, result: Result, age: int, max_age: int, cache_status: str
) -> None:
    """`Age` counts up, `max-age` down to 0, and `ttl` on below it."""
    freshness = POLICY.judge(age_s)

    assert (freshness.result, freshness.age_s) == (result, age)
    assert freshness.cache_status == cache_status
    assert freshness.cache_control == (
        f"max-age={max_age}, stale-while-revalidate=300, stale-if-error=600"
    )


@pytest.mark.parametrize("forward", ["miss", "stale"])
def test_a_caller_who_waited_is_told_why(forward: Forward) -> None:
    """Upstream was asked: nothing was held, or nothing fresh; the log says miss."""
    freshness = POLICY.judge(0.5, forward)

    assert freshness.result == "miss"
    assert freshness.cache_status == f"copilot-usage; fwd={forward}; stored"
    assert freshness.cache_control.startswith("max-age=60,")


@pytest.mark.parametrize("age_s", [0, 0.25, 30, 59.9])
def test_caches_and_we_agree_on_the_end(age_s: float) -> None:
    """`Age` and `max-age` always make the time to live, however the seconds round."""
    freshness = POLICY.judge(age_s)

    assert freshness.age_s + freshness.left_s == POLICY.ttl_s
