"""A guard against lists of messages that suddenly have lost most of them.

An upstream in trouble may answer 200 with an empty list. That would be billed as 0, so
such a list is used only after a second fetch, some time later, that says the same.
"""

from collections.abc import Callable

import structlog

from service import metrics
from service.usage.errors import ShrinkUnconfirmed
from service.usage.snapshots.store import Shrink

log = structlog.get_logger()


class ShrinkGuard:
    """Remembers the shrink that was seen last, and when it was first seen."""

    def __init__(self, confirm_s: float, clock: Callable[[], float]) -> None:
        self._confirm_s = confirm_s
        self._clock = clock
        self.is_pending = False
        self._survivors = ""
        self._first_seen = 0.0

    def check(self, messages: int, shrink: Shrink | None) -> None:
        """Raise `ShrinkUnconfirmed` for a shrink that has not been confirmed yet.

        It is confirmed once a fetch at least `confirm_s` later has left the same of
        the known messages. Without a `confirm_s` nothing is checked.
        """
        was_pending, self.is_pending = self.is_pending, False
        if shrink is None or not self._confirm_s:
            return
        now = self._clock()
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
    """Return a shrink by counts alone, where the known messages are not at hand."""
    return Shrink(known, known - messages, "") if 2 * messages < known else None
