"""Timestamps of messages: validated, and converted to instants in batches.

An instant is a whole number of microseconds since 1970-01-01T00:00:00Z. A timestamp
without an offset is UTC.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.instants import read_fraction, read_instant

Instants = NDArray[np.int64]

Days = NDArray[np.int64]
"""Days since 1970-01-01, in UTC."""

Fractions = NDArray[np.int64]
"""Attoseconds beyond the microseconds of instants."""

BATCH: Final = 2048
"""Timestamps in a batch: larger arrays do not fit the processor's cache.

OpenBLAS also starts threads for larger products (262,144), which takes longer.
"""

_COMMON_FORM: Final = "0000-00-00T00:00:00.000Z"
_ROW: Final = np.frombuffer(f"{_COMMON_FORM}\n".encode(), np.uint8)
_HIGHEST_ROW: Final = np.frombuffer(b"9999-19-39T29:59:59.999Z\n", np.uint8) - _ROW
"""The highest digit at each position; 0 for a character that must be the same."""
# As long as a batch: numpy would loop over each row of 25 bytes by itself.
_ROWS: Final = np.tile(_ROW, BATCH)
_HIGHEST: Final = np.tile(_HIGHEST_ROW, BATCH)
_US_PER_MINUTE: Final = 60_000_000
_US_PER_DAY: Final = 86_400_000_000
_MINUTES_PER_DAY: Final = 1_440
_MONTHS_OF_YEAR: Final = 20
"""Values that the two digits of a month can have; the first year is 0."""
_FIELDS: Final = (
    {(0, 4): _MONTHS_OF_YEAR, (5, 7): 1},
    {(8, 10): 1},
    {(11, 13): 60, (14, 16): 1},
    {
        (8, 10): _US_PER_DAY,
        (11, 13): 60 * _US_PER_MINUTE,
        (14, 16): _US_PER_MINUTE,
        (17, 19): 1_000_000,
        (20, 23): 1_000,
    },
)
"""Positions of digits with their weights.

