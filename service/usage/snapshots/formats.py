"""Formats of `/usage`: the contract's JSON, NDJSON and CSV, for all rows or some."""

import csv
import io
from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec import UNSET

from service.usage.snapshots.columns import (
    ANSWER_BEGIN,
    ANSWER_END,
    Buffer,
    PricedMessages,
    Rows,
)

CSV_HEADER: Final = ("message_id", "timestamp", "report_name", "credits_used")

Encode = Callable[[PricedMessages, Rows | None], Buffer]
"""Encodes the given rows, or all of them for None."""


def to_json(priced: PricedMessages, rows: Rows | None = None) -> Buffer:
    """Encode as the contract's `{"usage": […]}`."""
    if rows is None:
        return priced.answer
    return ANSWER_BEGIN + b",".join(priced.encoded_items(rows)) + ANSWER_END


def to_ndjson(priced: PricedMessages, rows: Rows | None = None) -> bytes:
    """Encode one item a line."""
    everything = np.arange(len(priced))
    items = priced.encoded_items(everything if rows is None else rows)
    return b"".join([item + b"\n" for item in items])


def to_csv(priced: PricedMessages, rows: Rows | None = None) -> bytes:
    """Encode as RFC 4180 with a header line; no report name is an empty field."""
    items = priced.items(0, len(priced))
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(CSV_HEADER)
    for row in range(len(items)) if rows is None else rows.tolist():
        item = items[row]
        name = "" if item.report_name is UNSET else item.report_name
        writer.writerow((item.message_id, item.timestamp, name, item.credits_used))
    return out.getvalue().encode("utf-8")


JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"

FORMATS: Final[dict[str, Encode]] = {JSON: to_json, NDJSON: to_ndjson, CSV: to_csv}
"""The encoder of each media type of `/usage`."""
