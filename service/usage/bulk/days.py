"""Days of timestamps in a column of Arrow, in UTC."""

from typing import Any, Final

import numpy as np

from service.instants import read_instant
from service.usage.bulk.binary_columns import bytes_of, lengths_of
from service.usage.pricing.timestamps import Days, read_common_days

BATCH: Final = 8_192
"""Timestamps that are read at once; larger arrays do not fit the processor's cache."""
NO_DAY: Final = np.iinfo(np.int64).min
"""Stands for the day of a timestamp that is missing, or that is not readable."""
US_PER_DAY: Final = 86_400_000_000
COMMON_CHARACTERS: Final = len("2024-04-29T03:25:03.613Z")


def read_days(timestamps: Any) -> Days:
    """Return the day of each timestamp of a binary column: `(n_timestamps,)` int64."""
    starts = range(0, len(timestamps), BATCH)
    batches = [_read_batch(timestamps.slice(at, BATCH)) for at in starts]
    return np.concatenate([*batches, np.zeros(0, np.int64)])


def _read_batch(timestamps: Any) -> Days:
    # One timestamp in another form makes its whole batch take the slower way.
    if (lengths_of(timestamps) == COMMON_CHARACTERS).all():
        # A copy, because the column need not begin at a multiple of eight bytes.
        words = bytes_of(timestamps).copy().view("<u8").reshape(-1, 3)
        days = read_common_days(words)
        if days is not None:
            return days
    return np.fromiter(map(_read_day, timestamps), np.int64, len(timestamps))


def _read_day(timestamp: Any) -> int:
    raw = timestamp.as_py()
    if raw is None:
        return NO_DAY
    try:
        return read_instant(raw.decode()) // US_PER_DAY
    except ValueError:  # of which `UnicodeDecodeError` is one
        return NO_DAY
