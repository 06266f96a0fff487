"""Timestamps of messages: validated, and turned into instants many at a time.

An instant is a whole number of microseconds since 1970-01-01T00:00:00Z. A timestamp
without an offset is UTC.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.instants import US_PER_S, read_instant

Instants = NDArray[np.int64]

BATCH: Final = 4096
"""Timestamps read at once; more would only fall out of the processor's cache."""

_COMMON_FORM: Final = "0000-00-00T00:00:00.000Z"
_ROW: Final = np.frombuffer(f"{_COMMON_FORM}\n".encode(), np.uint8)
_HIGHEST: Final = np.uint8(9) * (_ROW == ord("0"))
_FIELDS: Final = ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19), (20, 23))
"""Where year, month, day, hour, minute, second and milliseconds stand."""


def read_instants(timestamps: Sequence[str]) -> Instants:
    """Read many; `ValueError` names the first that is unreadable.

    The form that upstream nearly always sends is read for all messages at once; any
    other timestamp among them sends all of them the slower way.
    """
    starts = range(0, len(timestamps), BATCH)
    batches = [_read_batch(timestamps[at : at + BATCH]) for at in starts]
    return np.concatenate(batches) if batches else np.zeros(0, np.int64)


def _read_batch(timestamps: Sequence[str]) -> Instants:
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
    """Read `YYYY-MM-DDThh:mm:ss.mmmZ`, or give None where one has another form.

    The line feeds between them have to stand where the form ends. There are as many
    as timestamps, so none can hide inside one, and every timestamp has this length.
    """
    laid_out = "\n".join([*timestamps, ""]).encode("utf-8", "surrogatepass")
    if len(laid_out) != len(timestamps) * len(_ROW):
        return None
    digits = np.frombuffer(laid_out, np.uint8).reshape(-1, len(_ROW)) - _ROW
    if (digits > _HIGHEST).any():
        return None
    return _instants_of(*(digits.astype(np.float32) @ _WEIGHTS).T.astype(np.int64))


def _instants_of(*fields: NDArray[np.int64]) -> Instants | None:
    """Instants from the seven fields; None where a date or time does not exist."""
    year, month, day, hour, minute, second, millisecond = fields
    if np.any((year < 1) | (month < 1) | (month > 12) | (day < 1)):
        return None
    if np.any((hour > 23) | (minute > 59) | (second > 59)):
        return None
    months = ((year - 1970) * 12 + month - 1).view("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if np.any(days.astype("datetime64[M]") != months):
        return None
    seconds = days.view(np.int64) * 86_400 + hour * 3_600 + minute * 60 + second
    instants: Instants = seconds * US_PER_S + millisecond * 1_000
    return instants


def _weights() -> NDArray[np.float32]:
    """A column for each field: what its digits are worth. All sums are exact."""
    weights = np.zeros((len(_ROW), len(_FIELDS)), np.float32)
    for field, (begin, end) in enumerate(_FIELDS):
        weights[begin:end, field] = 10.0 ** np.arange(end - begin - 1, -1, -1)
    return weights


_WEIGHTS: Final = _weights()
