"""Input in all formats, and input that is of no use, among files that are."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from service.usage.bulk import csv_rows, reading, units
from service.usage.bulk import inputs as bulk_inputs
from service.usage.bulk.errors import BadInput, RunFailed
from service.usage.bulk.inputs import list_files
from service.usage.bulk.model import Piece
from service.usage.bulk.output import Manifest
from service.usage.bulk.run import Request, price_files
from tests.usage.bulk.conftest import open_inline, price, read_output
from tests.usage.bulk.files import rejected_rows

TIMESTAMP: Final = "2024-04-29T03:25:03.613Z"


def line(number: int, text: str = "Rent?") -> bytes:
    message = {"id": number, "text": text, "timestamp": TIMESTAMP}
    return json.dumps(message).encode() + b"\n"


def run(folder: Path, *inputs: Path) -> tuple[Manifest, set[int]]:
    """Price files, a folder by default; returns the ids of priced messages too."""
    output = folder.parent / "out"
    manifest = price(*(inputs or (folder,)), output=output)
    return manifest, {row["message_id"] for row in read_output(output)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good file, of message 1."""
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "good.ndjson").write_bytes(line(1))
    return folder


def test_each_format_gives_the_same_messages(tmp_path: Path) -> None:
    """Parquet, NDJSON and CSV, plain and compressed, in a folder of folders."""
    folder = tmp_path / "input" / "a"
    folder.mkdir(parents=True)
    columns = {"text": ["Rent?"], "timestamp": [TIMESTAMP]}
    pq.write_table(pa.table({"id": [1], **columns}), folder / "1.parquet")
    categories = pa.table({"id": [2], **columns}).to_pydict() | {
        "text": pa.array(["Rent?"]).dictionary_encode()
    }
    pq.write_table(pa.table(categories), folder / "2.parquet")
    csv = 'timestamp,text,id\r\n{},"Rent?",{}\r\n'
    (folder / "3.csv").write_bytes(b"\xef\xbb\xbf" + csv.format(TIMESTAMP, 3).encode())
    semicolons = csv.replace(",", ";").format(TIMESTAMP, 4)
    (folder / "4.csv").write_text(semicolons)
    (folder / "5.csv").write_text(csv.replace(",", "\t").format(TIMESTAMP, 5))
    (folder / "6.csv.gz").write_bytes(gzip.compress(csv.format(TIMESTAMP, 6).encode()))
    (folder / "7.ndjson").write_bytes(b"\xef\xbb\xbf" + line(7).rstrip())
    (folder / "8.jsonl.gz").write_bytes(gzip.compress(line(8)))
    (folder / "9.ndjson.zst").write_bytes(zstandard.compress(line(9)))
    (folder / "notes.txt").write_text("no messages")

    manifest, ids = run(folder.parent)

    assert (manifest.unreadable, manifest.rejected) == ((), 0)
    assert ids == set(range(1, 10))
    assert {row["credits_used"] for row in read_output(tmp_path / "out")} == {
        read_output(tmp_path / "out")[0]["credits_used"]
    }


def write_truncated_parquet(path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-100])


