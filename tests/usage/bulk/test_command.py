"""The command `copilot-usage price`, in processes of its own."""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.usage.bulk import inputs
from tests.patience import GIVE_UP_S
from tests.running import ROOT
from tests.usage.bulk.conftest import price as price_here
from tests.usage.bulk.files import SCHEMA, content_of, message, write_messages

COMMAND: Final = (sys.executable, "-m", "service", "price")
KILLS: Final = 2
GROUP_ROWS: Final = 1_000
SUMMARY: Final = (
    "copilot-usage: plan: {}; messages: {}; credits: {}; rejected: {}; unreadable: 0"
)


@contextmanager
def pricing(
    *arguments: object, command: Sequence[str] = COMMAND
) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process, which is killed at the end."""
    with subprocess.Popen(  # noqa: S603
        [*command, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def price(*arguments: object) -> tuple[int, list[str]]:
    """Run the command to its end; return its status, and its lines."""
    with pricing(*arguments) as process:
        _, errors = process.communicate(timeout=GIVE_UP_S)
    return process.returncode, errors.splitlines()


def many(path: Path, count: int = 6_000) -> Path:
    """Write a file of six units, with all kinds of rows."""
    rows = [
        {
            **message(number % 5_900, f"What is the rent of number {number}?"),
            "timestamp": f"2024-04-{1 + number % 28:02}T03:25:03.613Z",
            "report_id": "7" if number % 10 == 0 else None,
        }
        for number in range(count)
    ]
    # A column that is not read makes each row group as large as a unit.
    other = [
        b"" if row % GROUP_ROWS else bytes(inputs.UNIT_BYTES) for row in range(count)
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA).append_column("other", [other])
    pq.write_table(table, path, row_group_size=GROUP_ROWS, use_dictionary=False)
    assert len(inputs.divide(inputs.list_files([str(path)]))) == count // GROUP_ROWS
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("input") / "in.parquet")


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, str]:
    """The output, made in this process without workers."""
    price_here(source, output=source.parent / "expected")
    return without_versions(content_of(source.parent / "expected"))


def without_versions(content: dict[str, str]) -> dict[str, str]:
    # The manifest has the version of the software, which conftest leaves empty.
    return {name: digest for name, digest in content.items() if "manifest" not in name}


def test_three_workers(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    """Three workers write the same bytes as none, with the exit status of the rows."""
    status, lines = price(source, "-o", tmp_path / "out", "--workers", 3)
    assert without_versions(content_of(tmp_path / "out")) == expected
    assert status == 1  # 100 ids are repeated
    rejected = f"100, in {tmp_path}/out/rejected.parquet"
    summary = SUMMARY.format("text-rules/1", 5_900, "[0-9.]+", rejected)
    assert re.fullmatch(summary, lines[-1])


def test_kills_at_any_time(
    source: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    """A run that is killed again and again continues, and writes the same bytes."""
    chance = random.Random(7)
    work, output = tmp_path / ".out.work", tmp_path / "out"
    for _ in range(KILLS):
        known = count_records(work)
        with pricing(source, "-o", output, "--workers", 2) as process:
            wanted = known + chance.randrange(1, 6)
            until_records(process, work, wanted)
            process.kill()
            process.wait(GIVE_UP_S)
        until_alone(work)
    price(source, "-o", output, "--workers", 2)
    assert without_versions(content_of(output)) == expected
    assert not work.exists()


def count_records(work: Path) -> int:
    """Return the number of records; the command may remove folders meanwhile."""
    files = (name for _, _, names in os.walk(work) for name in names)
    return sum(name.endswith(".record") for name in files)


def until_records(process: subprocess.Popen[str], work: Path, count: int) -> None:
    """Wait until the work has so many records, or the command has ended."""
    end = time.monotonic() + GIVE_UP_S
    while process.poll() is None and count_records(work) < count:
        assert time.monotonic() < end
        time.sleep(0.005)


def until_alone(work: Path) -> None:
    """Wait until no worker writes any more."""
    end = time.monotonic() + GIVE_UP_S
    while _open_files(work):
        assert time.monotonic() < end
        time.sleep(0.005)


def _open_files(work: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [str(each.readlink()) for each in (process / "fd").iterdir()]
        except OSError:
            continue
        found += [each for each in links if each.startswith(f"{work}/")]
    return found


def test_killed_workers_are_replaced(
    source: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    """The run goes on with other workers when some are killed."""
    with pricing(source, "-o", tmp_path / "out", "--workers", 2) as process:
        until_records(process, tmp_path / ".out.work", 1)
        for worker in workers_of(process.pid):
            os.kill(worker, signal.SIGKILL)
        process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 1
    assert without_versions(content_of(tmp_path / "out")) == expected


def workers_of(pid: int) -> Sequence[int]:
    """Return the processes that a command has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [
        int(each)
        for each in children.split()
        if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]


