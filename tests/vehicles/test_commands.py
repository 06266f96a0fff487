"""`vehicles lookup` as its users meet it: what it writes, says, keeps and survives."""

import asyncio
import csv
import io
import os
import pty
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from msgspec.structs import replace
from pyarrow import parquet

from service.__main__ import main
from service.sandbox.server import RunningSandbox
from service.sandbox.vpic import VPIC_PATH
from service.settings import Storage, load
from service.upstream.peers import Peer
from service.vehicles import commands, lookup
from service.vehicles.commands import WAITS, Asking
from service.vehicles.store import VehicleStore
from service.vehicles.vpic import MAX_BATCH, vpic_peer
from tests.conftest import always
from tests.running import ROOT, until
from tests.vehicles.conftest import (
    KNOWN,
    UNKNOWN,
    VIN,
    Asked,
    Gate,
    Open,
    Serve,
    keep_old,
    on_sqlite,
    vins,
)

HEADER: Final = "vin,make,model,model_year,body_class,error"
KNOWN_LINES: Final = [
    ",".join((vin, *(getattr(vehicle, name) for name in vehicle.__struct_fields__), ""))
    for vin, vehicle in KNOWN.items()
]
MANY: Final = 4 * MAX_BATCH
OR_ELSE_S: Final = 0.5
"""Wait before the other way to the same end; either is right."""


class Done(NamedTuple):
    """How the command has ended, and what it has said."""

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
    sandbox: RunningSandbox, storage: Storage, monkeypatch: pytest.MonkeyPatch
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


async def test_rows_without_a_vehicle(run: Run, tmp_path: Path, asked: Asked) -> None:
    """What is no VIN, or has no vehicle, is a row that says so, and no failure."""
    lines = ["1XPWD40X1ED21530O", UNKNOWN, "=1+1", f"\x1b[2J{VIN}", "-" * 50]
    done = await run("lookup", str(listed(tmp_path, lines)))
    assert (done.status, done.lines[1:]) == (
        0,
        [
            "1XPWD40X1ED21530O,,,,,invalid_vin",
            f"{UNKNOWN},,,,,vin_not_decoded",
            "'=1+1,,,,,invalid_vin",
            f"?[2J{VIN},,,,,invalid_vin",
            f"'{'-' * 40}…,,,,,invalid_vin",
        ],
    )
    assert done.err == summary(VINs=5, not_decoded=1, invalid=4)
    assert asked.vins == {UNKNOWN: 1}


async def test_a_sandbox_of_its_own(run: Run, file: Path, asked: Asked) -> None:
    """With --sandbox nobody else is asked, and what it tells is kept apart."""
    for counts in ({"from_vPIC": 5}, {"from_the_cache": 5}):
        done = await run("lookup", "--sandbox", str(file))
        assert (done.status, done.lines) == (0, [HEADER, *KNOWN_LINES])
        assert done.err == summary(VINs=5, **counts)
    assert asked.calls == 0
    assert (await run("lookup", str(file))).err == summary(VINs=5, from_vPIC=5)


async def test_an_empty_file(run: Run, tmp_path: Path) -> None:
    """No VINs are a header, and no error."""
    done = await run("lookup", str(listed(tmp_path, ["", " "])))
    assert (done.status, done.lines, done.err) == (0, [HEADER], summary())


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
    assert [list(row.values()) for row in table.to_pylist()] == [
        KNOWN_LINES[0].split(","),
        ["x", "", "", "", "", "invalid_vin"],
    ]


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
    assert "Parquet is not for a terminal: name a file with --output" in done.err


