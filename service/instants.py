"""Instants as integers: microseconds since 1970-01-01T00:00:00Z.

An exact instant has the digits beyond a microsecond too, as attoseconds (1e-18 s).
"""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Final

US_PER_S: Final = 1_000_000
MAX_MICROSECOND_CHARACTERS: Final = len("20240429T02.375000")
"""A longer timestamp may have an offset, or digits beyond a microsecond."""

ExactInstant = tuple[int, int]
"""Microseconds, and attoseconds from 0 to 999,999,999,999."""

_ATTOSECOND_DIGITS: Final = 12
# The offset, which follows no earlier than the tenth character, may have digits of its
# own beyond a microsecond, which are left out.
_FRACTION: Final = re.compile(
    rf".{{9}}[^+-]*[.,][0-9]{{6}}([0-9]{{1,{_ATTOSECOND_DIGITS}}})"
)

_DAYS_OF_400_YEARS: Final = 146_097
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WITHOUT_ZONE: Final = _EPOCH.replace(tzinfo=None)


def read_instant(timestamp: str) -> int:
    """Parse an ISO 8601 timestamp, in UTC if it has no offset; raises `ValueError`.

    Digits beyond a microsecond are left out; `read_fraction` returns them.
    """
    # Python accepts any character between the date and the time. A lone surrogate could
    # not be encoded, neither in an answer nor for a database.
    timestamp.encode()
    # RFC 3339 §5.6 allows lower case, which Python refuses.
    if timestamp.endswith("z"):
        timestamp = timestamp[:-1] + "Z"
    parsed = datetime.fromisoformat(timestamp)
    since = parsed - (_EPOCH_WITHOUT_ZONE if parsed.tzinfo is None else _EPOCH)
    # Dividing by a timedelta would take five times as long.
    return (since.days * 86_400 + since.seconds) * US_PER_S + since.microseconds


def read_fraction(timestamp: str) -> int:
    """Return the attoseconds of a valid timestamp, beyond its microseconds."""
    if len(timestamp) <= MAX_MICROSECOND_CHARACTERS:
        return 0
    digits = _FRACTION.match(timestamp)
    return int(digits[1].ljust(_ATTOSECOND_DIGITS, "0")) if digits else 0


def read_exact(timestamp: str) -> ExactInstant:
    """Parse an ISO 8601 timestamp exactly; raises `ValueError`."""
    return read_instant(timestamp), read_fraction(timestamp)


def now_us() -> int:
    """Return the current instant."""
    return time.time_ns() // 1_000


def format_instant(instant: int) -> str:
    """Format an instant as ISO 8601 in UTC: `2024-04-29T02:08:29.375000Z`.

    The year may be 0 or 10000, to which the offset of a timestamp may move it.
    """
    try:
        moment = _EPOCH + timedelta(microseconds=instant)
    except OverflowError:
        return _format_beyond(instant)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _format_beyond(instant: int) -> str:
    """Format an instant beyond the years of `datetime`."""
    # The calendar repeats after 400 years, so the same day of a nearer year is taken.
    cycles = 1 if instant < 0 else -1
    nearer = timedelta(days=cycles * _DAYS_OF_400_YEARS, microseconds=instant)
    moment = (_EPOCH_WITHOUT_ZONE + nearer).isoformat(timespec="microseconds")
    year, _, rest = moment.partition("-")
    return f"{int(year) - cycles * 400:04}-{rest}Z"