def test_interrupted_run(
    source: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    """Ctrl-C ends the command with one line, and the same command continues."""
    with pricing(source, "-o", tmp_path / "out") as process:
        until_records(process, tmp_path / ".out.work", 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 130
    last = errors.splitlines()[-1]
    assert last == "copilot-usage: stopped; the same command continues the run"
    price(source, "-o", tmp_path / "out", "--workers", 1)
    assert without_versions(content_of(tmp_path / "out")) == expected


def test_exit_statuses(tmp_path: Path) -> None:
    """A clean run has the status 0, a wrong option or input 2; each has one line."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])
    status, lines = price(source, "-o", tmp_path / "out", "--plan", "token-estimate")
    assert (status, lines[-1]) == (
        0,
        SUMMARY.format("token-estimate/1", 1, "1.20", 0),
    )
    missing = tmp_path / "missing"
    assert price(source, missing, "-o", tmp_path / "new") == (
        2,
        [f"copilot-usage: {missing}: no such file, and no files of messages"],
    )


def test_a_folder_of_others_is_refused_in_one_line(tmp_path: Path) -> None:
    """`--force` removes nothing that this command has not written."""
    source = write_messages(tmp_path / "in.ndjson", [message(1)])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text("{}")

    assert price(source, "-o", tmp_path / "site", "--force") == (
        2,
        [f"copilot-usage: {tmp_path}/site exists, and is no output of this command"],
    )
    assert (tmp_path / "site" / "manifest.json").read_text() == "{}"


def test_a_name_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    """It is named by its bytes, and the file among others is unreadable."""
    write_messages(tmp_path / "in.ndjson", [message(1)])
    bad = tmp_path / os.fsdecode(b"\xff.ndjson")
    write_messages(bad, [message(2)])

    status, lines = price(tmp_path, "-o", tmp_path / "out")
    assert status == 1
    assert lines[-2].startswith(f"copilot-usage: unreadable: {tmp_path}/\\xff.ndjson: ")
    assert price(bad, "-o", tmp_path / "new") == (
        2,
        [f"copilot-usage: {tmp_path}/\\xff.ndjson: the name is not UTF-8"],
    )


def test_the_example_of_the_page(tmp_path: Path) -> None:
    """Its commands, in the order of the page, print what it shows below them."""
    page = (ROOT / "docs" / "price-files.md").read_text("utf-8")
    (block,) = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    for part in filter(None, re.split(r"^\$ ", block, flags=re.MULTILINE)):
        command, _, output = part.partition("\n")
        program, *arguments = shlex.split(command)
        if program == "copilot-usage":
            assert outputs_of(arguments, tmp_path) == output
            continue
        assert program == "cat"
        file = tmp_path / arguments[0]
        if not file.exists():
            file.write_text(output, "utf-8")  # the page shows its input first
        assert file.read_text("utf-8") == output


def outputs_of(arguments: list[str], folder: Path) -> str:
    """Run the command in a folder; return both of its outputs."""
    return subprocess.run(  # noqa: S603
        [*COMMAND[:-1], *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        cwd=folder,
        timeout=GIVE_UP_S,
    ).stdout


def test_a_file_that_cannot_be_opened_is_named(source: Path, tmp_path: Path) -> None:
    """The reason alone would not say what to correct."""
    lock = tmp_path / ".out.work" / "lock"
    lock.mkdir(parents=True)
    assert price(source, "-o", tmp_path / "out") == (
        1,
        [f"copilot-usage: Is a directory: {lock}; the same command continues the run"],
    )


def test_file_that_cannot_grow(source: Path, tmp_path: Path) -> None:
    """A failed write ends the command with one line."""
    # The file of measured coverage would not grow either.
    limits = ("env", "--unset=COVERAGE_PROCESS_CONFIG", "prlimit", "--fsize=10000")
    limited = (*limits, *COMMAND)
    with pricing(source, "-o", tmp_path / "out", command=limited) as process:
        _, errors = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last == "copilot-usage: File too large; the same command continues the run"
