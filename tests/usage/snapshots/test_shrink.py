"""A shrink is the loss of most known messages, unless a new period begins."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.snapshots.shrink import KnownMessages, Shrink, find_shrink
from tests.reference import message, read

Sent = list[dict[str, Any]]

KNOWN: Final = range(1, 11)
LATER: Final = "2024-06-01T00:00:00Z"
EARLIER: Final = "2024-01-01T00:00:00Z"


def sent(ids: Any, timestamp: str | None = None) -> Sent:
    """Return a message for each id."""
    fields = {"timestamp": timestamp} if timestamp else {}
    return [message(each, **fields) for each in ids]


def shrink_of(known: Sent, now: Sent) -> Shrink | None:
    """Return the shrink from known messages to those of now."""
    before = read(known)
    return find_shrink(read(now), KnownMessages(before.ids, before.instants))


@pytest.mark.parametrize(
    "now, lost",
    [
        (sent([]), 10),
        (sent(KNOWN[:4]), 6),
        (sent(KNOWN[:5]), None),
        (sent([*range(20, 26), *KNOWN[6:]]), 6),
        (sent(range(20, 40), LATER), None),
        (sent([20], LATER), None),
        (sent(range(20, 40)), 10),
        (sent(range(20, 40), EARLIER), 10),
        (sent([20], LATER) + sent([21], EARLIER), 10),
        (sent([10], LATER) + sent(range(20, 40), LATER), 9),
        (sent(reversed(KNOWN)), None),
        (sent([*KNOWN, *KNOWN]), None),
        (sent([1] * 10), 9),
    ],
    ids=[
        *("empty", "more than half lost", "exactly half lost", "six lost, six new"),
        *("new period", "one of a new period", "others of the same time"),
        *("others, earlier", "others, later and earlier"),
        *("one known among later ones", "reordered", "duplicated", "one, ten times"),
    ],
)
def test_lost_messages_are_found(now: Sent, lost: int | None) -> None:
    """More than half of the known messages are lost, and no period begins."""
    shrink = shrink_of(sent(KNOWN), now)

    assert (shrink and (shrink.known, shrink.lost)) == (lost and (10, lost))


def test_survivors_identify_a_shrink() -> None:
    """A second fetch confirms the first if the same known messages remain."""
    first, again, more, other = (
        shrink_of(sent(KNOWN), sent(now))
        for now in ([1, 2], [2, 1], [1, 2, 30], [1, 3])
    )
    assert first == again == more
    assert isinstance(other, Shrink)
    assert isinstance(first, Shrink)
    assert first.survivors != other.survivors


@given(st.lists(st.integers(0, 9), max_size=9), st.lists(st.integers(0, 9)))
def test_shrink_counts_known_messages_that_are_gone(
    known: list[int], now: list[int]
) -> None:
    """Each known message counts, duplicates too, in any order."""
    shrink = shrink_of(sent(known), sent(now))
    lost = sum(each not in now for each in known)
    expected = lost if 2 * lost > len(known) else None
    assert (shrink.lost if shrink else None) == expected
