"""Files of VINs are looked up in their order, in bounded memory."""

import io
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import Final

import pytest

from service.vehicles import lookup_file as files
from service.vehicles.lookup_file import (
    LineCounts,
    LineResult,
    VinFileError,
    look_up_file,
    read_texts,
    to_result,
)
from service.vehicles.model import Found
from service.vehicles.row_sinks import VehicleRow
from service.vehicles.vpic import MAX_BATCH
from tests.vehicles.conftest import KNOWN, VIN, vins

MAX_PENDING: Final = 3


class Batches:
    """Started batches, each answered when the test says so."""

    def __init__(self) -> None:
        self.batches: list[Sequence[str]] = []
        self.pending: list[Future[list[LineResult]]] = []
        self.rows: list[str] = []
        self.most_held = 0

    def ask(self, texts: Sequence[str]) -> "Future[list[LineResult]]":
        """Hold a batch; the last of as many as may be is answered first."""
        self.batches.append(texts)
        self.pending.append(Future())
        held = sum(map(len, self.batches)) - len(self.rows)
        self.most_held = max(self.most_held, held)
        if len(self.batches) >= MAX_PENDING:
            self.answer()
        return self.pending[-1]

    def answer(self) -> None:
        """Answer all that can be, in the wrong order."""
        for texts, future in reversed(
            list(zip(self.batches, self.pending, strict=True))
        ):
            if not future.done():
                future.set_result(
                    [LineResult(VehicleRow(text), "vpic") for text in texts]
                )

    def write(self, rows: Sequence[VehicleRow]) -> None:
        """Take rows, as a sink does."""
        self.rows += [row.vin for row in rows]


def source_of(*lines: str) -> io.BytesIO:
    """A file of these lines."""
    return io.BytesIO("".join(f"{line}\n" for line in lines).encode())


def test_rows_are_in_the_order_of_the_file() -> None:
    """The order is kept whichever batch ends first, with bounded memory."""
    asked, counts, wanted = Batches(), LineCounts(), vins(10 * MAX_BATCH + 1)
    look_up_file(source_of(*wanted), asked, asked.ask, MAX_PENDING, counts)
    assert asked.rows == wanted
    assert asked.most_held == MAX_PENDING * MAX_BATCH
    assert counts == {"vpic": len(wanted)}


def test_failure_ends_the_run() -> None:
    """An error of asking is raised, and what else was asked for is given up."""
    asked = Batches()
    begun: list[Future[list[LineResult]]] = []

    def ask(_: Sequence[str]) -> "Future[list[LineResult]]":
        begun.append(Future())
        if len(begun) == MAX_PENDING:
            begun[0].set_exception(ConnectionError("away"))
        return begun[-1]

    with pytest.raises(ConnectionError, match="away"):
        look_up_file(
            source_of(*vins(5 * MAX_BATCH)), asked, ask, MAX_PENDING, LineCounts()
        )
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
    """White space and blank lines are ignored."""
    assert list(read_texts(io.BytesIO(given))) == [["a", "b"]]


def test_line_of_the_maximum_length() -> None:
    """A line may be so long, and no longer."""
    most = b"x" * (files.MAX_LINE_BYTES - 1) + b"\n"
    assert list(read_texts(io.BytesIO(most))) == [[most.decode().strip()]]
    with pytest.raises(VinFileError, match=r"^line 1: longer than 16,384 bytes; "):
        list(read_texts(io.BytesIO(b"x" + most)))


def test_a_file_that_breaks_off() -> None:
    """A read error is raised after the lines before it."""

    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            if line := super().readline(size):
                return line
            raise OSError(5, "Input/output error")

    batches = read_texts(Broken(b"a\n"))
    assert next(batches) == ["a"]
    with pytest.raises(VinFileError, match=r"^Input/output error$"):
        next(batches)


def test_summary_counts_what_is_not_stored() -> None:
    """The last line has the origin; the row has not."""
    found = Found(KNOWN[VIN], "miss", 0.0, is_stored=False)
    result, counts = to_result(VIN.lower(), found), LineCounts()
    counts.add([result])
    assert result.row == VehicleRow(VIN, "PETERBILT", "388", "2014", "Truck-Tractor")
    assert "decoded, but not stored: 1" in counts.summary()
    assert counts.summary().startswith("VINs: 1; ")