def write_damaged_parquet(path: Path) -> None:
    texts = {"text": ["Rent?"] * 1000, "timestamp": [TIMESTAMP] * 1000}
    table = pa.table({"id": list(range(1000)), **texts})
    pq.write_table(table, path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[100:200] = bytes(100)
    path.write_bytes(content)


def write_column_that_is_not_utf_8(path: Path) -> None:
    write_parquet(other=[1])(path)
    path.write_bytes(path.read_bytes().replace(b"other", b"\xff\xfeher"))


def write_parquet(**columns: Any) -> Callable[[Path], None]:
    known = {"id": [2], "text": ["Rent?"], "timestamp": [TIMESTAMP]}
    return lambda path: pq.write_table(pa.table(known | columns), path)


UNREADABLE: Final[dict[str, tuple[str, Callable[[Path], object], str]]] = {
    "no Parquet": ("a.parquet", lambda p: p.write_bytes(line(2)), "magic"),
    "empty Parquet": ("a.parquet", lambda p: p.write_bytes(b""), "0 bytes"),
    "truncated Parquet": ("a.parquet", write_truncated_parquet, ""),
    "damaged Parquet": ("a.parquet", write_damaged_parquet, ""),
    "text of numbers": ("a.parquet", write_parquet(text=[1]), "text has the type int"),
    "nested text": ("a.parquet", write_parquet(text=[["a"]]), "text has the type list"),
    "ids of texts": ("a.parquet", write_parquet(id=["2"]), "id has the type string"),
    "decimal report ids": (
        "a.parquet",
        write_parquet(report_id=[7.0]),
        "report_id has the type double",
    ),
    "no gzip": ("a.ndjson.gz", lambda p: p.write_bytes(line(2)), ""),
    "truncated gzip": (
        "a.ndjson.gz",
        lambda p: p.write_bytes(gzip.compress(line(2) * 1000)[:-20]),
        "",
    ),
    "no columns": ("a.csv", lambda p: p.write_text("a,b\n1,2\n"), "no column id"),
    "an uneven row that is not UTF-8": (
        "a.csv",
        lambda p: p.write_bytes(b"id,text,timestamp\n2,\xe9\n"),
        "Expected 3 columns",
    ),
    "UTF-16": (
        "a.csv",
        lambda p: p.write_text("id,text,timestamp\n", "utf-16"),
        "not UTF-8",
    ),
    "UTF-16 without its mark": (
        "a.csv",
        lambda p: p.write_text("id,text,timestamp\n", "utf-16-le"),
        "not UTF-8",
    ),
    "a column whose name is not UTF-8": (
        "a.parquet",
        write_column_that_is_not_utf_8,
        "not UTF-8",
    ),
    "a loop of links": ("a.ndjson", lambda p: p.symlink_to(p), ""),
    "a link to nothing": ("a.ndjson", lambda p: p.symlink_to(p / "none"), ""),
}


@pytest.mark.parametrize("name, write, reason", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_left_out_with_its_reason(
    folder: Path, name: str, write: Callable[[Path], object], reason: str
) -> None:
    """The other files are priced."""
    write(folder / name)

    manifest, ids = run(folder)

    (found,) = manifest.unreadable
    assert found.path == str(folder / name)
    assert reason in found.reason
    assert "\n" not in found.reason
    assert ids == {1}


def test_a_folder_that_contains_itself_is_read_once(folder: Path) -> None:
    """Links to folders are not followed, so that no file is found twice."""
    (folder / "loop").symlink_to(folder)

    manifest, ids = run(folder)

    assert (ids, manifest.rejected, len(manifest.inputs)) == ({1}, 0, 1)


@pytest.mark.parametrize(
    "name", ["a.ndjson", "a.csv", "a.ndjson.gz"], ids=["NDJSON", "CSV", "gzip"]
)
def test_an_empty_file_has_no_messages(folder: Path, name: str) -> None:
    """It is readable."""
    (folder / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")

    manifest, ids = run(folder)

    assert (ids, manifest.unreadable) == ({1}, ())


def test_a_giant_line_is_rejected_and_the_next_one_is_priced(folder: Path) -> None:
    """Its content is not kept in memory."""
    giant = line(2, "a" * (40 * 1024 * 1024))
    (folder / "z.ndjson").write_bytes(giant + line(3) + b"\xff\xfe\n" + line(4))

    manifest, ids = run(folder)

    assert (ids, manifest.rejected) == ({1, 3, 4}, 2)


@pytest.mark.parametrize("change", ["vanishes", "grows", "is replaced"])
def test_a_file_that_changes_during_the_run_ends_it(
    folder: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages would not be those of the version in the manifest."""
    path = folder / "b.ndjson"
    path.write_bytes(line(2))

    def alter(*_: object) -> dict[str, Any]:
        if change == "vanishes":
            path.unlink()
        else:
            path.write_bytes(line(3) if change == "is replaced" else line(2) + line(3))
        return {}

    monkeypatch.setattr("service.usage.bulk.run.store_reports", alter)
    with pytest.raises(RunFailed, match="the input has changed"):
        run(folder)

    assert not (folder.parent / "out").exists()


def test_no_work_is_kept_of_input_that_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the same file comes back: the work may have rows of the other."""
    path, kept = folder / "b.ndjson", folder.parent / "kept"
    path.write_bytes(line(2))

    def alter(*_: object) -> dict[str, Any]:
        path.rename(kept)
        path.write_bytes(line(3))
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("service.usage.bulk.run.store_reports", alter)
        with pytest.raises(RunFailed, match="--force begins anew"):
            run(folder)
    assert not list((folder.parent / ".out.work" / "units").iterdir())
    kept.rename(path)

    assert run(folder)[1] == {1, 2}


def test_a_run_of_input_that_has_changed_begins_anew_with_force(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the message says."""

    def alter(*_: object) -> dict[str, Any]:
        (folder / "good.ndjson").write_bytes(line(2) + line(3))
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("service.usage.bulk.run.store_reports", alter)
        with pytest.raises(RunFailed, match="--force begins anew"):
            run(folder)

    assert price(folder, output=folder.parent / "out", is_forced=True).messages == 2


@pytest.mark.parametrize("pattern", ["", "*", "**/*"])
def test_own_output_is_no_input_through_a_link(folder: Path, pattern: str) -> None:
    """The input and the output may name the same folder in two ways."""
    link, output = folder.parent / "link", folder / "out"
    link.symlink_to(folder)

    for is_forced in (False, True):
        manifest = price(link / pattern, output=output, is_forced=is_forced)
        assert (manifest.messages, len(manifest.inputs)) == (1, 1)
    manifest = price(folder, output=link / "out", is_forced=True)
    assert (manifest.messages, len(manifest.inputs)) == (1, 1)


def test_input_without_files_is_refused(tmp_path: Path) -> None:
    """A typing error in a name must not give an empty output."""
    for name in ("none", "*.ndjson", "none.ndjson"):
        with pytest.raises(BadInput, match="no such file"):
            list_files([str(tmp_path / name)])
    with pytest.raises(BadInput, match="nosuch"):
        list_files(["nosuch://bucket/a.parquet"])


@pytest.mark.parametrize("message_id", [b"1_0", b"+5", b" 5", b"\xe9", b"9" * 30])
def test_a_bad_id_of_csv_is_rejected(folder: Path, message_id: bytes) -> None:
    """The next row is priced."""
    rows = b"id,text,timestamp,report_id\n%b,a,%b,\xe9\n3,a,%b,\xe9\n"
    time = TIMESTAMP.encode()
    (folder / "a.csv").write_bytes(rows % (message_id, time, time))

    manifest, ids = run(folder)

    assert (manifest.rejected, ids) == (1, {1, 3})


def test_an_id_of_more_than_64_bits_is_rejected(folder: Path) -> None:
    """It is not taken for a negative one."""
    table = pa.table(
        {
            "id": pa.array([2**63, 3], pa.uint64()),
            "text": ["a", "a"],
            "timestamp": [TIMESTAMP, TIMESTAMP],
        }
    )
    pq.write_table(table, folder / "a.parquet")

    manifest, ids = run(folder)

    assert (manifest.rejected, ids) == (1, {1, 3})


def test_a_name_with_brackets_is_no_pattern_if_the_file_exists(folder: Path) -> None:
    """Browsers give such names."""
    name = folder / "a[1].ndjson"
    name.write_bytes(line(2))

    _, ids = run(name)

    assert ids == {2}


@pytest.mark.parametrize("output", ["", "/"])
def test_output_without_a_name_is_refused(folder: Path, output: str) -> None:
    """No work folder appears in the current one."""
    with pytest.raises(BadInput):
        price_files(
            Request((str(folder),), output, "text-rules/1"),
            open_inline,
            lambda *_: None,
        )


@pytest.mark.parametrize("block_bytes", [256, reading.BATCH_BYTES])
def test_an_uneven_row_of_csv_is_rejected(
    folder: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rows are priced, and all rows keep their numbers."""
    monkeypatch.setattr(reading, "BATCH_BYTES", block_bytes)
    rows = [f'{number},"a\nb",{TIMESTAMP}' for number in range(2, 30)]
    uneven = {1: "3", 2: "4,a", 9: "11,a,b,c", 20: "é", 28: "5,a,,", 31: "7"}
    late = {15: "x,a,b", 30: f"30,a,{TIMESTAMP}"}
    for number, row in sorted((uneven | late).items()):
        rows.insert(number - 1, row)
    (folder / "a.csv").write_text("\n".join(["id,text,timestamp", *rows]))

    manifest, ids = run(folder)

    found = {
        each["row"]: (each["reason"], each["content"])
        for each in rejected_rows(folder.parent / "out")
    }
    assert found.pop(15)[0].startswith("id: ")
    assert {row: content for row, (_, content) in found.items()} == uneven
    assert found[9][0] == "4 columns, and the header has 3"
    assert (ids, manifest.unreadable) == ({1, *range(2, 31)}, ())
    assert [each.rows for each in manifest.inputs] == [len(rows), 1]


def test_a_csv_file_with_too_many_uneven_rows_is_unreadable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header is not that of its rows, and the memory is bounded."""
    monkeypatch.setattr(csv_rows, "MAX_UNEVEN_ROWS", 2)
    (folder / "a.csv").write_text("id,text,timestamp\n" + "2\n" * 3)

    manifest, ids = run(folder)

    (found,) = manifest.unreadable
    assert found.reason.startswith("more than 2 rows have other columns")
    assert (ids, manifest.rejected) == ({1}, 0)


def test_batches_of_many_short_lines_are_bounded(folder: Path) -> None:
    """A block of short lines would be millions of Python objects at once."""
    count = 2 * reading.BATCH_ROWS + 5
    path = folder / "a.ndjson"
    path.write_bytes(b"{}\n" * count + line(2).rstrip())
    (file,) = list_files([str(path)])

    batches = list(reading.read_piece(file, Piece(0)))

    assert max(each.rejected.num_rows for each in batches) == reading.BATCH_ROWS
    rows = [row for each in batches for row in each.rejected["row"].to_pylist()]
    assert rows == list(range(count))
    (message,) = (each.messages for each in batches if each.messages.num_rows)
    assert (message["row"].to_pylist(), message["id"].to_pylist()) == ([count], [2])


@pytest.mark.parametrize("rows", [1, 3, 1_000])
def test_rejected_rows_of_a_damaged_file_are_not_listed(
    folder: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the files around it are, however many are written at once."""
    monkeypatch.setattr(units, "REJECTED_AT_ONCE", rows)
    monkeypatch.setattr(reading, "BATCH_BYTES", 1_000)
    bad = b"".join(b"%x\n" % (number**20) for number in range(2_000))
    (folder / "a.ndjson").write_bytes(b"a\n" + line(2) + b"\nb\n")
    (folder / "b.ndjson.gz").write_bytes(gzip.compress(bad)[:-100])
    (folder / "c.ndjson").write_bytes(line(3) + b"{\n" + line(4, "") + b"{}\n")

    manifest, ids = run(folder)

    found = rejected_rows(folder.parent / "out")
    assert [(Path(each["file"]).name, each["row"]) for each in found] == [
        ("a.ndjson", 1),
        ("a.ndjson", 4),
        ("c.ndjson", 2),
        ("c.ndjson", 4),
    ]
    assert (manifest.rejected, len(manifest.unreadable)) == (4, 1)
    assert ids == {1, 2, 3, 4}


def test_rows_after_damaged_ones_keep_their_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups of Parquet have their sizes at the end of the file."""
    monkeypatch.setattr(bulk_inputs, "UNIT_BYTES", 1)
    times = [TIMESTAMP] * 2_999 + ["soon"]
    columns = {"id": range(10, 3_010), "text": ["Rent?"] * 3_000, "timestamp": times}
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=1_000, use_dictionary=False)
    middle = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\xff" * 60)

    manifest, ids = run(folder)

    (found,) = rejected_rows(folder.parent / "out")
    assert (found["row"], found["reason"]) == (3_000, "timestamp: not readable")
    assert ids == {1, *range(10, 1_010), *range(2_010, 3_009)}
    assert [each.rows for each in manifest.inputs] == [2_000, 1]


@pytest.mark.parametrize(
    "begin, reason",
    [
        ('"', "line 3: a quoted value does not end"),
        ("", "a row is longer than 1,000 bytes"),
    ],
)
def test_a_row_of_csv_that_is_too_long_has_a_reason(
    folder: Path, begin: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quote that is not closed makes one row of all that follow."""
    monkeypatch.setattr(reading, "BATCH_BYTES", 1_000)
    row = f"2,Rent,{TIMESTAMP}\n"
    text = begin + "Rent " * 1_000
    body = f"id,text,timestamp\n{row}3,{text},{TIMESTAMP}\n{row * 100}"
    (folder / "a.csv").write_text(body)

    manifest, ids = run(folder)

    assert [each.reason for each in manifest.unreadable] == [reason]
    assert ids == {1}


PATTERNS: Final = {
    "*.ndjson": {"good.ndjson"},
    "*": {"good.ndjson", "a/b.ndjson"},
    "**": {"good.ndjson", "a/b.ndjson"},
    "**/*.ndjson": {"good.ndjson", "a/b.ndjson"},
    "**/b.ndjson": {"a/b.ndjson"},
    "*/b.ndjson": {"a/b.ndjson"},
    "[_a]/b.ndjson": {"a/b.ndjson"},
    "_*.ndjson": {"_old.ndjson"},
    "_old.ndjso?": {"_old.ndjson"},
    "*/_c.ndjson": {"a/_c.ndjson"},
    "**/_c.ndjson": {"a/_c.ndjson"},
    "_temporary/*": {"_temporary/b.ndjson"},
    "_temporary": {"_temporary/b.ndjson"},
    "_old.ndjson": {"_old.ndjson"},
    "_temporary/**/*.ndjson": {"_temporary/b.ndjson"},
}


@pytest.mark.parametrize("pattern, expected", PATTERNS.items(), ids=PATTERNS)
@pytest.mark.parametrize("root", ["", "/", "_in/"], ids=["here", "full", "below"])
def test_a_pattern_leaves_out_names_that_begin_with_an_underscore(
    folder: Path,
    pattern: str,
    expected: set[str],
    root: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Programs write temporary files there; a name that is given is accepted."""
    monkeypatch.chdir(folder)
    start = folder / root if root == "_in/" else folder
    names = (
        "good",
        "_old",
        ".hidden",
        "a/b",
        "a/_c",
        "_temporary/b",
        "a/_d/_temporary/b",
    )
    for name in names:
        path = start / f"{name}.ndjson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(line(1))
    given = f"{start}/{pattern}" if root == "/" else f"{root}{pattern}"

    found = list_files([given])

    assert {str(Path(each.path).relative_to(start)) for each in found} == expected


NOT_UTF_8: Final = os.fsdecode(b"\xff.ndjson")


@pytest.mark.parametrize("pattern", ["", "*", "*.ndjson", "**/*.ndjson"])
def test_a_file_whose_name_is_not_utf_8_is_unreadable(
    folder: Path, pattern: str
) -> None:
    """The other files are priced, and the output has a name that it can have."""
    (folder / NOT_UTF_8).write_bytes(line(2))
    (folder / os.fsdecode(b"\xff.txt")).write_bytes(line(2))

    manifest, ids = run(folder, folder / pattern)

    (found,) = manifest.unreadable
    assert (found.path, ids) == (f"{folder}/\\xff.ndjson", {1})


def test_a_file_with_the_name_that_stands_for_another_is_not_mixed_up(
    folder: Path,
) -> None:
    """One of the two would be left out."""
    for name in (NOT_UTF_8, r"\xff.ndjson"):
        (folder / name).write_bytes(line(2))

    with pytest.raises(BadInput, match="not UTF-8"):
        list_files([str(folder)])


@pytest.mark.parametrize("pattern", ["", "*"])
def test_files_of_a_folder_whose_name_is_not_utf_8_are_unreadable(
    folder: Path, pattern: str
) -> None:
    """The other files are priced."""
    other = folder / os.fsdecode(b"\xff")
    other.mkdir()
    (other / "a.ndjson").write_bytes(line(2))

    manifest, ids = run(folder, folder / pattern)

    assert [each.path for each in manifest.unreadable] == [f"{folder}/\\xff/a.ndjson"]
    assert ids == {1}


def test_a_name_that_is_not_utf_8_is_refused_in_one_line(folder: Path) -> None:
    """It names the file or folder, also that of the output."""
    bad = folder / NOT_UTF_8
    bad.write_bytes(line(2))

    for name in (str(bad), str(folder / os.fsdecode(b"\xfe")), "s3://a/\udcff"):
        with pytest.raises(BadInput, match=r"\\xf[ef].*: the name is not UTF-8|udcff"):
            list_files([name])
    with pytest.raises(BadInput, match=r"\\xff\.ndjson: the name is not UTF-8"):
        price(folder / "good.ndjson", output=bad)
