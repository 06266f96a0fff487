"""Confirmation of lists that have lost most of the known messages.

A failing upstream may answer 200 with an empty list, which would be billed as 0. So
such a list is used only after a later fetch has returned the same messages.
"""

from collections.abc import Callable

import structlog

from service.usage import metrics
from service.usage.errors import ShrinkUnconfirmed
from service.usage.snapshots.shrink import Shrink

log = structlog.get_logger()


class ShrinkGuard:
    """Remembers the last shrink, and the time at which it was first seen."""

    def __init__(self, confirm_s: float, clock: Callable[[], float]) -> None:
        self._confirm_s = confirm_s
        self._clock = clock
        self.is_pending = False
        self._survivors = ""
        self._first_seen = 0.0

    def check(self, messages: int, shrink: Shrink | None) -> None:
        """Raise `ShrinkUnconfirmed` for a shrink that is not confirmed yet.

        A fetch confirms it if it is at least `confirm_s` later and has the same known
        messages. A `confirm_s` of 0 disables the check.
        """
        was_pending, self.is_pending = self.is_pending, False
        if shrink is None or not self._confirm_s:
            return
        now = self._clock()
        # Other survivors are another loss, which needs a confirmation of its own.
        if not was_pending or shrink.survivors != self._survivors:
            self._survivors, self._first_seen = shrink.survivors, now
        is_confirmed = now - self._first_seen >= self._confirm_s
        result = "confirmed" if is_confirmed else "unconfirmed"
        metrics.messages_shrunk(result)
        log.warning(
            "usage.messages.shrunk",
            result=result,
            messages=messages,
            known=shrink.known,
            lost=shrink.lost,
        )
        if not is_confirmed:
            self.is_pending = True
            raise ShrinkUnconfirmed(
                f"{shrink.lost} of {shrink.known} messages are gone"
            )


def find_shrink_by_count(known: int, messages: int) -> Shrink | None:
    """Return a shrink by counts alone, for a process without the known messages."""
    return Shrink(known, known - messages, "") if 2 * messages < known else None
