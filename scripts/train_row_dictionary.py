"""Train the dictionary with which rows of vPIC are compressed in the database.

Usage: train_row_dictionary.py FILE. The rows are those of `ultravin`. A new dictionary
gets a new number in `service/vehicles/details.py`, and the old ones stay.
"""

import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import ultravin
import zstandard

from service.vehicles.details import LEVEL, details_of

DICTIONARY_BYTES: Final = 16_384
ROWS: Final = 8_000
IDS: Final = {"MakeID": "440", "ModelID": "1801", "ManufacturerId": "976"}
"""Fields that ultravin lacks, with a sample."""


def row_of(vin: str) -> dict[str, str]:
    """Return the values of ultravin by vPIC's names."""
    elements = ultravin.decode(vin, full=True)["elements"]
    return IDS | {each["code"]: each["value"] for each in elements}


def main() -> None:
    """Train on generated VINs, of which few have errors."""
    vins = ultravin.generate(ROWS, seed=1, invalid_rate=0.05)
    encode = msgspec.json.Encoder(order="sorted").encode
    rows: list[Any] = [encode(details_of(row_of(vin))) for vin in vins]
    trained = zstandard.train_dictionary(DICTIONARY_BYTES, rows, level=LEVEL)
    Path(sys.argv[1]).write_bytes(trained.as_bytes())


if __name__ == "__main__":
    main()
