"""Reading of pieces: columns, quotes, dictionaries and compression."""

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.usage.bulk.errors import UnreadablePiece
from service.usage.bulk.inputs import format_of
from service.usage.bulk.model import WHOLE, InputFile, Piece
from service.usage.bulk.reading import ReadBatch, read_piece, read_report_keys

TIMESTAMP: Final = "2024-04-29T03:25:03.613Z"
ALL: Final = Piece(0, 0, WHOLE)


def file_of(path: Path) -> InputFile:
    form = format_of(str(path))
    assert form is not None
    return InputFile(str(path), form, path.stat().st_size, "")


def read(path: Path) -> list[ReadBatch]:
    return list(read_piece(file_of(path), ALL))


def messages_of(path: Path) -> list[tuple[Any, ...]]:
    """Return the messages of a file: id, text, report id."""
    rows = [row for batch in read(path) for row in batch.messages.to_pylist()]
    return [(row["id"], row["text"].decode(), row["report_key"]) for row in rows]


def keys_of(path: Path) -> list[str | None]:
    batches = read_report_keys(file_of(path), ALL)
    return [key for batch in batches for key in batch.to_pylist()]


def table(count: int = 1, **columns: Any) -> pa.Table:
    known = {
        "id": list(range(count)),
        "text": ["Rent?"] * count,
        "timestamp": [TIMESTAMP] * count,
    }
    return pa.table(known | columns)


@pytest.mark.parametrize(
    "ids, keys",
    [(["7", None, "a/b", "7"], ["7", None, "a/b", "7"]), ([7, 8, 7, 7], list("7877"))],
    ids=["texts", "integers"],
)
def test_report_ids_with_a_dictionary(
    ids: list[Any], keys: list[Any], tmp_path: Path
) -> None:
    """The keys that are fetched are those that price the messages."""
    path = tmp_path / "a.parquet"
    pq.write_table(table(4, report_id=pa.array(ids).dictionary_encode()), path)

    assert keys_of(path) == keys
    assert [each[2] for each in messages_of(path)] == keys


def write_two_report_columns(path: Path) -> None:
    names = ["id", "text", "timestamp", "report_id", "report_id"]
    if path.suffix == ".csv":
        path.write_text(f"{','.join(names)}\n1,Rent?,{TIMESTAMP},7,7\n")
        return
    columns = [[1], ["Rent?"], [TIMESTAMP], ["7"], ["7"]]
    arrays = [pa.array(each) for each in columns]
    pq.write_table(pa.Table.from_arrays(arrays, names), path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_several_columns_of_report_ids(suffix: str, tmp_path: Path) -> None:
    """Neither of them is chosen, and neither is ignored."""
    path = tmp_path / f"a.{suffix}"
    write_two_report_columns(path)

    with pytest.raises(UnreadablePiece, match="several columns report_id"):
        read(path)
    with pytest.raises(UnreadablePiece, match="several columns report_id"):
        keys_of(path)


def test_a_name_of_a_column_that_is_not_utf8(tmp_path: Path) -> None:
    """The file is unreadable, and the run goes on."""
    path = tmp_path / "a.parquet"
    pq.write_table(table(other=[1]), path, store_schema=False)
    assert messages_of(path) == [(0, "Rent?", None)]
    path.write_bytes(path.read_bytes().replace(b"other", b"\xffther"))

    with pytest.raises(UnreadablePiece, match="name of a column is not UTF-8"):
        read(path)
    with pytest.raises(UnreadablePiece, match="name of a column is not UTF-8"):
        keys_of(path)
