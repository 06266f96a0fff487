"""Binary columns of Arrow as memory: offsets, bytes, and joined values.

A column is an array of the type `binary`, with offsets of 32 bits.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.usage.pricing.text import Flags


def offsets_of(values: Any) -> NDArray[np.int32]:
    """Return the begin of each value, and of one more: `(n_values + 1,)` int32."""
    _, buffer, _ = values.buffers()
    if buffer is None or not len(values):
        return np.zeros(1, np.int32)
    count = values.offset + len(values) + 1
    return np.frombuffer(buffer, np.int32, count)[values.offset :]


def lengths_of(values: Any) -> NDArray[np.int32]:
    """Return the bytes of each value: `(n_values,)` int32."""
    lengths: NDArray[np.int32] = np.diff(offsets_of(values))
    return lengths


def decoded_lengths(column: Any) -> NDArray[np.int64]:
    """Return the bytes of each text, 0 for nulls; the column may have a dictionary."""
    if pa.types.is_dictionary(column.type):
        lengths = _lengths_of_texts(column.dictionary).take(column.indices)
    else:
        lengths = _lengths_of_texts(column)
    decoded: NDArray[np.int64] = lengths.fill_null(0).to_numpy()
    return decoded


def longest_word(column: Any) -> int:
    """Return the bytes of the longest text in a dictionary; 0 without one."""
    if not pa.types.is_dictionary(column.type):
        return 0
    return pc.max(_lengths_of_texts(column.dictionary)).as_py() or 0


def _lengths_of_texts(texts: Any) -> Any:
    # Arrow has no lengths of views.
    return pc.binary_length(texts.cast(pa.large_string())).cast(pa.int64())


def cut(lengths: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Yield bounds of values with at most so many bytes together, or of one value."""
    ends = np.cumsum(lengths)
    begin = before = 0
    while begin < len(ends):
        fitting = int(np.searchsorted(ends, before + limit, "right"))
        end = max(fitting, begin + 1)
        yield begin, end
        begin, before = end, int(ends[end - 1])


def bytes_of(values: Any) -> NDArray[np.uint8]:
    """Return the memory of all values, one behind the other, without a copy."""
    offsets = offsets_of(values)
    _, _, data = values.buffers()
    memory = np.frombuffer(data or b"", np.uint8)
    return memory[int(offsets[0]) : int(offsets[-1])]


def is_ascii(values: Any) -> bool:
    """Return whether all values are ASCII."""
    memory = bytes_of(values)
    return not len(memory) or bool(memory.max() < 0x80)


def join(values: Any) -> memoryview:
    """Return the values with a NUL between them; none of them may be null."""
    bounds = pa.array([0, len(values)], pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(bounds, values), b"\0")
    return memoryview(joined[0].as_buffer())


def find_not_utf8(values: Any) -> Flags:
    """Return which values are not UTF-8, lone surrogates allowed: `(n_values,)`."""
    invalid = np.zeros(len(values), np.bool_)
    if is_ascii(values):
        return invalid
    for row, value in enumerate(values):
        raw = value.as_py()
        if raw is not None and not raw.isascii():
            invalid[row] = not is_utf8(raw)
    return invalid


def is_utf8(raw: bytes) -> bool:
    """Return whether a value is UTF-8, lone surrogates allowed."""
    try:
        raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
