"""Files of messages in each format, and what a run has made of them."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

TIMESTAMP: Final = "2024-04-29T03:25:03.613Z"
FORMATS: Final = ("parquet", "ndjson", "csv", "ndjson.gz")
SCHEMA: Final = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("timestamp", pa.string()),
        ("report_id", pa.string()),
    ]
)

Rows = Sequence[Mapping[str, Any]]


def write_messages(path: Path, rows: Rows, group_rows: int = 1_000) -> Path:
    """Write messages in the format of the suffix."""
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        pq.write_table(table, path, row_group_size=group_rows)
    elif path.suffix == ".csv":
        path.write_bytes(_to_csv(rows))
    else:
        body = "".join(f"{json.dumps(dict(row))}\n" for row in rows).encode()
        path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


def _to_csv(rows: Rows) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, SCHEMA.names)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def message(message_id: int, text: str = "rent rent", **fields: Any) -> dict[str, Any]:
    """Return a message."""
    return {"id": message_id, "text": text, "timestamp": TIMESTAMP, **fields}


def content_of(folder: Path) -> dict[str, str]:
    """Return the digest of each file of an output."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rejected_rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows that were kept aside."""
    rows: list[dict[str, Any]] = pq.read_table(output / "rejected.parquet").to_pylist()
    return rows
