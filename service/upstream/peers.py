"""Who is called: what is peculiar to one server, beside the settings of its calls."""

import math
from typing import Final, NamedTuple


class Peer(NamedTuple):
    """A server, as its client has to know it."""

    name: str
    """What logs and metrics call it."""
    media_type: str | None = None
    """The only type that its answers may have; None takes any."""
    refusals: frozenset[int] = frozenset()
    """Statuses by which it shuts us out: asking on would make it worse."""
    requests_per_s: float = 0.0
    """Tries a second that it bears; 0 is no limit."""
    patience_s: float = math.inf
    """How long a try may wait for its turn under that limit; else it is not made."""


COPILOT: Final = Peer("copilot")
"""The API of messages and reports."""
