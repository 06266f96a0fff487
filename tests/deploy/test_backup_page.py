"""The commands of `docs/backup.md`, on running services that store events."""

import asyncio
import os
import re
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from aiohttp import ClientSession
from sqlalchemy.engine import make_url

from service.settings import StorageSettings
from service.storage.database import migrate
from tests.conftest import POSTGRESQL, storage_at
from tests.deploy.files import ROOT
from tests.events.conftest import event
from tests.events.faults.conftest import make_key, make_service
from tests.events.faults.senders import all_events, calling, sending
from tests.launcher import Service
from tests.patience import GIVE_UP_S

PAGE: Final = (ROOT / "docs" / "backup.md").read_text(encoding="utf-8")
ENOUGH: Final = 20
"""Requests that are answered before, during and after a backup."""
FILLER_BYTES: Final = 4 * 1024 * 1024
PROGRAM: Final = f'#!/bin/sh\nexec {sys.executable} -m service "$@"\n'

__all__ = ["make_service"]

MakeService = Callable[..., Service]


class Shell:
    """Runs the commands below a heading; `systemctl` acts on a service of the test."""

    def __init__(
        self, folder: Path, storage: StorageSettings, service: Service
    ) -> None:
        self.folder = folder
        self.service = service
        program = folder / "bin" / "copilot-usage"
        program.parent.mkdir()
        program.write_text(PROGRAM)
        program.chmod(0o755)
        config = folder / "copilot-usage.toml"
        config.write_text(f'[storage]\nurl = "{storage.url}"\n')
        database = make_url(storage.url).database or ""
        server = make_url(POSTGRESQL)
        self._environment = {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CONFIG": str(config),
            "BACKUPS": str(folder),
            "DATABASE": database,
            "PGDATABASE": database,
            "PGHOST": str(server.host),
            "PGPORT": str(server.port),
            "PGUSER": str(server.username),
        }

    async def run(self, heading: str) -> str:
        """Run each command of the section, and return all that they print."""
        printed = ""
        for command in commands_below(heading):
            match command.split():
                case ["systemctl", "stop", _]:
                    assert await self.service.stop() == 0
                case ["systemctl", "start", _]:
                    await self.start()
                case _:
                    printed += await asyncio.to_thread(self._run, command)
        return printed

    async def start(self) -> None:
        """Start the service."""
        self.service.start()
        await self.service.until_up()

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout


def commands_below(heading: str) -> Iterator[str]:
    """The commands of the `console` blocks of a section."""
    (_, section) = PAGE.split(f"\n### {heading}\n")
    text = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        yield from re.findall(r"^\$ (.*)$", block, re.MULTILINE)


@pytest.fixture
async def postgresql() -> AsyncIterator[StorageSettings]:
    """A database of its own, which the page's commands may rename."""
    name = f"usage_{secrets.token_hex(8)}"
    connection = await asyncpg.connect(POSTGRESQL)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        url = make_url(POSTGRESQL).set(drivername="postgresql+asyncpg", database=name)
        storage = storage_at(url.render_as_string(hide_password=False))
        await migrate(storage)
        yield storage
    finally:
        for each in (name, f"{name}_damaged", f"{name}_restored"):
            await connection.execute(f"DROP DATABASE IF EXISTS {each} WITH (FORCE)")
        await connection.close()


async def ids(session: ClientSession) -> set[str]:
    """The ids of all stored events."""
    return {each["id"] for each in await all_events(session)}


def missing(found: set[str]) -> list[str]:
    """Return the ids that are absent, though their sender sent later ones."""
    numbers: dict[str, set[int]] = {}
    for each in found:
        sender, _, number = each.rpartition("-")
        numbers.setdefault(sender, set()).add(int(number))
    return [
        f"{sender}-{number}"
        for sender, seen in numbers.items()
        for number in set(range(max(seen))) - seen
    ]


async def back_up_and_restore(shell: Shell, database: str, key: str) -> set[str]:
    """Back up under writes, store more, restore; return the restored events.

    They are at least what was visible before the backup, without gaps, and not all.
    """
    await shell.start()
    async with calling(shell.service.port, key) as session:
        async with sending(session) as senders:
            await senders.until_answered(ENOUGH)
            before = await ids(session)
            backup = asyncio.create_task(shell.run(f"Back up {database}"))
            await senders.until_answered(ENOUGH)
            await backup
            await senders.until_answered(ENOUGH)
        await senders.check(session)
        at_the_end = await ids(session)
    await shell.run(f"Restore {database}")
    async with calling(shell.service.port, key) as session:
        restored = await ids(session)
    assert set() < before <= restored < at_the_end
    assert missing(restored) == []
    return restored


async def still_stores(service: Service, key: str) -> None:
    """Fail unless a service stores a further event."""
    async with calling(service.port, key) as session:
        async with session.post("/events", json=event(id="later")) as answer:
            assert answer.status == 202, await answer.text()
        assert "later" in await ids(session)


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs sqlite3")
async def test_sqlite(
    tmp_path: Path, empty_file: Path, make_service: MakeService
) -> None:
    """A copy under writes is whole; it can be restored, and the file shrunk."""
    file = Path(shutil.copy(empty_file, tmp_path / "usage-live.db"))
    storage = storage_at(f"sqlite+aiosqlite:///{file}")
    key = await make_key(storage)
    shell = Shell(tmp_path, storage, make_service(storage))

    restored = await back_up_and_restore(shell, "SQLite", key)

    check_copy(tmp_path / "backup.db")
    fill_and_empty(file)
    await shell.run("Shrink SQLite")
    assert size_of(file) < FILLER_BYTES
    async with calling(shell.service.port, key) as session:
        assert await ids(session) == restored
    await still_stores(shell.service, key)


def check_copy(copy: Path) -> None:
    """Fail unless a copy is whole, and readable by its owner only."""
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def size_of(file: Path) -> int:
    """Return the size of a file in bytes."""
    return file.stat().st_size


def fill_and_empty(file: Path) -> None:
    """Leave free pages in a database that a service uses."""
    with closing(sqlite3.connect(file, timeout=GIVE_UP_S)) as opened:
        opened.execute("CREATE TABLE filler AS SELECT zeroblob(?)", (FILLER_BYTES,))
        opened.commit()
        opened.execute("DROP TABLE filler")
        opened.commit()
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert size_of(file) > FILLER_BYTES


@pytest.mark.services
async def test_postgresql(
    tmp_path: Path, postgresql: StorageSettings, make_service: MakeService
) -> None:
    """A dump under writes is whole; it can be restored, and the table shrunk."""
    key = await make_key(postgresql)
    shell = Shell(tmp_path, postgresql, make_service(postgresql))

    restored = await back_up_and_restore(shell, "PostgreSQL", key)

    await shell.run("Shrink PostgreSQL")
    async with calling(shell.service.port, key) as session:
        assert await ids(session) == restored
    await still_stores(shell.service, key)
