"""The program that writes the file: what is in it, and how it ends."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import asdict

from service.settings import StorageSettings
from service.storage.adbc import adbc_options_of
from service.storage.database import open_database
from service.vehicles.export import COMMAND
from service.vehicles.model import Entry, Vehicle, VehicleSource, Vin
from service.vehicles.parquet import BLOCK_ROWS
from service.vehicles.store import VehicleStore
from tests.conftest import POSTGRESQL, storage_at
from tests.patience import GIVE_UP_S
from tests.vehicles.conftest import KNOWN, OTHER, UNKNOWN, VIN, on_sqlite
from tests.vehicles.exporting import MANY, SCHEMA, fill, row, table_of

SOURCE: Final = "https://vpic.example/api?a='b'\\{after}%"
"""An address such as no one would have, but could."""
TOLD_AT: Final = 1_732_212_345_678_901
SIZES: Final = (BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 1)


class Ended(NamedTuple):
    """Output of a program that has ended."""

    status: int
    file: bytes
    words: str


def job(storage: StorageSettings, source: str = "sandbox") -> bytes:
    """The job of the program."""
    return msgspec.json.encode(asdict(adbc_options_of(storage)) | {"source": source})


@contextmanager
def started(job: bytes, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has been told, and whose input stays open."""
    with subprocess.Popen(  # noqa: S603
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    ) as program:
        assert program.stdin is not None
        program.stdin.write(job + b"\n")
        program.stdin.flush()
        yield program
        program.kill()


def ended(job: bytes, folder: Path) -> Ended:
    """Let it do its work."""
    with started(job, folder) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        file, words = program.stdout.read(), program.stderr.read().decode()
        return Ended(program.wait(GIVE_UP_S), file, words.strip())


# --- what is in the file ------------------------------------------------------------


async def test_vehicles_come_in_the_order_of_their_vins(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """Each column has its type; of other sources, removed or unknown ones, nothing."""
    others = VehicleSource(SOURCE + "/"), VehicleSource("sandbox")
    async with open_database(storage) as database:
        store = VehicleStore(database, VehicleSource(SOURCE))
        told = {vin: Entry(vehicle, TOLD_AT) for vin, vehicle in KNOWN.items()}
        odd = Vehicle("CITROËN", "", "", "“Büs” 🚌, it’s")
        told |= {Vin("0" * 17): Entry(odd, 0), UNKNOWN: Entry(None, TOLD_AT)}
        await store.save(told, {})
        await store.remove([VIN])
        for other in others:
            await VehicleStore(database, other).save({VIN: Entry(OTHER, TOLD_AT)}, {})

    status, file, words = ended(job(storage, SOURCE), tmp_path)

    table = table_of(file)
    assert (status, words) == (0, str(len(KNOWN)))
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        row("0" * 17, "CITROËN", "", "", "“Büs” 🚌, it’s", at=0),
        *(
            row(vin, *asdict(KNOWN[vin]).values(), at=TOLD_AT)
            for vin in sorted(KNOWN.keys() - {VIN})
        ),
    ]


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_a_schema_may_have_any_name(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """Statements with braces are no templates."""
    await fill(storage, 3)
    url, _, schema = storage.url.partition("?schema=")
    connection = await asyncpg.connect(POSTGRESQL)
    await connection.execute(f'ALTER SCHEMA {schema} RENAME TO "{{vin}}{schema}"')
    try:
        status, _, words = ended(
            job(storage_at(f"{url}?schema=%7Bvin%7D{schema}")), tmp_path
        )
        assert (status, words) == (0, "3")
    finally:
        await connection.execute(f'ALTER SCHEMA "{{vin}}{schema}" RENAME TO {schema}')
        await connection.close()


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_a_slow_client_may_leave_connections_idle(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """A time limit of the server for idle transactions does not cut files off."""
    await fill(storage, 3)
    schema = storage.url.partition("?schema=")[2]
    connection = await asyncpg.connect(POSTGRESQL)
    await connection.execute(
        f"CREATE ROLE {schema} LOGIN SUPERUSER; "
        f"ALTER ROLE {schema} SET idle_in_transaction_session_timeout = '1ms'"
    )
    try:
        url = storage.url.replace("postgres@", f"{schema}@")
        status, _, words = ended(job(storage_at(url)), tmp_path)
        assert (status, words) == (0, "3")
    finally:
        await connection.execute(f"DROP ROLE {schema}")
        await connection.close()


async def test_no_vehicles_are_a_table_too(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """It has the same columns, and no rows."""
    status, file, words = ended(job(storage), tmp_path)

    assert (status, words) == (0, "0")
    assert table_of(file).equals(SCHEMA.empty_table())


@pytest.mark.parametrize("rows", SIZES)
async def test_every_vehicle_is_there_once(
    storage: StorageSettings, tmp_path: Path, rows: int
) -> None:
    """However many there are, and wherever blocks end; row groups are bounded."""
    await fill(storage, rows)

    status, file, words = ended(job(storage), tmp_path)

    table = table_of(file)
    assert (status, words) == (0, str(rows))
    assert table["vin"].to_pylist() == [f"{n:017}" for n in range(rows)]
    assert pa.compute.unique(table["body_class"]).to_pylist() == ["Van"]
    metadata = pq.ParquetFile(pa.BufferReader(file)).metadata
    groups = range(metadata.num_row_groups)
    assert max(metadata.row_group(n).num_rows for n in groups) < 2 * BLOCK_ROWS


@on_sqlite
async def test_it_runs_in_any_folder(storage: StorageSettings, tmp_path: Path) -> None:
    """Nothing that lies there is imported in the place of what it needs."""
    for name in ("json", "pyarrow", "service"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")

    assert ended(job(storage), tmp_path).status == 0


# --- how it fails -------------------------------------------------------------------


def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    """It says so, and has written nothing."""
    missing = tmp_path / "missing.db"

    status, file, words = ended(
        job(storage_at(f"sqlite+aiosqlite:///{missing}")), tmp_path
    )

    assert (status, file) == (1, b"")
    assert "failed to open" in words
    assert not missing.exists()


def test_what_it_cannot_understand_ends_it(tmp_path: Path) -> None:
    """So does an input that is closed before anything was said."""
    assert ended(b"{", tmp_path).status == 1
    assert ended(b"", tmp_path).status == 1


@on_sqlite
@pytest.mark.parametrize("name", ["stdin", "stdout"])
async def test_it_ends_with_who_has_started_it(
    storage: StorageSettings, tmp_path: Path, name: str
) -> None:
    """It does not wait for ever until somebody reads the rest."""
    await fill(storage, MANY)
    with started(job(storage), tmp_path) as program:
        assert program.stdout is not None
        assert program.stdout.read(4) == b"PAR1"

        getattr(program, name).close()

        assert program.wait(GIVE_UP_S) == 1