async def test_csv_by_any_name(run: Run, file: Path, tmp_path: Path) -> None:
    """--format has the last word."""
    out = tmp_path / "vins.parquet"
    await run("lookup", str(file), "--format", "csv", "-o", str(out))
    with out.open(newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows == [line.split(",") for line in (HEADER, *KNOWN_LINES)]


async def test_an_output_is_replaced_when_it_is_whole(
    run: Run, file: Path, tmp_path: Path
) -> None:
    """A link stays one, the file keeps its mode, and nothing else is left there."""
    folder = tmp_path / "out"
    folder.mkdir()
    target, link = folder / "old.csv", folder / "link.csv"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    assert (await run("lookup", str(file), "-o", str(link))).status == 0
    assert target.read_text().splitlines() == [HEADER, *KNOWN_LINES]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert sorted(folder.iterdir()) == [link, target]


# --- what is of no use --------------------------------------------------------------


@pytest.mark.parametrize(
    "content, reason",
    [
        pytest.param(b"\xff\xfe1\x00", "line 2: not UTF-8", id="UTF-16"),
        pytest.param(b"PAR1\0\0", "line 2: not text", id="binary"),
        pytest.param(
            b"1" * 10_000_000,
            "line 2: longer than 1,000 bytes; expected one VIN a line",
            id="one long line",
        ),
    ],
)
async def test_no_list_of_vins(
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
async def test_names_of_no_use(
    arguments: list[str], reason: str, run: Run, tmp_path: Path, asked: Asked
) -> None:
    """A file that is not to be read or written is named, and nobody is asked."""
    filled = [each.format(tmp_path) for each in arguments]
    done = await run("lookup", *filled)
    assert (done.status, done.out) == (2, b"")
    assert done.err == f"copilot-usage: {reason.format(tmp_path)}\n"
    assert asked.calls == 0


async def test_what_was_there_stays_until_all_is_done(run: Run, tmp_path: Path) -> None:
    """An output is not touched by a run that ends early."""
    source, out = tmp_path / "vins.txt", tmp_path / "out.csv"
    source.write_bytes(VIN.encode() + b"\n\0\n")
    out.write_text("old")
    done = await run("lookup", str(source), "-o", str(out))
    assert (done.status, out.read_text()) == (2, "old")
    assert names_in(tmp_path, "out") == ["out.csv"]


async def test_a_full_disk(run: Run, file: Path) -> None:
    """An output that takes no more is a failure, in one line; a device stays one."""
    full = Path("/dev/full")
    done = await run("lookup", str(file), "-o", str(full))
    assert (done.status, done.out) == (1, b"")
    assert done.err == "copilot-usage: /dev/full: No space left on device\n"
    assert await asyncio.to_thread(full.is_char_device)


async def test_a_database_of_no_use(
    run: Run, file: Path, tmp_path: Path, asked: Asked
) -> None:
    """What is no database is named and left alone, and nothing is written."""
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"not a database " * 100)
    url = f"sqlite+aiosqlite:///{bad}"
    done = await run("lookup", str(file), storage__url=url)
    assert (done.status, done.out) == (1, b"")
    assert done.err == f"copilot-usage: storage.url: {url}: file is not a database\n"
    assert bad.read_bytes() == b"not a database " * 100
    assert asked.calls == 0


# --- vPIC away ----------------------------------------------------------------------


async def test_vpic_away(
    run: Run, file: Path, sandbox: RunningSandbox, kept: VehicleStore
) -> None:
    """What is kept is told, however old; the rest fails, until the next run."""
    await keep_old(kept, VIN, vehicle=KNOWN[VIN])
    sandbox.sandbox.faults = always("server_error")
    done = await run("lookup", str(file))
    failed = [f"{vin},,,,,vehicle_unavailable" for vin in list(KNOWN)[1:]]
    assert (done.status, done.lines) == (1, [HEADER, KNOWN_LINES[0], *failed])
    assert done.err == summary(VINs=5, from_the_cache=1, failed=4)

    sandbox.sandbox.faults = always("server_error", times=0, path="/nowhere")
    done = await run("lookup", str(file))
    assert (done.status, done.lines) == (0, [HEADER, *KNOWN_LINES])


async def test_decoded_offline(run: Run, file: Path, sandbox: RunningSandbox) -> None:
    """Where it is wanted, what vPIC does not tell is decoded here: no failure."""
    sandbox.sandbox.faults = always("server_error")
    done = await run("lookup", str(file), vehicles__offline="true")
    assert (done.status, done.lines) == (0, [HEADER, *KNOWN_LINES])
    assert "from vPIC: 0; decoded offline: 5;" in done.err


async def test_an_open_circuit_is_waited_for(
    run: Run, file: Path, sandbox: RunningSandbox, asked: Asked
) -> None:
    """While vPIC is to be left in peace the file waits, rather than fail."""
    sandbox.sandbox.faults = always("server_error", times=1)
    breaker = {"breaker__minimum_calls": 1, "breaker__open_s": 0.01}
    done = await run("lookup", str(file), **breaker)
    assert (done.status, done.lines) == (0, [HEADER, *KNOWN_LINES])
    assert asked.calls == 2


async def test_waiting_in_vain_ends(
    opened: Open, serve: Serve, sandbox: RunningSandbox, asked: Asked
) -> None:
    """Once a batch has waited in vain the next ones do not, until vPIC tells again."""
    away = always("unavailable", retry_after="0")
    patient = {"breaker": {"minimum_calls": 100}}
    batches = iter([[vin] for vin in vins(5)])
    async with opened(**patient) as lookups:
        asking = Asking(lookups, serve.settings().vehicles)

        async def calls() -> int:
            before = asked.calls
            await asking.look_up(next(batches))
            return asked.calls - before

        sandbox.sandbox.faults = away
        assert [await calls(), await calls()] == [1 + WAITS, 1]
        sandbox.sandbox.faults = always("unavailable", path="/nowhere")
        assert await calls() == 1
        sandbox.sandbox.faults = away
        assert [await calls(), await calls()] == [1 + WAITS, 1]


@pytest.mark.parametrize(
    "pace, batches",
    [
        pytest.param(0.0, 16, id="no pace: twice what may be in flight"),
        pytest.param(10.0, 16, id="fast"),
        pytest.param(5.0, 12, id="as shipped: half of those that have their turn"),
        pytest.param(0.01, 1, id="very slow"),
    ],
)
def test_batches_at_once(pace: float, batches: int) -> None:
    """No batch waits so long for its turn that it fails of it."""
    shipped = load().settings.vehicles
    vehicles = replace(shipped, requests_per_s=pace)
    assert commands._batches_at_once(vehicles) == batches


async def test_the_pace_is_its_own(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may ask as often as all the workers of a service together."""
    peers: list[Peer] = []

    def seen(*settings: Any) -> Peer:
        peers.append(vpic_peer(*settings))
        return peers[-1]

    monkeypatch.setattr(lookup, "vpic_peer", seen)
    pace = {"vehicles__requests_per_s": 7, "server__workers": 4}
    assert (await run("lookup", str(file), **pace)).status == 0
    assert [peer.requests_per_s for peer in peers] == [7.0]


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
    gate: Gate,
    asked: Asked,
    kept: VehicleStore,
) -> None:
    """What was kept before a kill is not asked for again; all the rest is, once."""
    wanted = vins(MANY)
    file = listed(tmp_path, wanted)
    async with start(str(file), vehicles__concurrency=1) as process:
        await until(lambda: asked.vins.total() >= 2 * MAX_BATCH)
        gate.close()
        await until(lambda: asked.sandbox.sandbox.in_flight == 1)
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    gate.open()
    found = await kept.find(wanted)
    already = {vin for vin, each in found.items() if each.entry is not None}
    assert 0 < len(already) < MANY
    before = asked.vins.copy()

    done = await run("lookup", str(file))
    assert done.status == 0
    assert [line.split(",")[0] for line in done.lines[1:]] == wanted
    assert asked.vins - before == dict.fromkeys(set(wanted) - already, 1)
    of_cache, of_vpic = len(already), MANY - len(already)
    assert done.err == summary(VINs=MANY, from_the_cache=of_cache, from_vPIC=of_vpic)


@on_sqlite
async def test_ctrl_c(start: Start, tmp_path: Path, gate: Gate, asked: Asked) -> None:
    """It says how far it has come, and leaves no half of an output."""
    out = tmp_path / "out.csv"
    file = listed(tmp_path, vins(MANY))
    async with start(str(file), "-o", str(out), vehicles__concurrency=1) as process:
        await until(lambda: asked.vins.total() >= 2 * MAX_BATCH)
        gate.close()
        await until(lambda: asked.sandbox.sandbox.in_flight == 1)
        process.send_signal(signal.SIGINT)
        printed, said = await process.communicate()
    assert (process.returncode, printed) == (130, b"")
    begins = "copilot-usage: stopped, and what was told is kept; VINs: "
    assert re.fullmatch(begins + r"\d+; .*; failed: 0\n", said.decode())
    assert names_in(tmp_path, "out") == []


@on_sqlite
async def test_ctrl_c_while_it_reads(start: Start, asked: Asked) -> None:
    """Whoever types the VINs can leave: what has come is looked up meanwhile."""
    async with start("-") as process:
        assert process.stdin is not None
        process.stdin.write("\n".join([*vins(MAX_BATCH), ""]).encode())
        await until(lambda: asked.vins.total() == MAX_BATCH)
        process.send_signal(signal.SIGINT)
        # Python sees a signal that comes just before it blocks when it blocks no more:
        # it ends by the end of its input then, and by the same way.
        with suppress(TimeoutError):
            async with asyncio.timeout(OR_ELSE_S):
                await process.wait()
        process.stdin.close()
        _, said = await process.communicate()
    assert process.returncode == 130
    assert said.decode().startswith("copilot-usage: stopped, ")
    assert said.count(b"\n") == 1


@on_sqlite
async def test_a_reader_that_leaves(start: Start, tmp_path: Path) -> None:
    """A reader that has seen enough, as `head` has, ends it quietly."""
    file = listed(tmp_path, vins(10 * MANY))
    ours, theirs = os.pipe()
    async with start(str(file), stdout=theirs) as process:
        os.close(theirs)
        assert await asyncio.to_thread(os.read, ours, len(HEADER)) == HEADER.encode()
        os.close(ours)
        _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")


@on_sqlite
async def test_progress_on_a_terminal(
    environment: Environment, file: Path, tmp_path: Path
) -> None:
    """With the output in a file, a terminal shows how much of the VINs is read."""
    ours, theirs = pty.openpty()
    out = tmp_path / "out.csv"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "vehicles", "lookup", str(file)),
        *("-o", str(out)),
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**environment(), "TERM": "xterm"},
    )
    os.close(theirs)
    assert await process.wait() == 0
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "Looking up" in shown
    assert shown.endswith(summary(VINs=5, from_vPIC=5).replace("\n", "\r\n"))
    assert out.read_text().splitlines() == [HEADER, *KNOWN_LINES]
