"""Amounts in hundredths as decimals of Arrow with two digits behind the point.

The memory of both is the same, so neither direction copies.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CREDITS: Final = pa.decimal64(18, 2)
"""A price: the most expensive report costs 1,000,000,000 credits."""
STEP: Final = pa.decimal32(9, 2)
"""An amount of a step: no text has enough characters for more digits."""


def to_credits(hundredths: NDArray[np.int64]) -> Any:
    """Return hundredths, `(n,)` int64, as an array of `CREDITS`."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(hundredths))]
    return pa.Array.from_buffers(CREDITS, len(hundredths), buffers)


def to_step(hundredths: NDArray[np.int32]) -> Any:
    """Return hundredths, `(n,)` int32, as an array of `STEP`."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(hundredths))]
    return pa.Array.from_buffers(STEP, len(hundredths), buffers)


def to_hundredths(credits_used: Any) -> NDArray[np.int64]:
    """Return an array of `CREDITS` without nulls as hundredths."""
    _, buffer = credits_used.buffers()
    begin, count = credits_used.offset, len(credits_used)
    return np.frombuffer(buffer, np.int64, begin + count)[begin:]
