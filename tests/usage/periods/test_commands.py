"""The commands of kept periods, against the database of a service."""

import asyncio
import hashlib
import io
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from sqlalchemy.engine import make_url

from service.command_line import main
from service.settings import StorageSettings
from service.storage.database import sqlite_file
from tests.conftest import MakeClient
from tests.usage.periods.conftest import (
    MONTHS,
    Keep,
    Sealed,
    keeping_client,
    periods_of,
)

pytestmark = pytest.mark.parametrize("storage", ["sqlite"], indirect=True)


class Finished(NamedTuple):
    """The exit status of a command, and what it has written."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The objects of `--json`."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Awaitable[Finished]]


class Kept(NamedTuple):
    """A database with three statements, and what the API says of its periods."""

    file: Path
    listed: list[dict[str, Any]]
    exported: str
    run: Run


@pytest.fixture
def run(
    storage: StorageSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command on the database, in a thread: the service needs the event loop."""
    monkeypatch.setenv("COPILOT_USAGE_STORAGE__URL", storage.url)

    def call(arguments: tuple[str, ...]) -> Finished:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["copilot-usage", "periods", *arguments])
            with pytest.raises(SystemExit) as raised:
                main()
        return Finished(int(raised.value.code or 0), *capsys.readouterr())

    async def in_thread(*arguments: str) -> Finished:
        return await asyncio.to_thread(call, arguments)

    return in_thread


@pytest.fixture
async def kept(
    storage: StorageSettings, client: MakeClient, keep: Keep, sealed: Sealed, run: Run
) -> Kept:
    """Keep periods by a service, which runs on while the commands read."""
    service = await keeping_client(client, storage)
    for each in MONTHS:
        await keep(service, each)
    await sealed(3)
    answer = await service.get("/usage/export?period=2024-02-01")
    file = sqlite_file(make_url(storage.url))
    assert file is not None
    return Kept(file, await periods_of(service), await answer.text(), run)


async def test_periods_are_listed_as_by_the_api(kept: Kept) -> None:
    """With `--json`, each line is an item of `GET /usage/periods`."""
    assert (await kept.run("list", "--json")).lines == kept.listed
    table = (await kept.run("list")).out.splitlines()
    assert table[0].split()[:3] == ["period", "status", "from"]
    assert [line.split()[0] for line in table[1:]] == [
        each["period"] for each in kept.listed
    ]


async def test_one_period_is_shown(kept: Kept) -> None:
    """An unknown one ends with status 2, and names others."""
    assert (await kept.run("show", "2024-02-01", "--json")).lines == [kept.listed[2]]
    shown = (await kept.run("show", "2024-02-01")).out
    assert kept.listed[2]["digest"] in shown
    status, out, err = await kept.run("show", "2023-01-01")
    assert (status, out) == (2, "")
    assert "no kept period '2023-01-01'; the nearest: 2024-04-01" in err


async def test_a_period_is_exported_as_by_the_api(kept: Kept, tmp_path: Path) -> None:
    """The bytes of CSV are equal; Parquet has the same sum."""
    assert await kept.run("export", "2024-02-01") == (0, kept.exported, "")
    file = tmp_path / "february.parquet"
    done = await kept.run(
        "export", "2024-02-01", "--format", "parquet", "-o", str(file)
    )
    assert done == (0, "", "")
    credits_used = pq.read_table(io.BytesIO(file.read_bytes()))["credits_used"]
    assert float(sum(credits_used.to_pylist())) == kept.listed[2]["credits_used"]


async def test_a_plan_of_a_newer_version_is_named(kept: Kept) -> None:
    """Such a period cannot be exported, since the names of its steps are unknown."""
    with closing(sqlite3.connect(kept.file)) as database, database:
        database.execute("UPDATE usage_periods SET plan = 'text-rules/9'")
    status, _, err = await kept.run("export", "2024-02-01")
    assert status == 2
    assert "text-rules/9" in err


async def test_whole_statements_are_verified(kept: Kept) -> None:
    """A digest that was noted earlier must be among them."""
    digests = [each["digest"] for each in reversed(kept.listed[1:])]
    done = await kept.run("verify", "--json", "--digest", digests[-1].upper())
    assert done.status == 0
    assert [(each["result"], each["digest"]) for each in done.lines] == [
        ("verified", digest) for digest in digests
    ]
    other = hashlib.sha256().hexdigest()
    status, _, err = await kept.run("verify", "--digest", other)
    assert (status, err) == (1, f"copilot-usage: no statement has the digest {other}\n")


async def test_a_difference_is_named_with_status_1(kept: Kept) -> None:
    """The table has the period and what differs."""
    with closing(sqlite3.connect(kept.file)) as connection, connection:
        connection.execute("UPDATE usage_periods SET messages = 9 WHERE number = 2")
    status, out, err = await kept.run("verify")
    assert (status, err) == (1, "copilot-usage: periods that differ: 2024-02-01\n")
    (line,) = [each for each in out.splitlines() if each.startswith("2024-02-01")]
    assert line.split()[1] == "different"
    assert "messages is 9, and 3 by the rows" in line


async def test_there_must_be_a_database(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """None is created."""
    missing = tmp_path / "missing.db"
    monkeypatch.setenv("COPILOT_USAGE_STORAGE__URL", f"sqlite+aiosqlite:///{missing}")
    status, _, err = await kept.run("verify")
    assert status == 1
    assert "there is no such file" in err
    assert not missing.exists()
