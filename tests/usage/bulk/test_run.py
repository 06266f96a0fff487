"""Runs of bulk pricing, from files to a folder of Parquet."""

import gzip
import json
import os
import pickle
import shutil
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.usage.bulk import inputs, output, repeats, run, units
from service.usage.bulk.errors import (
    BadInput,
    BadReports,
    OtherRun,
    OutputExists,
    RunFailed,
    RunInProgress,
)
from service.usage.bulk.model import FENCE_IDS
from service.usage.bulk.report_files import read_reports
from service.usage.bulk.workspace import RUN_FILE, Workspace
from service.usage.pricing.plans import TEXT_RULES
from tests.reference import sendable_texts
from tests.usage.bulk.conftest import InlineEngine, price, read_output
from tests.usage.bulk.files import (
    FORMATS,
    content_of,
    message,
    rejected_rows,
    write_messages,
)


def test_messages_of_a_file_are_priced(tmp_path: Path) -> None:
    """Each message has its price, source and steps, in the folder of its day."""
    rows = [
        message(1),
        {**message(2, "a"), "timestamp": "2024-04-30T01:00:00+02:00"},
        message(3, "a", report_id=7),
        message(4, "a", report_id=8),
        {**message(5, "a"), "timestamp": "2024-05-01T00:00:00Z"},
    ]
    source = write_messages(tmp_path / "messages.ndjson", rows)
    reports = tmp_path / "reports.json"
    reports.write_text('[{"id": 7, "name": "Short Lease", "credit_cost": 61.25}]')
    manifest = price(source, output=tmp_path / "out", reports=str(reports))
    priced = read_output(tmp_path / "out")
    shown = {
        row["message_id"]: (row["credits_used"], row["source"], row["report_name"])
        for row in priced
    }
    assert shown == {
        1: (Decimal("1.85"), "text", None),
        2: (Decimal("2.00"), "text", None),
        3: (Decimal("61.25"), "report", "Short Lease"),
        4: (Decimal("2.00"), "text", None),
        5: (Decimal("2.00"), "text", None),
    }
    assert priced[0]["steps"]["characters"] == Decimal("0.45")
    assert (manifest.messages, manifest.credits, manifest.rejected) == (5, "69.10", 0)
    days = sorted(each.name for each in (tmp_path / "out" / "messages").iterdir())
    assert days == ["day=2024-04-29", "day=2024-05-01"]
    assert (tmp_path / "out" / "totals.csv").read_text().splitlines() == [
        "day,report_name,source,messages,credits",
        "2024-04-29,,text,3,5.85",
        "2024-04-29,Short Lease,report,1,61.25",
        "2024-05-01,,text,1,2.00",
    ]
    assert not list(tmp_path.glob(".*"))


def test_totals_of_a_report_without_a_name(tmp_path: Path) -> None:
    """They are not those of texts; and a name is no formula for a spreadsheet."""
    rows = [message(1), message(2, report_id=7), message(3, report_id=8)]
    source = write_messages(tmp_path / "messages.ndjson", rows)
    reports = tmp_path / "reports.csv"
    reports.write_text("id,name,credit_cost\n7,,61\n8,=1+1,62\n")
    price(source, output=tmp_path / "out", reports=str(reports))
    assert (tmp_path / "out" / "totals.csv").read_text().splitlines() == [
        "day,report_name,source,messages,credits",
        "2024-04-29,,text,1,1.85",
        "2024-04-29,,report,1,61.00",
        "2024-04-29,'=1+1,report,1,62.00",
    ]