The fields are the month, the day, the minute of the day, and the microseconds since the
day before the month.
"""


class ExactInstants(NamedTuple):
    """Instants of timestamps: two columns of shape `(n_timestamps,)`, int64."""

    microseconds: Instants
    fractions: Fractions | None
    """Attoseconds beyond the microseconds; None where all are 0."""


def read_instants(timestamps: Sequence[str]) -> ExactInstants:
    """Parse timestamps; raises `ValueError` that quotes the first invalid one."""
    starts = range(0, len(timestamps), BATCH)
    batches = [_read_batch(timestamps[at : at + BATCH]) for at in starts]
    return join(batches)


def join(parts: Sequence[ExactInstants]) -> ExactInstants:
    """Return the instants of all parts, in their order."""
    if not parts:
        return ExactInstants(np.zeros(0, np.int64), None)
    microseconds = np.concatenate([each.microseconds for each in parts])
    if all(each.fractions is None or not each.fractions.any() for each in parts):
        return ExactInstants(microseconds, None)
    fractions = [
        np.zeros(len(each.microseconds), np.int64)
        if each.fractions is None
        else each.fractions
        for each in parts
    ]
    return ExactInstants(microseconds, np.concatenate(fractions))


def _read_batch(timestamps: Sequence[str]) -> ExactInstants:
    # One timestamp in another form makes its whole batch take the slower way.
    instants = _read_common_form(timestamps)
    if instants is not None:
        return ExactInstants(instants, None)
    count = len(timestamps)
    instants = np.fromiter(map(_read_or_name, timestamps), np.int64, count)
    fractions = np.fromiter(map(read_fraction, timestamps), np.int64, count)
    return ExactInstants(instants, fractions if fractions.any() else None)


def _read_or_name(timestamp: str) -> int:
    try:
        return read_instant(timestamp)
    except ValueError:
        raise ValueError(f"unreadable timestamp {timestamp[:40]!r}") from None


def _read_common_form(timestamps: Sequence[str]) -> Instants | None:
    """Parse `YYYY-MM-DDThh:mm:ss.mmmZ`; return None if one has another form."""
    # Every timestamp has the right length if each line feed is at the end of a row.
    # There are as many line feeds as rows, so none can be inside a timestamp.
    laid_out = "\n".join([*timestamps, ""]).encode("utf-8", "surrogatepass")
    if len(laid_out) != len(timestamps) * len(_ROW):
        return None
    digits = np.frombuffer(laid_out, np.uint8) - _ROWS[: len(laid_out)]
    if (digits > _HIGHEST[: len(laid_out)]).any():
        return None
    fields = _WEIGHTS @ digits.reshape(-1, len(_ROW)).astype(np.float64).T
    month, day, minute = fields[:3].astype(np.intp)
    if (minute >= _MINUTES_PER_DAY).any() or (day < 1).any():
        return None
    if (day > _DAYS_OF_MONTH[month]).any():
        return None
    instants: Instants = fields[3].astype(np.int64) + _MONTH_BEGINS[month]
    return instants


def read_common_days(words: NDArray[np.uint64]) -> Days | None:
    """Return the days of timestamps of the form `YYYY-MM-DDThh:mm:ss.mmmZ`.

    `words` are their characters, eight in each: `(n_timestamps, 3)` little-endian
    uint64. Returns `(n_timestamps,)` int64, days since 1970-01-01; None if a timestamp
    has another form, or does not exist.
    """
    # Eight characters are compared at once: a difference has its highest bit if the
    # character is not below the lowest one, and not above the highest one.
    tested = _TOP_BITS
    for place in range(words.shape[1]):
        word = words[:, place]
        low, high = _LOWEST_WORDS[place], _HIGHEST_WORDS[place] | _TOP_BITS
        tested = tested & ((word | _TOP_BITS) - low) & (high - word) & ~word
    if not (tested == _TOP_BITS).all():
        return None
    date, time = (_pair_digits(words[:, place]) for place in (0, 1))
    year = _byte(date, 0) * 100 + _byte(date, 2)
    month = year * _MONTHS_OF_YEAR + _byte(date, 5)
    day, hour = _byte(time, 0), _byte(time, 3)
    if (hour > 23).any() or (day < 1).any() or (day > _DAYS_OF_MONTH[month]).any():
        return None
    days: Days = _MONTH_BEGINS_DAYS[month] + day
    return days


def _pair_digits(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the number of two digits in the byte of the first one."""
    digits = words & np.uint64(0x0F0F0F0F0F0F0F0F)
    paired: NDArray[np.uint64] = digits * np.uint64(10) + (digits >> np.uint64(8))
    return paired


def _byte(words: NDArray[np.uint64], place: int) -> NDArray[np.int64]:
    values: NDArray[np.uint64] = (words >> np.uint64(8 * place)) & np.uint64(0xFF)
    return values.view(np.int64)


def _weights() -> NDArray[np.float64]:
    """Return the weight of each digit: `(n_fields, n_characters)` float64."""
    # All sums are integers below 2**53, which float64 has exactly.
    weights = np.zeros((len(_FIELDS), len(_ROW)))
    for field, numbers in enumerate(_FIELDS):
        for (begin, end), weight in numbers.items():
            weights[field, begin:end] = weight * 10.0 ** np.arange(end - begin)[::-1]
    return weights


def _months() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the day before each month in microseconds, and the days that it has.

    Both are `(n_months,)` int64, by the field of the month. Months that do not exist
    have no day.
    """
    years = np.arange("0001", "10000", dtype="datetime64[Y]").astype("datetime64[M]")
    begins = years[:, np.newaxis] + np.arange(13)
    days = begins.astype("datetime64[D]").view(np.int64)
    shape = len(years) + 1, _MONTHS_OF_YEAR
    before, lengths = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    before[1:, 1:13] = (days[:, :-1] - 1) * _US_PER_DAY
    lengths[1:, 1:13] = np.diff(days)
    return before.ravel(), lengths.ravel()


_WEIGHTS: Final = _weights()
_MONTH_BEGINS, _DAYS_OF_MONTH = _months()
_MONTH_BEGINS_DAYS: Final = _MONTH_BEGINS // _US_PER_DAY
_TOP_BITS: Final = np.uint64(0x8080808080808080)
_LOWEST_WORDS: Final = _ROW[:-1].view("<u8")
_HIGHEST_WORDS: Final = (_HIGHEST_ROW + _ROW)[:-1].view("<u8")
