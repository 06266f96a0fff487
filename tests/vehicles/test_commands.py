"""`vehicles lookup` as its users meet it: what it writes, says, keeps and survives."""

import asyncio
import io
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from msgspec.structs import replace
from pyarrow import parquet

from service.__main__ import main
from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings, load
from service.upstream.profiles import UpstreamProfile
from service.vehicles import commands, lookup
from service.vehicles.commands import MAX_RETRIES, BatchLookups
from service.vehicles.store import VehicleStore
from service.vehicles.vpic import MAX_BATCH, vpic_profile
from tests.conftest import always
from tests.running import ROOT, until
from tests.vehicles.conftest import (
    KNOWN,
    UNKNOWN,
    VIN,
    Open,
    Serve,
    VpicBarrier,
    VpicRequests,
    on_sqlite,
    store_expired,
    vins,
)

HEADER: Final = "vin,make,model,model_year,body_class,error,warnings,detail,source"
KNOWN_LINES: Final = [
    ",".join(
        (
            vin,
            *(getattr(vehicle, name) for name in vehicle.__struct_fields__),
            *[""] * 4,
        )
    )
    for vin, vehicle in KNOWN.items()
]
MANY: Final = 4 * MAX_BATCH


class Done(NamedTuple):
    """Result of the command: its status and its output."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its output."""
        return self.out.decode().replace("\r\n", "\n").splitlines()


Run = Callable[..., Awaitable[Done]]
Start = Callable[..., AbstractAsyncContextManager[asyncio.subprocess.Process]]
Environment = Callable[..., dict[str, str]]