@settings(max_examples=25, deadline=None)
@given(
    given_texts=st.lists(sendable_texts, max_size=20),
    form=st.sampled_from(FORMATS),
    unit_bytes=st.sampled_from([100, 400, 10_000]),
)
def test_formats_have_the_same_prices(
    given_texts: list[str], form: str, unit_bytes: int
) -> None:
    """Each format, divided anywhere, has the prices of the service in its order."""
    rows = [message(number, text) for number, text in enumerate(given_texts)]
    if form == "csv":  # a reader of CSV cannot tell the line ends in a value apart
        rows = [{**row, "text": row["text"].replace("\0", "")} for row in rows]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "UNIT_BYTES", unit_bytes)
        source = write_messages(Path(folder) / f"in.{form}", rows, group_rows=3)
        manifest = price(source, output=Path(folder) / "out")
        priced = read_output(Path(folder) / "out")
    assert [row["message_id"] for row in priced] == [row["id"] for row in rows]
    expected = TEXT_RULES.rate([row["text"] for row in rows]).tolist()
    assert [int(row["credits_used"] * 100) for row in priced] == expected
    assert manifest.rejected == 0
    assert manifest.credits == str(Decimal(sum(expected)).scaleb(-2))


def test_rows_that_break_the_contract(tmp_path: Path) -> None:
    """Rows are kept aside with file, number and reason; the others are priced."""
    lines = [
        json.dumps(message(1)),
        "",
        "nonsense",
        '{"id": "1", "text": "a", "timestamp": "2024-04-29T03:25:03Z"}',
        '{"id": 9223372036854775808, "text": "a", "timestamp": "2024-04-29T03:25:03Z"}',
        '{"id": 2, "text": "a"}',
        json.dumps({**message(3), "timestamp": "soon"}),
        json.dumps(message(4)),
    ]
    source = tmp_path / "a.ndjson"
    source.write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    manifest = price(source, output=tmp_path / "out")
    assert [row["message_id"] for row in read_output(tmp_path / "out")] == [1, 4]
    rejected = rejected_rows(tmp_path / "out")
    assert [(row["row"], row["reason"].partition(":")[0]) for row in rejected] == [
        (3, "JSON is malformed"),
        (4, "id"),
        (5, "id"),
        (6, "object missing required field `timestamp`"),
        (7, "timestamp"),
        (9, "not UTF-8"),
    ]
    assert {row["file"] for row in rejected} == {str(source)}
    assert manifest.rejected == 6


def test_ids_of_earlier_messages(tmp_path: Path, monkeypatch: Any) -> None:
    """The first message with an id counts, whichever unit or file it is in."""
    monkeypatch.setattr(inputs, "UNIT_BYTES", 200)
    monkeypatch.setattr(repeats, "IDS_AT_ONCE", FENCE_IDS)
    first = [message(number) for number in (5, 3, 5, 1, 9, 3)]
    second = [message(number) for number in (7, 3, 2, 7)]
    folder = tmp_path / "in"
    folder.mkdir()
    a = write_messages(folder / "a.ndjson", first)
    b = write_messages(folder / "b.parquet", second, group_rows=2)
    manifest = price(folder, output=tmp_path / "out")
    priced = [row["message_id"] for row in read_output(tmp_path / "out")]
    assert priced == [5, 3, 1, 9, 7, 2]
    rejected = rejected_rows(tmp_path / "out")
    assert {(row["file"], row["row"]) for row in rejected} == {
        (str(a), 3),
        (str(a), 6),
        (str(b), 2),
        (str(b), 4),
    }
    assert (manifest.messages, manifest.rejected) == (6, 4)


