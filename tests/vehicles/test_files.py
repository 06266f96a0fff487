"""Files of VINs: what is read, in which order and how much is held, what is written."""

import csv
import io
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import Final

import pytest
from pyarrow import parquet

from service.vehicles import files
from service.vehicles.files import (
    Result,
    Row,
    Tally,
    UnreadableFile,
    look_up_file,
    open_csv,
    open_parquet,
    read_texts,
    to_result,
)
from service.vehicles.model import Found
from service.vehicles.vpic import MAX_BATCH
from tests.vehicles.conftest import KNOWN, VIN, vins

MOST: Final = 3


class Asked:
    """Batches that are asked for, each answered when the test says so."""

    def __init__(self) -> None:
        self.batches: list[Sequence[str]] = []
        self.pending: list[Future[list[Result]]] = []
        self.rows: list[str] = []
        self.most_held = 0

    def ask(self, texts: Sequence[str]) -> "Future[list[Result]]":
        """Hold a batch; the last of as many as may be is answered first."""
        self.batches.append(texts)
        self.pending.append(Future())
        held = sum(map(len, self.batches)) - len(self.rows)
        self.most_held = max(self.most_held, held)
        if len(self.batches) >= MOST:
            self.answer()
        return self.pending[-1]

    def answer(self) -> None:
        """Answer all that can be, in the wrong order."""
        for texts, future in reversed(
            list(zip(self.batches, self.pending, strict=True))
        ):
            if not future.done():
                future.set_result([Result(Row(text), "told") for text in texts])

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows, as a sink does."""
        self.rows += [row.vin for row in rows]


def source_of(*lines: str) -> io.BytesIO:
    """A file of these lines."""
    return io.BytesIO("".join(f"{line}\n" for line in lines).encode())


def test_rows_are_in_the_order_of_the_file() -> None:
    """Whichever batch is told first, and never is more held than may be."""
    asked, tally, wanted = Asked(), Tally(), vins(10 * MAX_BATCH + 1)
    look_up_file(source_of(*wanted), asked, asked.ask, MOST, tally)
    assert asked.rows == wanted
    assert asked.most_held == MOST * MAX_BATCH
    assert tally == {"told": len(wanted)}


def test_what_fails_ends_it() -> None:
    """An error of asking is raised, and what else was asked for is given up."""
    asked = Asked()
    begun: list[Future[list[Result]]] = []

    def ask(_: Sequence[str]) -> "Future[list[Result]]":
        begun.append(Future())
        if len(begun) == MOST:
            begun[0].set_exception(ConnectionError("away"))
        return begun[-1]

    with pytest.raises(ConnectionError, match="away"):
        look_up_file(source_of(*vins(5 * MAX_BATCH)), asked, ask, MOST, Tally())
    assert [each.cancelled() for each in begun] == [False, True, True]
    with pytest.raises(CancelledError):
        begun[-1].result()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"a\nb\n", id="lines"),
        pytest.param(b"a\nb", id="last line not ended"),
        pytest.param(b"a\r\nb\r\n", id="CRLF"),
        pytest.param(b"\xef\xbb\xbfa\nb", id="byte order mark"),
        pytest.param(b"\xef\xbb\xbf\n\n a\t\n \n\xc2\xa0b \n\n", id="blanks"),
    ],
)
def test_every_form_of_list(given: bytes) -> None:
    """What surrounds a VIN, and what is blank, is left out."""
    assert list(read_texts(io.BytesIO(given))) == [["a", "b"]]


def test_a_line_of_the_most_bytes() -> None:
    """A line may be so long, and no longer."""
    most = b"x" * (files.MAX_LINE_BYTES - 1) + b"\n"
    assert list(read_texts(io.BytesIO(most))) == [[most.decode().strip()]]
    with pytest.raises(UnreadableFile, match=r"^line 1: longer than 1,000 bytes; "):
        list(read_texts(io.BytesIO(b"x" + most)))


def test_a_file_that_breaks_off() -> None:
    """What cannot be read on is told, after the lines before it."""

    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            if line := super().readline(size):
                return line
            raise OSError(5, "Input/output error")

    batches = read_texts(Broken(b"a\n"))
    assert next(batches) == ["a"]
    with pytest.raises(UnreadableFile, match=r"^Input/output error$"):
        next(batches)


@pytest.mark.parametrize(
    "found, said",
    [
        pytest.param(Found(KNOWN[VIN], "hit", 1.0, is_kept=True), "cache: 1", id="hit"),
        pytest.param(
            Found(KNOWN[VIN], "stale", 1.0, is_kept=True), "cache: 1", id="stale"
        ),
        pytest.param(
            Found(KNOWN[VIN], "miss", 0.0, is_kept=True), "vPIC: 1", id="miss"
        ),
        pytest.param(
            Found(KNOWN[VIN], "miss", 0.0, is_kept=False),
            "told, but not kept: 1",
            id="not kept",
        ),
        pytest.param(
            Found(KNOWN[VIN], "offline", 0.0, is_kept=False),
            "decoded offline: 1",
            id="offline",
        ),
    ],
)
def test_where_a_vehicle_comes_from(found: Found, said: str) -> None:
    """The last line tells; the row does not."""
    result, tally = to_result(VIN.lower(), found), Tally()
    tally.add([result])
    assert result.row == Row(VIN, "PETERBILT", "388", "2014", "Truck-Tractor")
    assert said in tally.summary()
    assert tally.summary().startswith("VINs: 1; ")


@pytest.mark.parametrize("first", "=+-@\t\r\uff1d\uff0b\uff0d\uff20", ids=ascii)
def test_csv_is_never_a_formula(first: str) -> None:
    """What a spreadsheet would run begins with an apostrophe, and is whole."""
    out = io.BytesIO()
    with open_csv(out) as sink:
        sink.write([Row(VIN, make=f"{first}x", model="a=b")])
    _, row = csv.reader(io.StringIO(out.getvalue().decode(), newline=""))
    assert row == [VIN, f"'{first}x", "a=b", "", "", ""]


def test_parquet_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written some at a time, and none is lost or held for ever."""
    monkeypatch.setattr(files, "ROWS_IN_GROUP", 4)
    out, rows = io.BytesIO(), [Row(str(number)) for number in range(11)]
    with open_parquet(out) as sink:
        for at in range(0, len(rows), 3):
            sink.write(rows[at : at + 3])
    read = parquet.ParquetFile(out)
    groups = [read.metadata.row_group(at).num_rows for at in range(read.num_row_groups)]
    assert groups == [6, 5]
    assert read.read()["vin"].to_pylist() == [row.vin for row in rows]


def test_parquet_of_nothing() -> None:
    """A file without rows has its columns all the same."""
    out = io.BytesIO()
    with open_parquet(out):
        pass
    table = parquet.read_table(out)
    assert (table.num_rows, tuple(table.column_names)) == (0, Row._fields)
