"""Formats of `/usage`: the contract's JSON, NDJSON and CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

import numpy as np
from msgspec import UNSET

from service.usage.snapshots.answers import UsageItem
from service.usage.snapshots.cancellation import check_cancelled
from service.usage.snapshots.columns import (
    ANSWER_BEGIN,
    ANSWER_END,
    COMMA,
    Buffer,
    MessageRows,
    PricedMessages,
)

CSV_HEADER: Final = ("message_id", "timestamp", "report_name", "credits_used")

CHUNK_ROWS: Final = 20_000
"""Rows that are encoded in some ten milliseconds."""

FormatEncoder = Callable[[PricedMessages, MessageRows | None], Buffer]
"""Encodes the selected rows; None selects all."""


def to_json(priced: PricedMessages, rows: MessageRows | None = None) -> Buffer:
    """Encode as the contract's `{"usage": […]}`."""
    if rows is None:
        return priced.answer
    return ANSWER_BEGIN + COMMA.join(_encoded_items(priced, rows)) + ANSWER_END


def to_ndjson(priced: PricedMessages, rows: MessageRows | None = None) -> bytes:
    """Encode one item a line."""
    return b"".join([item + b"\n" for item in _encoded_items(priced, rows)])


def to_csv(priced: PricedMessages, rows: MessageRows | None = None) -> bytes:
    """Encode as RFC 4180 with a header line; a missing report name is empty.

    This is the canonical form, of which a closed period has a digest.
    """
    items = map(priced.items, _chunks(priced, rows))
    return b"".join([CSV_HEAD, *map(csv_rows, items)])


def csv_rows(items: Iterable[UsageItem]) -> bytes:
    """Encode items as lines of CSV, without the header."""
    return encode_csv(
        (
            item.message_id,
            item.timestamp,
            "" if item.report_name is UNSET else item.report_name,
            item.credits_used,
        )
        for item in items
    )


def encode_csv(rows: Iterable[Iterable[object]]) -> bytes:
    """Encode rows as RFC 4180; a value is quoted where it must be."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8")


def _encoded_items(priced: PricedMessages, rows: MessageRows | None) -> list[bytes]:
    chunks = map(priced.encoded_items, _chunks(priced, rows))
    return list(chain.from_iterable(chunks))


def _chunks(priced: PricedMessages, rows: MessageRows | None) -> Iterator[MessageRows]:
    """Yield the rows in chunks, before each of which a query can be cancelled."""
    selected = np.arange(len(priced)) if rows is None else rows
    for begin in range(0, len(selected), CHUNK_ROWS):
        check_cancelled()
        yield selected[begin : begin + CHUNK_ROWS]


JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
CSV_HEAD: Final = encode_csv([CSV_HEADER])

FORMATS: Final[dict[str, FormatEncoder]] = {
    JSON: to_json,
    NDJSON: to_ndjson,
    CSV: to_csv,
}
"""The encoder of each media type of `/usage`."""