@settings(max_examples=15, deadline=None)
@given(ids=st.lists(st.integers(0, 40), max_size=60), unit_bytes=st.integers(90, 900))
def test_repeated_ids_anywhere(ids: list[int], unit_bytes: int) -> None:
    """Of all messages with an id, the first one is priced."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "UNIT_BYTES", unit_bytes)
        source = write_messages(Path(folder) / "in.ndjson", list(map(message, ids)))
        manifest = price(source, output=Path(folder) / "out")
        priced = [row["message_id"] for row in read_output(Path(folder) / "out")]
    assert priced == list(dict.fromkeys(ids))
    assert manifest.rejected == len(ids) - len(priced)


def test_unreadable_files(tmp_path: Path) -> None:
    """Files that cannot be read are named, and all others are priced."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_messages(folder / "good.ndjson", [message(1)])
    (folder / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    (folder / "bad.ndjson.gz").write_bytes(b"no gzip at all")
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), folder / "column.parquet")
    typed = pa.table(
        {"id": ["1"], "text": ["a"], "timestamp": ["2024-04-29T03:25:03Z"]}
    )
    pq.write_table(typed, folder / "type.parquet")
    (folder / "head.csv").write_text("id,text\n1,a\n")
    cut = write_messages(folder / "cut.parquet", list(map(message, range(500))))
    cut.write_bytes(cut.read_bytes()[:300] + bytes(300) + cut.read_bytes()[600:])
    manifest = price(folder, output=tmp_path / "out")
    assert [row["message_id"] for row in read_output(tmp_path / "out")] == [1]
    named = {Path(each.path).name: each.reason for each in manifest.unreadable}
    assert sorted(named) == [
        "bad.ndjson.gz",
        "bad.parquet",
        "column.parquet",
        "cut.parquet",
        "head.csv",
        "type.parquet",
    ]
    assert named["column.parquet"] == "no column timestamp, or several of them"
    assert named["type.parquet"] == "column id has the type string"


@pytest.mark.parametrize("form", FORMATS)
def test_empty_input(form: str, tmp_path: Path) -> None:
    """A file without messages results in output without messages."""
    source = write_messages(tmp_path / f"in.{form}", [])
    manifest = price(source, output=tmp_path / "out")
    assert (manifest.messages, manifest.credits, manifest.unreadable) == (0, "0.00", ())


def test_files_of_no_bytes(tmp_path: Path) -> None:
    """A file of no bytes has no messages; only in Parquet is it unreadable."""
    for name in ("a.parquet", "b.csv", "c.ndjson"):
        (tmp_path / name).write_bytes(b"")
    manifest = price(tmp_path, output=tmp_path / "out")
    named = [Path(each.path).name for each in manifest.unreadable]
    assert (named, manifest.messages) == (["a.parquet"], 0)


def test_no_input(tmp_path: Path) -> None:
    """A name without files, or of an unknown format, is an error."""
    with pytest.raises(BadInput, match="no such file"):
        price(tmp_path / "missing.parquet", output=tmp_path / "out")
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(BadInput, match="--input-format"):
        price(tmp_path / "notes.txt", output=tmp_path / "out")
    with pytest.raises(BadInput):
        price(Path("nowhere:"), output=tmp_path / "out")


def test_existing_output(tmp_path: Path) -> None:
    """Output is replaced only if that is demanded, and another folder never is."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])
    price(source, output=tmp_path / "out")
    with pytest.raises(OutputExists, match="--force"):
        price(source, output=tmp_path / "out")
    write_messages(source, [message(1), message(2)])
    assert price(source, output=tmp_path / "out", is_forced=True).messages == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputExists, match="no output of this command"):
        price(source, output=tmp_path / "mine", is_forced=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_output_inside_of_the_input(tmp_path: Path) -> None:
    """The output of an earlier run is not read as input."""
    write_messages(tmp_path / "in.ndjson", [message(1)])
    first = price(tmp_path, output=tmp_path / "out")
    second = price(tmp_path, output=tmp_path / "out", is_forced=True)
    assert first == second


def test_unfinished_run_with_other_options(tmp_path: Path, monkeypatch: Any) -> None:
    """An unfinished run continues only with the same options and the same input."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "plan_ranges", fail)
        with pytest.raises(KeyboardInterrupt):
            price(source, output=tmp_path / "out")
    with pytest.raises(OtherRun):
        price(source, output=tmp_path / "out", plan_id="token-estimate/1")
    write_messages(source, [message(1), message(2)])
    with pytest.raises(OtherRun, match="--force"):
        price(source, output=tmp_path / "out")
    assert price(source, output=tmp_path / "out", is_forced=True).messages == 2