@pytest.fixture
def environment(
    sandbox: RunningSandbox, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> Environment:
    """Set what the command's settings are: the sandbox, the storage, and no waits."""
    for name in os.environ:
        if name.startswith("COPILOT_USAGE_"):
            monkeypatch.delenv(name)

    def take(**settings: object) -> dict[str, str]:
        usual = {
            "storage__url": storage.url,
            "vehicles__base_url": sandbox.url + VPIC_PATH,
            "vehicles__requests_per_s": 0,
            "vehicles__attempts": 1,
        }
        for name, value in (usual | settings).items():
            monkeypatch.setenv(f"COPILOT_USAGE_{name.upper()}", str(value))
        return dict(os.environ)

    return take


@pytest.fixture
def run(
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Run:
    """Run it without a process of its own: `vehicles__offline=1` is a setting."""

    async def call(*arguments: str, **settings: object) -> Done:
        environment(**settings)
        monkeypatch.setattr(sys, "argv", ["copilot-usage", "vehicles", *arguments])

        def to_the_end() -> int:
            with pytest.raises(SystemExit) as raised:
                main()
            return int(raised.value.code or 0)

        status = await asyncio.to_thread(to_the_end)
        said = capsysbinary.readouterr()
        return Done(status, said.out, said.err.decode())

    return call


@pytest.fixture
def start(environment: Environment) -> Start:
    """Runs it as a process, which is killed at the end if it is still there."""

    @asynccontextmanager
    async def begin(
        *arguments: str, stdout: int = asyncio.subprocess.PIPE, **settings: object
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "vehicles", "lookup", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=environment(**settings),
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return begin


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the five known VINs."""
    return listed(tmp_path, list(KNOWN))


def listed(folder: Path, lines: Sequence[str]) -> Path:
    """A file of these lines."""
    path = folder / "vins.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def names_in(folder: Path, begins: str) -> list[str]:
    """The files there whose names begin so."""
    return sorted(path.name for path in folder.glob(f"{begins}*"))


def summary(**counts: int) -> str:
    """The last line, of these counts; the others are 0."""
    names = "VINs", "from_the_cache", "from_vPIC", "not_decoded", "invalid", "failed"
    parts = (f"{name.replace('_', ' ')}: {counts.pop(name, 0)}" for name in names)
    said = "; ".join(parts)
    assert not counts
    return f"copilot-usage: {said}\n"


# --- what it writes -----------------------------------------------------------------


async def test_a_file_of_vins(run: Run, file: Path) -> None:
    """Each line is a row in its place; the second time, all come from the cache."""
    first = await run("lookup", str(file))
    assert (first.status, first.lines) == (0, [HEADER, *KNOWN_LINES])
    assert first.err == summary(VINs=5, from_vPIC=5)
    again = await run("lookup", str(file))
    assert (again.status, again.out) == (0, first.out)
    assert again.err == summary(VINs=5, from_the_cache=5)


async def test_rows_without_a_vehicle(
    run: Run, tmp_path: Path, received: VpicRequests
) -> None:
    """An invalid VIN, or one without a vehicle, is a row with an error."""
    lines = ["1XPWD40X1ED21530O", UNKNOWN, "=1+1", f"\x1b[2J{VIN}", "-" * 50]
    done = await run("lookup", str(listed(tmp_path, lines)))
    rows = [line.split(",", 6) for line in done.lines[1:]]
    assert (done.status, [",".join(row[:6]) for row in rows]) == (
        0,
        [
            "1XPWD40X1ED21530O,,,,,invalid_vin",
            f"{UNKNOWN},,,,,vin_not_decoded",
            "'=1+1,,,,,invalid_vin",
            f"?[2J{VIN},,,,,invalid_vin",
            f"'{'-' * 40}…,,,,,invalid_vin",
        ],
    )
    assert all("a VIN has 17 letters" in row[6] for row in rows if row[5][0] == "i")
    assert "7 - Manufacturer is not registered with NHTSA" in rows[1][6]
    assert done.err == summary(VINs=5, not_decoded=1, invalid=4)
    assert received.vins == {UNKNOWN: 1}


AUDI: Final = "WAUZZZ8K1DA006278"


async def test_doubts_are_columns(run: Run, tmp_path: Path) -> None:
    """A row has the names of its warnings, and the years that the VIN leaves open."""
    done = await run("lookup", str(listed(tmp_path, [AUDI, f"{AUDI},2013"])))
    names = "errors_in_positions unmatched_characters"
    assert done.lines[1:] == [
        f"{AUDI},AUDI,,1983,,,{names},model year 1983 or 2013,",
        f"{AUDI},AUDI,,2013,,,{names},,",
    ]


async def test_a_column_of_hints(run: Run, tmp_path: Path) -> None:
    """A header names it; an empty cell is no hint, and a wrong year is an error."""
    lines = ["Make;Model Year;VIN", f"x;2013;{AUDI}", f"x;;{AUDI}", f"x;1900;{AUDI}"]
    done = await run("lookup", str(listed(tmp_path, lines)))
    rows = [line.split(",") for line in done.lines[1:]]
    assert [(row[3], row[5]) for row in rows] == [
        ("2013", ""),
        ("1983", ""),
        ("", "invalid_model_year"),
    ]


async def test_its_own_output_is_input(run: Run, tmp_path: Path) -> None:
    """All rows of a second run come from the cache, and are those of the first."""
    lines = [*KNOWN, AUDI, UNKNOWN, "=1+1"]
    first = await run("lookup", str(listed(tmp_path, lines)))
    (tmp_path / "first.csv").write_bytes(first.out)
    again = await run("lookup", str(tmp_path / "first.csv"))
    assert (again.status, again.out) == (0, first.out)
    assert again.err == summary(VINs=8, from_the_cache=6, not_decoded=1, invalid=1)


@pytest.mark.parametrize(
    "options, lines",
    [
        pytest.param([], ["id;VIN;year", f"1;{VIN};2014"], id="semicolons"),
        pytest.param([], ["Note\tVIN", f"a, b\t{VIN}"], id="tabs"),
        pytest.param([], [f'"{VIN}"'], id="quoted"),
        pytest.param([], [f"1,{VIN},x"], id="no header"),
        pytest.param([], [f'{VIN};"Truck, red, big, old"'], id="quoted commas"),
        pytest.param([], ['"a, b, c";vin', f"1;{VIN}"], id="commas in the header"),
        pytest.param([], [f"{VIN};1,5,5"], id="unquoted commas"),
        pytest.param([], ["note,vin", f"{'x' * 4_000},{VIN}"], id="long line"),
        pytest.param(["--column", "fin"], ["a,FIN", f"{VIN[:-1]}8,{VIN}"], id="name"),
        pytest.param(["--column", "2"], [f"{VIN[:-1]}8,{VIN}"], id="number"),
        pytest.param(["--column", "2"], ["a,b", f"1,{VIN}"], id="number and header"),
    ],
)
async def test_forms_of_files(
    run: Run, tmp_path: Path, options: list[str], lines: list[str]
) -> None:
    """The column of VINs is found, by default by its name or its first line."""
    done = await run("lookup", *options, str(listed(tmp_path, lines)))
    assert (done.status, done.lines) == (0, [HEADER, KNOWN_LINES[0]])


@pytest.mark.parametrize("column", ["fin", "3", "0"])
async def test_no_such_column(run: Run, file: Path, column: str) -> None:
    """The error names the column and what there is, and nothing is looked up."""
    done = await run("lookup", "--column", column, str(file))
    assert done.status != 0
    assert "line 1: no column" in done.err


async def test_no_line_is_a_vin(run: Run, tmp_path: Path) -> None:
    """A file of something else fails, with a row for each line."""
    done = await run("lookup", str(listed(tmp_path, ["name", "Ada"])))
    assert (done.status, len(done.lines)) == (1, 3)
    assert "no line was a VIN" in done.err
    assert (await run("lookup", str(listed(tmp_path, ["vin"])))).status == 0


async def test_a_line_that_is_too_short_is_invalid(run: Run, tmp_path: Path) -> None:
    """A VIN behind a line break within quotes is not left out in silence."""
    lines = ["a,b,vin", '1,"two', f'lines",{VIN}']
    done = await run("lookup", str(listed(tmp_path, lines)))
    assert (done.status, len(done.lines)) == (1, 3)
    assert done.err.startswith(summary(VINs=2, invalid=2))


async def test_a_sandbox_of_its_own(
    run: Run, file: Path, received: VpicRequests
) -> None:
    """With --sandbox nobody else is asked, and what it tells is kept apart."""
    for counts in ({"from_vPIC": 5}, {"from_the_cache": 5}):
        done = await run("lookup", "--sandbox", str(file))
        assert (done.status, done.lines) == (0, [HEADER, *KNOWN_LINES])
        assert done.err == summary(VINs=5, **counts)
    assert received.calls == 0
    assert (await run("lookup", str(file))).err == summary(VINs=5, from_vPIC=5)


@pytest.mark.parametrize(
    "options, name",
    [
        pytest.param([], "vins.parquet", id="as it is called"),
        pytest.param(["--format", "parquet"], "vins", id="as it is asked"),
    ],
)
async def test_parquet(options: list[str], name: str, run: Run, tmp_path: Path) -> None:
    """Parquet has the same columns, all of them texts."""
    source = listed(tmp_path, [VIN, "x"])
    out = tmp_path / name
    done = await run("lookup", str(source), *options, "-o", str(out))
    assert (done.status, done.out) == (0, b"")
    table = parquet.read_table(out)
    assert table.column_names == HEADER.split(",")
    first, second = [list(row.values()) for row in table.to_pylist()]
    assert first == KNOWN_LINES[0].split(",")
    assert second[:6] == ["x", "", "", "", "", "invalid_vin"]


async def test_parquet_on_standard_output(run: Run, file: Path) -> None:
    """Piped, Parquet comes out whole."""
    done = await run("lookup", str(file), "--format", "parquet")
    assert done.status == 0
    assert parquet.read_table(io.BytesIO(done.out)).num_rows == 5


async def test_no_parquet_on_a_terminal(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets no bytes that it cannot show, but the way to have them."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = await run("lookup", str(file), "--format", "parquet")
    assert (done.status, done.out) == (2, b"")
    assert "a terminal cannot show Parquet; name a file with --output" in done.err


# --- unusable files -----------------------------------------------------------------


@pytest.mark.parametrize(
    "content, reason",
    [
        pytest.param(b"\xff\xfe1\x00", "line 2: not UTF-8", id="UTF-16"),
        pytest.param(b"PAR1\0\0", "line 2: not text", id="binary"),
        pytest.param(
            b"1" * 10_000_000,
            "line 2: longer than 16,384 bytes; expected one VIN a line",
            id="one long line",
        ),
    ],
)
async def test_file_that_is_not_a_list_of_vins(
    content: bytes, reason: str, run: Run, tmp_path: Path
) -> None:
    """The line is named and the run ends; those before it have been written."""
    source = tmp_path / "vins.txt"
    source.write_bytes(VIN.encode() + b"\n" + content)
    done = await run("lookup", str(source))
    assert (done.status, done.lines) == (2, [HEADER, KNOWN_LINES[0]])
    assert done.err == f"copilot-usage: {reason}\n"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        pytest.param(["{}/none"], "{}/none: No such file or directory", id="no file"),
        pytest.param(["{}"], "{}: Is a directory", id="a folder"),
        pytest.param(
            ["{}/vins.txt", "-o", "{}/none/out"],
            "{}/none/out: No such file or directory",
            id="no folder for the output",
        ),
        pytest.param(
            ["{}/vins.txt", "-o", "{}"], "{}: Is a directory", id="a folder for output"
        ),
    ],
)
@pytest.mark.usefixtures("file")
async def test_unusable_files(
    arguments: list[str], reason: str, run: Run, tmp_path: Path, received: VpicRequests
) -> None:
    """A file that is not to be read or written is named, and nobody is asked."""
    filled = [each.format(tmp_path) for each in arguments]
    done = await run("lookup", *filled)
    assert (done.status, done.out) == (2, b"")
    assert done.err == f"copilot-usage: {reason.format(tmp_path)}\n"
    assert received.calls == 0


async def test_unusable_database(
    run: Run, file: Path, tmp_path: Path, received: VpicRequests
) -> None:
    """A file that is not a database is reported and not changed."""
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"not a database " * 100)
    url = f"sqlite+aiosqlite:///{bad}"
    done = await run("lookup", str(file), storage__url=url)
    assert (done.status, done.out) == (1, b"")
    assert done.err == f"copilot-usage: storage.url: {url}: file is not a database\n"
    assert bad.read_bytes() == b"not a database " * 100
    assert received.calls == 0


# --- vPIC away ----------------------------------------------------------------------


async def test_vpic_away(
    run: Run, file: Path, sandbox: RunningSandbox, stored: VehicleStore
) -> None:
    """Cached vehicles are returned however old; the others fail until the next run."""
    await store_expired(stored, VIN, vehicle=KNOWN[VIN])
    sandbox.sandbox.faults = always("server_error")
    done = await run("lookup", str(file))
    failed = [f"{vin},,,,,vehicle_unavailable," for vin in list(KNOWN)[1:]]
    assert (done.status, done.lines[:2]) == (1, [HEADER, KNOWN_LINES[0]])
    rows = zip(done.lines[2:], failed, strict=True)
    assert all(line.startswith(expected) for line, expected in rows)
    assert done.err == summary(VINs=5, from_the_cache=1, failed=4)

    sandbox.sandbox.faults = always("server_error", times=0, path="/nowhere")
    done = await run("lookup", str(file))
    assert (done.status, done.lines) == (0, [HEADER, *KNOWN_LINES])


async def test_decoded_offline(run: Run, file: Path, sandbox: RunningSandbox) -> None:
    """With `vehicles.offline`, VINs are decoded locally, which is no failure."""
    sandbox.sandbox.faults = always("server_error")
    done = await run("lookup", str(file), vehicles__offline="true")
    assert (done.status, done.lines) == (
        0,
        [HEADER, *(f"{line}offline" for line in KNOWN_LINES)],
    )
    assert "from vPIC: 0; decoded offline: 5;" in done.err


async def test_open_circuit_is_waited_for(
    run: Run, file: Path, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """While vPIC is to be left in peace the file waits, rather than fail."""
    sandbox.sandbox.faults = always("server_error", times=1)
    breaker = {"breaker__minimum_calls": 1, "breaker__open_s": 0.01}
    done = await run("lookup", str(file), **breaker)
    assert (done.status, done.lines) == (0, [HEADER, *KNOWN_LINES])
    assert received.calls == 2


async def test_retries_stop_after_a_failure(
    opened: Open, serve: Serve, sandbox: RunningSandbox, received: VpicRequests
) -> None:
    """Once a batch has waited in vain the next ones do not, until vPIC tells again."""
    away = always("unavailable", retry_after="0")
    patient = {"breaker": {"minimum_calls": 100}}
    batches = iter([[vin] for vin in vins(5)])
    async with opened(**patient) as lookups:
        asking = BatchLookups(lookups, serve.settings().vehicles)

        async def calls() -> int:
            before = received.calls
            await asking.look_up(next(batches))
            return received.calls - before

        sandbox.sandbox.faults = away
        assert [await calls(), await calls()] == [1 + MAX_RETRIES, 1]
        sandbox.sandbox.faults = always("unavailable", path="/nowhere")
        assert await calls() == 1
        sandbox.sandbox.faults = away
        assert [await calls(), await calls()] == [1 + MAX_RETRIES, 1]


@pytest.mark.parametrize(
    "pace, batches",
    [
        pytest.param(0.0, 16, id="no pace: twice what may be in flight"),
        pytest.param(10.0, 16, id="fast"),
        pytest.param(5.0, 12, id="as shipped: half of those that have their turn"),
        pytest.param(0.01, 1, id="very slow"),
    ],
)
def test_max_batches(pace: float, batches: int) -> None:
    """No batch waits so long for its turn that it fails of it."""
    shipped = load().settings.vehicles
    vehicles = replace(shipped, requests_per_s=pace)
    assert commands._max_batches(vehicles) == batches


async def test_rate_limit_is_not_divided_by_workers(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may ask as often as all the workers of a service together."""
    profiles: list[UpstreamProfile] = []

    def seen(*settings: Any) -> UpstreamProfile:
        profiles.append(vpic_profile(*settings))
        return profiles[-1]

    monkeypatch.setattr(lookup, "vpic_profile", seen)
    pace = {"vehicles__requests_per_s": 7, "server__workers": 4}
    assert (await run("lookup", str(file), **pace)).status == 0
    assert [profile.requests_per_s for profile in profiles] == [7.0]


# --- as a process -------------------------------------------------------------------


@on_sqlite
async def test_standard_input_and_output(start: Start) -> None:
    """In a pipeline there is the table on one side and one line on the other."""
    async with start("-") as process:
        given = "\ufeff" + "\r\n".join(f" {vin.lower()} " for vin in KNOWN)
        out, err = await process.communicate(given.encode())
    assert Done(0, out, err.decode()).lines == [HEADER, *KNOWN_LINES]
    assert (process.returncode, err.decode()) == (0, summary(VINs=5, from_vPIC=5))


@on_sqlite
async def test_killed_and_begun_again(
    start: Start,
    run: Run,
    *,
    tmp_path: Path,
    barrier: VpicBarrier,
    received: VpicRequests,
    stored: VehicleStore,
) -> None:
    """VINs stored before a kill are not requested again; all others are, once."""
    wanted = vins(MANY)
    file = listed(tmp_path, wanted)
    async with start(str(file), vehicles__concurrency=1) as process:
        await until(lambda: received.vins.total() >= 2 * MAX_BATCH)
        barrier.close()
        await until(lambda: received.sandbox.sandbox.in_flight == 1)
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    barrier.open()
    found = await stored.find(wanted)
    already = {vin for vin, each in found.items() if each.entry is not None}
    assert 0 < len(already) < MANY
    before = received.vins.copy()

    done = await run("lookup", str(file))
    assert done.status == 0
    assert [line.split(",")[0] for line in done.lines[1:]] == wanted
    assert received.vins - before == dict.fromkeys(set(wanted) - already, 1)
    of_cache, of_vpic = len(already), MANY - len(already)
    assert done.err == summary(VINs=MANY, from_the_cache=of_cache, from_vPIC=of_vpic)


@on_sqlite
async def test_ctrl_c(
    start: Start, tmp_path: Path, barrier: VpicBarrier, received: VpicRequests
) -> None:
    """It says how far it has come, and leaves no half of an output."""
    out = tmp_path / "out.csv"
    file = listed(tmp_path, vins(MANY))
    async with start(str(file), "-o", str(out), vehicles__concurrency=1) as process:
        await until(lambda: received.vins.total() >= 2 * MAX_BATCH)
        barrier.close()
        await until(lambda: received.sandbox.sandbox.in_flight == 1)
        process.send_signal(signal.SIGINT)
        printed, said = await process.communicate()
    assert (process.returncode, printed) == (130, b"")
    begins = "copilot-usage: stopped; the results so far are cached; VINs: "
    assert re.fullmatch(begins + r"\d+; .*; failed: 0\n", said.decode())
    assert names_in(tmp_path, "out") == []
