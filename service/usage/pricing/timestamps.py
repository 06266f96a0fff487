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

Fractions = NDArray[np.int64]
"""Attoseconds beyond the microseconds of instants."""

BATCH: Final = 4096
"""Timestamps in a batch: larger arrays do not fit the processor's cache."""

_COMMON_FORM: Final = "0000-00-00T00:00:00.000Z"
_ROW: Final = np.frombuffer(f"{_COMMON_FORM}\n".encode(), np.uint8)
_HIGHEST: Final = np.frombuffer(b"9999-19-39T29:59:59.999Z\n", np.uint8) - _ROW
"""The highest digit at each position; 0 for a character that must be the same."""
_FIELDS: Final = (
    {(0, 4): 12, (5, 7): 1},
    {(5, 7): 1},
    {(8, 10): 1},
    {(11, 13): 1},
    {(14, 16): 60_000, (17, 19): 1_000, (20, 23): 1},
)
"""Positions of digits with their weights.

The fields are months (12 for each year), month, day, hour, milliseconds of the hour.
"""
_MONTHS: Final = np.arange("0001-01", "10000-02", dtype="datetime64[M]")
_MONTH_STARTS: Final = _MONTHS.astype("datetime64[D]").view(np.int64)
"""Days from 1970-01-01 to each month of the years from 1."""
_FIRST_MONTH: Final = 13
"""The months that the fields have for January of the year 1."""


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
    digits = np.frombuffer(laid_out, np.uint8).reshape(-1, len(_ROW)) - _ROW
    if (digits > _HIGHEST).any():
        return None
    return _instants_of(*(digits.astype(np.float32) @ _WEIGHTS).T.astype(np.int64))


def _instants_of(*fields: NDArray[np.int64]) -> Instants | None:
    """Return instants of the five fields; None if a date or time does not exist."""
    months, month, day, hour, milliseconds = fields
    months = months - _FIRST_MONTH
    if np.any((months < 0) | (month < 1) | (month > 12) | (day < 1) | (hour > 23)):
        return None
    days = _MONTH_STARTS[months] + (day - 1)
    if np.any(days >= _MONTH_STARTS[months + 1]):
        return None
    instants: Instants = ((days * 24 + hour) * 3_600_000 + milliseconds) * 1_000
    return instants


def _weights() -> NDArray[np.float32]:
    """Return the weight of each digit: `(n_characters, n_fields)` float32."""
    # The largest sum is 3,599,999; float32 has all integers up to 2**24 exactly.
    weights = np.zeros((len(_ROW), len(_FIELDS)), np.float32)
    for field, numbers in enumerate(_FIELDS):
        for (begin, end), weight in numbers.items():
            weights[begin:end, field] = weight * 10.0 ** np.arange(end - begin)[::-1]
    return weights


_WEIGHTS: Final = _weights()
