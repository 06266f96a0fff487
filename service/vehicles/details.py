"""All values of a row of vPIC, compressed for storage.

Rows of vPIC resemble each other: with a dictionary trained on some, one takes about 150
bytes instead of 2,400. `scripts/train_row_dictionary.py` makes the dictionary. Stored
rows need the dictionary of their number, so a new one gets a new number.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import zstandard

NUMBER: Final = 1
"""Number of the dictionary of new rows, in the first byte of each row."""
LEVEL: Final = 9
MAX_BYTES: Final = 65_536
"""Maximum size of a row as JSON; vPIC's rows have some 2,400 bytes."""
MAX_VALUE_CHARS: Final = 2_000
"""A longer value is left out; the notes of vPIC have up to 1,000 characters."""
MAX_NAME_CHARS: Final = 100
MAX_FIELDS: Final = 400
"""vPIC has about 150 fields."""

Details = Mapping[str, str]
"""The values of a row that are not empty, by vPIC's names, in their order."""

_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decoder: Final = msgspec.json.Decoder(dict[str, str])


def clean(text: str) -> str:
    """Return a value without padding, and without NUL, which PostgreSQL rejects."""
    return text.replace("\0", "").strip()


def details_of(row: Mapping[str, Any]) -> Details:
    """Return the texts of a row that are not empty, without padding."""
    # Most values of vPIC are empty, and this is most of the time to read its answer.
    named = [
        (name, text)
        for name, value in row.items()
        if value and (text := _text_of(value)) and _is_kept(name, text)
    ]
    return dict(sorted(named)[:MAX_FIELDS])


def pack(details: Details) -> bytes:
    """Return details as bytes for storage; too many are cut."""
    encoded = _encode(details)
    while len(encoded) > MAX_BYTES:
        details = dict(list(details.items())[: len(details) // 2])
        encoded = _encode(details)
    return bytes([NUMBER]) + _compressor().compress(encoded)


def unpack(packed: bytes) -> Details:
    """Return the details of `pack`."""
    if not packed:
        return {}
    decompress = _decompressor(packed[0]).decompress
    return _decoder.decode(decompress(packed[1:], max_output_size=MAX_BYTES))


def dictionary_files() -> dict[int, Path]:
    """Return the file of each dictionary, by its number."""
    folder = Path(__file__).parent
    return {
        number: folder / f"row_dictionary_{number}.zstd"
        for number in range(1, NUMBER + 1)
    }


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return clean(value)
    # `ultravin` has a list of texts for some notes.
    texts = value if isinstance(value, list) else ()
    return "; ".join(clean(each) for each in texts if isinstance(each, str))


def _is_kept(name: str, value: str) -> bool:
    return len(name) <= MAX_NAME_CHARS and len(value) <= MAX_VALUE_CHARS


def _dictionary(number: int) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(dictionary_files()[number].read_bytes())


@cache
def _compressor() -> zstandard.ZstdCompressor:
    shared = _dictionary(NUMBER)
    shared.precompute_compress(level=LEVEL)
    return zstandard.ZstdCompressor(LEVEL, dict_data=shared, write_dict_id=False)


@cache
def _decompressor(number: int) -> zstandard.ZstdDecompressor:
    shared = _dictionary(number)
    return zstandard.ZstdDecompressor(dict_data=shared)
