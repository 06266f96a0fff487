"""Token buckets."""

from service.web.token_buckets import TokenBuckets
from tests.clock import Clock
from tests.web.limits_settings import limits


def test_a_bucket_refills() -> None:
    """A client may spend the burst at once, and then the refilled tokens."""
    clock = Clock()
    buckets = TokenBuckets(limits(rate_per_s=2.0, burst=3), clock)

    first = [buckets.take("a") for _ in range(5)]
    clock.pass_s(1.0)
    later = [buckets.take("a") for _ in range(3)]
    clock.pass_s(1_000.0)
    rested = buckets.take("a")

    assert [each.is_allowed for each in first] == [True, True, True, False, False]
    assert [each.remaining for each in first] == [2, 1, 0, 0, 0]
    assert [each.is_allowed for each in later] == [True, True, False]
    assert rested.remaining == 2


def test_a_refused_request_costs_nothing() -> None:
    """A client that retries too early waits no longer than one that does not."""
    clock = Clock()
    buckets = TokenBuckets(limits(rate_per_s=0.1, burst=1), clock)
    buckets.take("a")

    assert {buckets.take("a") for _ in range(9)} == {(False, 0, 10)}
    clock.pass_s(9.5)
    assert buckets.take("a") == (False, 0, 1)
    clock.pass_s(0.5)
    assert buckets.take("a").is_allowed


def test_a_refunded_token_can_be_taken_again() -> None:
    """A client is charged once for a request that is judged twice."""
    clock = Clock()
    buckets = TokenBuckets(limits(rate_per_s=0.1, burst=2), clock)
    buckets.take("a")
    buckets.take("a")
    buckets.refund("a")
    clock.pass_s(0.001)
    assert [buckets.take("a").is_allowed for _ in range(2)] == [True, False]


def test_the_longest_idle_bucket_is_dropped() -> None:
    """The number of stored clients has a maximum."""
    buckets = TokenBuckets(limits(burst=1, max_clients=2), Clock())
    for client in ("old", "busy", "busy", "new"):
        buckets.take(client)

    assert len(buckets) == 2
    assert not buckets.take("busy").is_allowed
    assert buckets.take("old").is_allowed
