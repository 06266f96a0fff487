"""Timestamps of messages: validated, and turned into instants many at a time.

An instant is a whole number of microseconds since 1970-01-01T00:00:00Z. A timestamp
without an offset is UTC.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

Instants = NDArray[np.int64]

US_PER_S: Final = 1_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_COMMON_FORM: Final = "0000-00-00T00:00:00.000Z"
_IS_DIGIT: Final = np.array([mark == "0" for mark in _COMMON_FORM])
_MARKS: Final = np.frombuffer(_COMMON_FORM.encode(), np.uint8)


def read_instant(timestamp: str) -> int:
    """Read one ISO 8601 timestamp; `ValueError` where it is unreadable."""
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def read_instants(timestamps: Sequence[str]) -> Instants:
    """Read many; `ValueError` names the first that is unreadable.

    The form that upstream nearly always sends is read for all messages at once; any
    other timestamp among them sends all of them the slower way.
    """
    instants = _read_common_form(timestamps)
    if instants is not None:
        return instants
    return np.fromiter(map(_read_or_name, timestamps), np.int64, len(timestamps))


def _read_or_name(timestamp: str) -> int:
    try:
        return read_instant(timestamp)
    except ValueError:
        raise ValueError(f"unreadable timestamp {timestamp[:40]!r}") from None


def _read_common_form(timestamps: Sequence[str]) -> Instants | None:
    """Read `YYYY-MM-DDThh:mm:ss.mmmZ`, or give None where one has another form."""
    if set(map(len, timestamps)) != {len(_COMMON_FORM)}:
        return None
    laid_out = "".join(timestamps).encode("utf-8", "surrogatepass")
    if len(laid_out) != len(timestamps) * len(_COMMON_FORM):
        return None
    marks = np.frombuffer(laid_out, np.uint8).reshape(-1, len(_COMMON_FORM))
    offsets = marks - _MARKS
    if (offsets > np.where(_IS_DIGIT, 9, 0)).any():
        return None
    return _instants_of(np.ascontiguousarray(offsets.T[_IS_DIGIT]).astype(np.int32))


def _instants_of(digits: NDArray[np.int32]) -> Instants | None:
    """Combine rows of digits; None where a date or time does not exist."""
    year, month, day, hour, minute, second, milli = (
        sum(row * 10**power for power, row in enumerate(reversed(rows)))
        for rows in np.split(digits, [4, 6, 8, 10, 12, 14])
    )
    if np.any((year < 1) | (month < 1) | (month > 12) | (day < 1)):
        return None
    if np.any((hour > 23) | (minute > 59) | (second > 59)):
        return None
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if np.any(days.astype("datetime64[M]") != months):
        return None
    seconds = days.astype(np.int64) * 86_400 + hour * 3_600 + minute * 60 + second
    instants: Instants = seconds * US_PER_S + milli * np.int64(1_000)
    return instants
