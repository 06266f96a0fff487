"""Correction of timestamps of a sender whose clock is wrong.

A request states the time of its sender's clock when it is sent. What this differs from
the time of its arrival is the skew of the clock, which is added to its timestamps.
"""

from typing import Final, NamedTuple, Self

from msgspec.structs import replace
from multidict import MultiMapping

from service.events.model import Event, EventFailure
from service.instants import US_PER_S, format_instant, now_us, read_instant
from service.settings import EventsSettings

SENT_AT: Final = "X-Sent-At"
TOLERANCE_S: Final = 5
"""Differences that the network and queues before the service explain, too."""
_FIRST: Final = read_instant("0001-01-01T00:00:00Z")
_LAST: Final = read_instant("9999-12-31T23:59:59.999999Z")


class Clocks(NamedTuple):
    """The clocks of the service and of a sender at the arrival of a request."""

    arrived_at: int
    sent_at: int | None
    """None if the sender does not state the time of its clock, or unreadably."""

    @classmethod
    def of(cls, headers: MultiMapping[str]) -> Self:
        """Return the clocks of a request that has just arrived."""
        # Two different times tell nothing. A proxy may repeat a header as it is.
        stated = set(headers.getall(SENT_AT, ()))
        return cls(now_us(), read_sent_at(*stated) if len(stated) == 1 else None)

    def stating(self, sent_at: object) -> Self:
        """Return the clocks with a time that the body states, if it is readable."""
        found = read_sent_at(sent_at)
        return self if found is None else self._replace(sent_at=found)

    def skew_us(self, settings: EventsSettings) -> int:
        """Return the time to add to the sender's timestamps, in microseconds.

        It is 0 within the tolerance. It is also 0 beyond `events.max_clock_skew_s`: a
        time so wrong is a constant or a repeated request rather than a clock.
        """
        if self.sent_at is None:
            return 0
        skew_us = self.arrived_at - self.sent_at
        max_us = settings.max_clock_skew_s * US_PER_S
        return skew_us if TOLERANCE_S * US_PER_S < abs(skew_us) <= max_us else 0


UNKNOWN: Final = Clocks(0, None)


def read_sent_at(stated: object) -> int | None:
    """Return a stated time in microseconds since 1970; None if it is none."""
    try:
        return read_instant(stated.strip()) if isinstance(stated, str) else None
    except (ValueError, OverflowError):
        return None


def is_in_calendar(at: int) -> bool:
    """Return whether a time may be that of a correction, in microseconds since 1970."""
    return _FIRST <= at <= _LAST


def corrected(item: Event | EventFailure, skew_us: int) -> Event | EventFailure:
    """Return an event with its time corrected, and with its time as it was sent."""
    if not skew_us:
        return item
    origin = item.origin._replace(skew_us=skew_us)
    if isinstance(item, EventFailure):
        at = None if item.at is None else item.at + skew_us
        return replace(item, at=at, origin=origin)
    at = item.at + skew_us
    if not is_in_calendar(at):
        return item  # clients cannot read a timestamp of the year 0 or 10000
    return replace(
        item,
        at=at,
        timestamp=format_instant(at),
        sent_at=item.at,
        sent_timestamp=item.timestamp,
        origin=origin,
    )