def test_finished_units_are_not_priced_again(tmp_path: Path, monkeypatch: Any) -> None:
    """A run that was interrupted prices the other units only, to the same bytes."""
    monkeypatch.setattr(inputs, "UNIT_BYTES", 300)
    source = write_messages(tmp_path / "in.ndjson", list(map(message, range(20))))
    price(source, output=tmp_path / "whole")
    count, priced = len(inputs.divide(inputs.list_files([str(source)]))), []
    real = units.price_unit
    for stop in range(count):

        def price_one(job: Any, unit: Any, last: int = stop) -> Any:
            priced.append(unit.number)
            if unit.number >= last:
                raise KeyboardInterrupt
            return real(job, unit)

        with monkeypatch.context() as patch:
            patch.setattr(run, "price_unit", price_one)
            with pytest.raises(KeyboardInterrupt):
                price(source, output=tmp_path / "out")
    price(source, output=tmp_path / "out")
    assert count > 3
    assert priced == sorted([*range(count), *range(count - 1)])
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_work_before_a_restart(tmp_path: Path, monkeypatch: Any) -> None:
    """After a restart of the machine, the run begins anew: its work may be damaged."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "plan_ranges", fail)
        with pytest.raises(KeyboardInterrupt):
            price(source, output=tmp_path / "out")
    damaged = tmp_path / ".out.work" / "units" / "00000000.arrow"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    (tmp_path / "boot_id").write_text("another one")
    monkeypatch.setattr(run, "BOOT_ID_FILE", tmp_path / "boot_id")
    assert price(source, output=tmp_path / "out").messages == 1


def test_input_that_changes(tmp_path: Path, monkeypatch: Any) -> None:
    """A file that changes while it is read fails the run: its rows may be mixed."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])
    real = output.write_totals

    def change(*args: Any) -> Any:
        write_messages(source, [message(1), message(2)])
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_totals", change)
        with pytest.raises(RunFailed, match="changed"):
            price(source, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OtherRun):
        price(source, output=tmp_path / "out")


