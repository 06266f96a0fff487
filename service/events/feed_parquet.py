"""A page of the feed as a Parquet file, made group by group."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row

from service.web.written_bytes import WrittenBytes

GROUP_ROWS: Final = 16_384
GROUP_BYTES: Final = 4 * 1024 * 1024
"""Application data of a group of rows: what a file needs in memory."""
TEXTS: Final = ("id", "session_id", "category", "name", "data", "timestamp")
MORE_TEXTS: Final = ("application", "sent_timestamp", "context")
REPEATED: Final = ["session_id", "category", "name", "application"]
"""Columns with few distinct values, which are dictionary-encoded."""


class ParquetPage:
    """Encodes rows as a Parquet file; its calls belong into a thread."""

    def __init__(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._arrow = pa
        self._schema = pa.schema(
            [
                *((name, pa.string()) for name in TEXTS),
                ("received_at", pa.timestamp("us", "UTC")),
                *((name, pa.string()) for name in MORE_TEXTS),
            ]
        )
        self._out = WrittenBytes()
        self._writer = pq.ParquetWriter(
            self._out, self._schema, use_dictionary=REPEATED
        )
        self._rows: list[Row[Any]] = []
        self._size = 0

    def add(self, rows: Sequence[Row[Any]]) -> bytes:
        """Add rows, and return the bytes of the file that are complete."""
        self._rows += rows
        self._size += sum(len(row.content) for row in rows)
        if len(self._rows) >= GROUP_ROWS or self._size >= GROUP_BYTES:
            self._write_group()
        return self._out.take()

    def end(self) -> bytes:
        """Return the last bytes of the file."""
        if self._rows:
            self._write_group()
        self._writer.close()
        return self._out.take()

    def _write_group(self) -> None:
        # Rows have the text of `data` under another name.
        names = ["content" if name == "data" else name for name in self._schema.names]
        columns = [[getattr(row, name) for row in self._rows] for name in names]
        arrays = [
            self._arrow.array(values, field.type)
            for values, field in zip(columns, self._schema, strict=True)
        ]
        table = self._arrow.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table)
        self._rows, self._size = [], 0
