"""The times of the attempts to deliver a firing, over three days."""

import random
from typing import Final

FIRST_WAIT_S: Final = 5.0
FACTOR: Final = 3.0
MAX_WAIT_S: Final = 6 * 3_600.0
MAX_ATTEMPTS: Final = 21
"""The waits are 5 s, 15 s, 45 s, … and 6 h from the ninth on: 3.2 days in all."""
JITTER: Final = 0.2
"""Waits vary by this share, so that a receiver that is back is not overrun."""


def wait_after(attempt: int, retry_after_s: float | None = None) -> float:
    """Return the seconds after a failed attempt, counted from 1.

    A receiver may ask for a longer wait, up to `MAX_WAIT_S`.
    """
    exponent = min(attempt - 1, MAX_ATTEMPTS)  # a higher one may overflow
    wait_s = min(FIRST_WAIT_S * FACTOR**exponent, MAX_WAIT_S)
    wait_s *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
    return max(wait_s, min(retry_after_s or 0.0, MAX_WAIT_S))
