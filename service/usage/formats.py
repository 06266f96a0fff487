"""The answer's formats: the contract's JSON, NDJSON and CSV, for all rows or some."""

import csv
import io
from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec import UNSET

from service.usage.ledger import ANSWER_BEGIN, ANSWER_END, Buffer, Ledger, Rows

CSV_HEADER: Final = ("message_id", "timestamp", "report_name", "credits_used")


Encode = Callable[[Ledger, Rows | None], Buffer]
"""Encodes the given rows of a ledger, or all of them for None."""


def to_json(ledger: Ledger, rows: Rows | None = None) -> Buffer:
    """The contract's shape, `{"usage": […]}`."""
    if rows is None:
        return ledger.answer
    return ANSWER_BEGIN + b",".join(ledger.items(rows)) + ANSWER_END


def to_ndjson(ledger: Ledger, rows: Rows | None = None) -> bytes:
    """One item a line."""
    everything = np.arange(len(ledger))
    items = ledger.items(everything if rows is None else rows)
    return b"".join([item + b"\n" for item in items])


def to_csv(ledger: Ledger, rows: Rows | None = None) -> bytes:
    """RFC 4180 with a header line; an empty field where no report priced a message."""
    columns = ledger.columns(0, len(ledger))
    wanted = range(len(ledger)) if rows is None else rows.tolist()
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(CSV_HEADER)
    for row in wanted:
        message_id, timestamp, name, credits_used = (column[row] for column in columns)
        writer.writerow(
            (message_id, timestamp, "" if name is UNSET else name, credits_used)
        )
    return out.getvalue().encode("utf-8")


JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"

FORMATS: Final[dict[str, Encode]] = {JSON: to_json, NDJSON: to_ndjson, CSV: to_csv}
"""What writes each media type that `/usage` speaks."""