def test_two_runs_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    """A second run on the same output ends at once, and the first one goes on."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])
    real = output.write_totals

    def start_another(*args: Any) -> Any:
        with pytest.raises(RunInProgress):
            price(source, output=tmp_path / "out")
        return real(*args)

    monkeypatch.setattr(run, "write_totals", start_another)
    assert price(source, output=tmp_path / "out").messages == 1


REPORTS = [{"id": 7, "name": "Short Lease", "credit_cost": 61.25}]


CSV_OF_REPORTS = "id,name,credit_cost,other\n7,Short Lease,61.25,\n"


def write_reports(path: Path) -> None:
    """Write the reports in the format of the suffixes, compressed or not."""
    name, is_zipped = (
        path.name.lower().removesuffix(".gz"),
        path.suffix.lower() == ".gz",
    )
    if name.endswith((".parquet", ".pq")):
        pq.write_table(pa.Table.from_pylist(REPORTS), path)
        return
    if name.endswith(".csv"):
        delimiter = ";" if "semicolons" in name else ","
        body = CSV_OF_REPORTS.replace(",", delimiter)
    else:
        body = json.dumps(REPORTS if ".json" in name else REPORTS[0])
    path.write_bytes(gzip.compress(body.encode()) if is_zipped else body.encode())


@pytest.mark.parametrize(
    "name",
    [
        "a.json",
        "a.ndjson",
        "a.csv",
        "a.parquet",
        "a.PQ",
        "a.json.gz",
        "a.ndjson.GZ",
        "a.csv.gz",
        "semicolons.csv",
    ],
)
def test_formats_of_reports(name: str, tmp_path: Path) -> None:
    """Reports are read from each format; the ids 7 and "7" are the same."""
    path = tmp_path / name
    write_reports(path)
    source = write_messages(tmp_path / "in.ndjson", [message(1, report_id="7")])
    manifest = price(source, output=tmp_path / "out", reports=str(path))
    assert (manifest.credits, manifest.priced_by_report) == ("61.25", 1)


@pytest.mark.parametrize(
    "name, body, reason",
    [
        ("a.csv", CSV_OF_REPORTS + '8,"Long,3,\n9,Other,4,\n', "does not end"),
        ("a.csv", "id,id,name,credit_cost\n7,8,a,3\n", "several columns id"),
        ("a.csv", "id,name\n7,a\n", "report 1: .*credit_cost"),
        ("a.csv", "", "empty"),
        ("a.csv.gz", CSV_OF_REPORTS, "gzip|inflate"),
        ("a.txt", CSV_OF_REPORTS, "expected JSON; .*[.]csv"),
    ],
)
def test_bad_files_of_reports(
    name: str, body: str, reason: str, tmp_path: Path
) -> None:
    """The reason says what is wrong with a file, or which suffixes are known."""
    path = tmp_path / name
    path.write_text(body)
    with pytest.raises(BadReports, match=reason):
        read_reports(str(path))


@pytest.mark.parametrize(
    "body, reason",
    [
        ("{}", "expected a list"),
        ("[", "Expecting value"),
        ('[{"id": 7, "name": "a"}]', "report 1: .*credit_cost"),
        ('[{"id": 7, "name": "a", "credit_cost": 1.001}]', "more than two decimals"),
        ('[{"id": 7, "name": "a", "credit_cost": -1}]', "report 1"),
        ('[{"id": "", "name": "a", "credit_cost": 1}]', "not usable"),
        (
            json.dumps([REPORTS[0], {**REPORTS[0], "id": "7", "credit_cost": 2}]),
            "two prices",
        ),
    ],
)
def test_bad_reports(body: str, reason: str, tmp_path: Path) -> None:
    """A file of reports that breaks the contract ends the run before it begins."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])
    path = tmp_path / "reports.json"
    path.write_text(body)
    with pytest.raises(BadReports, match=reason):
        price(source, output=tmp_path / "out", reports=str(path))
    shutil.rmtree(tmp_path / ".out.work")


def test_a_kill_while_the_work_is_removed(tmp_path: Path, monkeypatch: Any) -> None:
    """A later run does not take the rest of that work for its own."""
    source = write_messages(tmp_path / "a.ndjson", [message(1)])
    remove = Workspace.remove

    def fail(space: Workspace, path: str) -> None:
        if path == space.work:
            raise KeyboardInterrupt
        remove(space, path)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "remove", fail)
        with pytest.raises(KeyboardInterrupt):
            price(source, output=tmp_path / "out")
    assert (tmp_path / ".out.work").exists()
    price(source, output=tmp_path / "out", is_forced=True)

    assert [row["message_id"] for row in read_output(tmp_path / "out")] == [1]


