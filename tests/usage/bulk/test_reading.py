"""Reading of pieces: columns, quotes, dictionaries and compression."""

import gzip
import io
import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from service.usage.bulk import csv_rows, reading
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


HEADER: Final = "id,timestamp,text\n"
MIB: Final = 1024 * 1024


def row(number: int, text: str) -> str:
    return f"{number},{TIMESTAMP},{text}\n"


def write_csv(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "a.csv"
    path.write_bytes((header + "".join(rows)).encode())
    return path


UNCLOSED: Final = {
    "to the end": (2, row(1, '"Hi'), row(2, "Yo")),
    "to the end, with doubled quotes": (2, row(1, '"Hi ""'), row(2, '""')),
    "in the last row": (3, row(1, "Hi"), row(2, '"Yo')),
    "to another quote": (2, row(1, '"Hi'), row(2, "Yo"), row(3, '"Hey"')),
    "and text after it": (3, row(1, '"a"'), row(2, '"Hi" there')),
    "after a large block": (4, row(1, f'"{"a" * 10 * MIB}"') * 2, row(2, '"Hi')),
}


@pytest.mark.parametrize(
    "line, rows", [(n, r) for n, *r in UNCLOSED.values()], ids=UNCLOSED
)
def test_a_quoted_value_that_does_not_end(
    line: int, rows: list[str], tmp_path: Path
) -> None:
    """It would be one message with the following rows in its text."""
    path = write_csv(tmp_path, *rows)
    with pytest.raises(UnreadablePiece, match=f"^line {line}: .*quoted value"):
        read(path)


LEGAL: Final = {
    '"Hi"': "Hi",
    '""': "",
    '"a\nb\r\nc"': "a\nb\r\nc",
    '"say ""Hi"""': 'say "Hi"',
    '""""': '"',
    '5" disk': '5" disk',
    'a"b"': 'a"b"',
    '"a,b"': "a,b",
}


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_quotes_that_are_legal(mark: str, end: str, tmp_path: Path) -> None:
    """Line ends, doubled quotes, quotes in other values, no final line end."""
    for cut in range(len(LEGAL)):
        texts = [*LEGAL][cut:]
        rows = [row(number, text) for number, text in enumerate(texts)]
        rows[-1] = rows[-1].removesuffix("\n") + end
        path = write_csv(tmp_path, *rows, header=mark + '"id",timestamp,text\n')
        expected = [(i, LEGAL[text], None) for i, text in enumerate(texts)]
        assert messages_of(path) == expected


def test_quoted_values_across_blocks(tmp_path: Path) -> None:
    """A value may begin in one block of reading, and end in the next one."""
    text = 'a, ""b""\n' * 100_000
    path = write_csv(tmp_path, *(row(number, f'"{text}"') for number in range(50)))
    expected = text.replace('""', '"')
    assert messages_of(path) == [(number, expected, None) for number in range(50)]


@pytest.mark.parametrize(
    "name, value", [("comment", "late"), ("n\xe9", "late"), ("a date", "2024-04-29")]
)
def test_other_columns_of_csv_have_any_values(
    name: str, value: str, tmp_path: Path
) -> None:
    """They are ignored, also if the values of later blocks have another type."""
    text = "a" * MIB
    rows = [f"{number},{TIMESTAMP},{text},\n" for number in range(20)]
    path = tmp_path / "a.csv"
    header = f"id,timestamp,text,{name}\n".encode("latin-1")
    last = f"20,{TIMESTAMP},Rent?,{value}\n"
    path.write_bytes(header + ("".join(rows) + last).encode())

    assert [each[0] for each in messages_of(path)] == list(range(21))


@pytest.mark.parametrize("blank", ["", "\n", "\r\n\n"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_header_of_csv_alone(blank: str, end: str, tmp_path: Path) -> None:
    """A file of a header has no messages, with a final line end or without."""
    header = f"{blank}id;timestamp;text;report_id{end}"
    assert messages_of(write_csv(tmp_path, header=header)) == []


def test_blank_lines_before_the_header(tmp_path: Path) -> None:
    """The header is the first line that is not empty."""
    rows = row(1, "Rent?").replace(",", ";")
    path = write_csv(tmp_path, rows, header="\n\n" + HEADER.replace(",", ";"))
    assert messages_of(path) == [(1, "Rent?", None)]


@pytest.mark.parametrize(
    "suffix", ["GZ", "gz", "zst", "ZST", "zstd", "Zstd"], ids=lambda name: name
)
@pytest.mark.parametrize("form", ["ndjson", "CSV"])
def test_compression_by_suffix(form: str, suffix: str, tmp_path: Path) -> None:
    """Suffixes of compressed files are read in upper case too."""
    line = json.dumps({"id": 1, "text": "Rent?", "timestamp": TIMESTAMP})
    body = (line if form == "ndjson" else HEADER + row(1, "Rent?")).encode()
    is_gzip = suffix.lower() == "gz"
    path = tmp_path / f"a.{form}.{suffix}"
    path.write_bytes(gzip.compress(body) if is_gzip else zstandard.compress(body))

    assert messages_of(path) == [(1, "Rent?", None)]


def write_repeated(path: Path, name: str, words: list[str], kind: str) -> None:
    """Write rows of which one column repeats words, short ones first."""
    column = pa.array(sorted(words, key=len))
    if kind == "category":
        column = column.dictionary_encode()
    known = table(len(words)).to_pydict()
    pq.write_table(pa.table(known | {name: column}), path)


@pytest.mark.parametrize("kind", ["category", "texts"])
@pytest.mark.parametrize("name", ["text", "timestamp", "report_id"])
def test_long_texts_that_a_dictionary_repeats(
    name: str, kind: str, tmp_path: Path
) -> None:
    """Batches have bounded bytes, however few the file has."""
    path = tmp_path / "a.parquet"
    words = ["a" * 20_000, "bc"] * 5_000
    write_repeated(path, name, words, kind)

    column = "report_key" if name == "report_id" else name
    sizes = [batch.messages[column].nbytes for batch in read(path)]
    assert max(sizes) < reading.BATCH_BYTES + MIB
    rows = [row for batch in read(path) for row in batch.messages.to_pylist()]
    assert [each["row"] for each in rows] == list(range(len(words)))
    if name == "report_id":
        assert keys_of(path) == ["bc"] * 5_000 + [None] * 5_000
        batches = read_report_keys(file_of(path), ALL)
        assert len(list(batches)) > 1
    else:
        assert [len(each[name]) for each in rows] == sorted(map(len, words))


@pytest.mark.parametrize("kind", ["category", "texts"])
def test_short_texts_are_read_in_large_batches(kind: str, tmp_path: Path) -> None:
    """The bound of bytes does not make batches of usual messages smaller."""
    path = tmp_path / "a.parquet"
    words = [f"What is the rent of {number % 5_000}?" for number in range(70_000)]
    write_repeated(path, "text", words, kind)
    assert [batch.rows for batch in read(path)] == [reading.BATCH_ROWS, len(words)]


def test_gaps_in_a_column_with_a_dictionary(tmp_path: Path) -> None:
    """A null has no bytes, and stays one."""
    path = tmp_path / "a.parquet"
    texts = [None, "a" * 20_000, None, "b"] * 2_000
    pq.write_table(table(len(texts), text=texts), path)
    rows = [row for batch in read(path) for row in batch.messages.to_pylist()]
    expected = [each and len(each) for each in texts]
    assert [row["text"] and len(row["text"]) for row in rows] == expected


def find_wrong(text: str) -> bool:
    """Return whether a quoted value has no end, or text after it, by the rules."""
    at, is_begin = 0, True
    while at < len(text):
        if is_begin and text[at] == '"':
            at += 1
            while text[at : at + 1] != '"' or text[at + 1 : at + 2] == '"':
                if at >= len(text):
                    return True
                at += 2 if text[at] == '"' else 1
            if text[at + 1 : at + 2] not in {"", ",", "\r", "\n"}:
                return True
        is_begin = text[at] in ",\r\n"
        at += 1
    return False


@given(text=st.text('a",\r\n', max_size=30), size=st.integers(1, 9))
def test_quotes_are_checked_in_blocks_of_any_size(text: str, size: int) -> None:
    """The bytes are unchanged, with a line end, or a value is wrong by the rules."""
    source = csv_rows.QuotedSource(io.BytesIO(text.encode()), ",")
    passed = b""
    try:
        while block := source.read(size):
            passed += block
    except UnreadablePiece:
        assert find_wrong(text)
    else:
        assert not find_wrong(text)
        assert passed.decode() in {text, f"{text}\n"}