@pytest.mark.parametrize("body", [None, b"half"])
def test_parts_that_are_lost_are_written_again(
    tmp_path: Path, monkeypatch: Any, body: bytes | None
) -> None:
    """Output without them would lack messages that its totals have."""
    source = write_messages(tmp_path / "a.ndjson", [message(1)])
    price(source, output=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            price(source, output=tmp_path / "out")
    (part,) = tmp_path.glob(".out.work/output/messages/*/*.parquet")
    part.unlink()
    if body is not None:
        part.write_bytes(body)

    price(source, output=tmp_path / "out")

    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_a_run_continues_when_earlier_output_cannot_be_replaced(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A folder that may not be renamed costs no work."""
    source = write_messages(tmp_path / "a.ndjson", [message(1)])
    price(source, output=tmp_path / "out")
    rename = os.replace

    def refuse(old: str, new: str) -> None:
        if old == str(tmp_path / "out"):
            raise PermissionError
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(PermissionError):
            price(source, output=tmp_path / "out", is_forced=True)
    with monkeypatch.context() as patch:
        patch.setattr(run, "price_unit", interrupt)
        manifest = price(source, output=tmp_path / "out", is_forced=True)

    assert manifest.messages == 1
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_record_of_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    """Units that it began are not taken for those of other input."""
    source = write_messages(tmp_path / "a.ndjson", [message(1)])
    with monkeypatch.context() as patch:
        patch.setattr(run, "_publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            price(source, output=tmp_path / "out")
    (tmp_path / ".out.work" / RUN_FILE).write_bytes(b"")
    write_messages(source, [message(2), message(3)])

    price(source, output=tmp_path / "out")

    assert [row["message_id"] for row in read_output(tmp_path / "out")] == [2, 3]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_output_that_is_the_input_is_kept(tmp_path: Path) -> None:
    """Without the files of the output, no input would be left."""
    source = write_messages(tmp_path / "a.ndjson", [message(1)])
    price(source, output=tmp_path / "out")
    kept = content_of(tmp_path / "out")

    with pytest.raises(BadInput, match="all files of the input"):
        price(tmp_path / "out", output=tmp_path / "out", is_forced=True)

    assert content_of(tmp_path / "out") == kept


def test_output_of_another_run_that_ended_meanwhile(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """It is not replaced without `--force`."""
    source = write_messages(tmp_path / "a.ndjson", [message(1)])
    list_files = inputs.list_files

    def run_another(*arguments: Any) -> Any:
        monkeypatch.setattr(run, "list_files", list_files)
        price(source, output=tmp_path / "out")
        return list_files(*arguments)

    monkeypatch.setattr(run, "list_files", run_another)
    with pytest.raises(OutputExists):
        price(source, output=tmp_path / "out")


def test_leading_zeros_of_report_ids(tmp_path: Path) -> None:
    """They are a part of the id: "007" is another report than 7."""
    reports = tmp_path / "reports.csv"
    reports.write_text("id,name,credit_cost\n007,Bond,5\n")
    rows = [message(1, "a", report_id="007"), message(2, "a", report_id=7)]
    source = write_messages(tmp_path / "a.ndjson", rows)

    price(source, output=tmp_path / "out", reports=str(reports))

    names = [row["report_name"] for row in read_output(tmp_path / "out")]
    assert names == ["Bond", None]


def sizes_of_tasks(folder: Path) -> list[int]:
    """Price a folder, and return the bytes that are sent with each task."""
    sent: list[int] = []

    class Measuring(InlineEngine):
        def run(self, work: Any, job: Any, tasks: Any) -> Any:
            sent.extend(len(pickle.dumps((job, task))) for task in tasks)
            return super().run(work, job, tasks)

    request = run.Request((str(folder),), f"{folder}.out", TEXT_RULES.id)
    opening = contextmanager(lambda: iter([Measuring()]))
    run.price_files(request, opening, lambda *_: None)
    return sent


def test_a_task_is_as_large_with_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent with its own files only, so many files cost no more each."""
    monkeypatch.setattr(inputs, "UNIT_BYTES", 1)
    largest = []
    for count in (2, 100):
        folder = tmp_path / f"{count:03}"
        folder.mkdir()
        for number in range(count):
            write_messages(folder / f"{number:03}.ndjson", [message(number)])
        largest.append(max(sizes_of_tasks(folder)[:count]))
    assert largest[1] - largest[0] < 32


def test_a_task_is_as_large_with_many_repeated_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Input may have each message twice; workers read the ids from a file."""
    monkeypatch.setattr(inputs, "UNIT_BYTES", 1)
    largest = []
    for count in (1, 1000):
        folder = tmp_path / f"{count:04}"
        folder.mkdir()
        for name, first in (("a", 0), ("b", 1000 - count)):
            rows = [message(first + number) for number in range(1000)]
            write_messages(folder / f"{name}.parquet", rows)
        largest.append(max(sizes_of_tasks(folder)))
        assert len(rejected_rows(Path(f"{folder}.out"))) == count
    assert largest[1] - largest[0] < 32
