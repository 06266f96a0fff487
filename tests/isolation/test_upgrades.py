"""Upgrade and rollback: the former version and this one, side by side on a database.

The former version runs from its own code, which is taken from the history of git.
"""

import asyncio
import os
import signal
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import pytest
from aiohttp import ClientSession

from service.settings import StorageSettings
from service.storage.database import migrate
from service.storage.migrations import revisions
from tests.events.conftest import event
from tests.isolation.history import former_revision
from tests.launcher import Forked, Launcher, forked
from tests.running import (
    ROOT,
    SERVE,
    SERVICE,
    Running,
    exit_status,
    started,
    variables,
)

FORMER_SCHEMA: Final = "0002"
SCHEMA: Final = revisions()[-1]


class Ran(NamedTuple):
    """A command that has ended, and what it has printed."""

    status: int
    stdout: str
    stderr: str


class Version(Protocol):
    """The code of a version, with a database."""

    def run(self, *command: str) -> Ran:
        """Run a command of this version to its end."""

    def serving(self) -> AbstractContextManager[Running]:
        """Serve this version."""


def settings_of(storage: str) -> dict[str, object]:
    return {
        "sandbox__enabled": False,
        # The former version has no such setting.
        "health__warm_up": None,
        "events__enabled": True,
        "storage__url": storage,
        "server__drain_s": 0.0,
    }


class FormerVersion:
    """The former version, of which only the command line is known."""

    def __init__(self, code: Path, folder: Path, storage: str) -> None:
        self._code = code
        self._log = folder / "former.log"
        # This version does not know kept periods.
        self._settings = {**settings_of(storage), "periods__enabled": None}

    def run(self, *command: str) -> Ran:
        """Run a command of this version to its end."""
        ran = subprocess.run(  # noqa: S603 - our own command
            [*SERVICE, *command],
            check=False,
            cwd=self._code,
            env={**os.environ, **variables(self._settings)},
            capture_output=True,
            text=True,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def serving(self) -> AbstractContextManager[Running]:
        """Serve this version."""
        return started(self._log, SERVE, self._settings, self._code)


class ThisVersion:
    """This version, in forks that start at once."""

    def __init__(self, launcher: Launcher, folder: Path, storage: str) -> None:
        self._launcher = launcher
        self._log = folder / "this.log"
        self._settings = settings_of(storage)

    def run(self, *command: str) -> Ran:
        """Run a command of this version to its end."""
        outputs = [self._log.with_suffix(each) for each in (".out", ".err")]
        with outputs[0].open("w") as out, outputs[1].open("w") as err:
            descriptors = [out.fileno(), err.fileno()]
            pid = self._launcher.start_on(
                descriptors, list(command), variables(self._settings)
            )
        status = Forked(self._launcher, pid).close(kills=False)
        return Ran(status, *(each.read_text() for each in outputs))

    def serving(self) -> AbstractContextManager[Running]:
        """Serve this version."""
        self._log.unlink(missing_ok=True)
        return forked(self._launcher, self._log, port=0, **self._settings)


async def stop(service: Running) -> None:
    """Stop a service by SIGTERM."""
    service.process.send_signal(signal.SIGTERM)
    assert await exit_status(service.process) == 0


def url_of(service: Running) -> str:
    return f"http://127.0.0.1:{service.port}"


class Caller:
    """Sends events and queries to services, with one key."""

    def __init__(self, session: ClientSession) -> None:
        self.sent: list[str] = []
        self._session = session

    async def send(self, service: Running, number: int = 10) -> None:
        """Send events with new ids, of the same name and hour."""
        ids = [str(len(self.sent) + n) for n in range(number)]
        events = [event(id=each) for each in ids]
        async with self._session.post(
            f"{url_of(service)}/events", json=events
        ) as answer:
            assert answer.status == 202, await answer.text()
            assert (await answer.json())["accepted"] == number
        self.sent += ids

    async def check(self, service: Running) -> None:
        """Fail unless the service has all events, each once, and counts them."""
        listed = await self._ask(f"{url_of(service)}/events?limit=1000")
        assert sorted(each["id"] for each in listed["events"]) == sorted(self.sent)
        await self.check_counts(service)

    async def check_counts(self, service: Running) -> None:
        """Fail unless the service counts all events, each once."""
        for by in ("category", "name", "hour"):
            counts = (await self._ask(f"{url_of(service)}/events/stats?by={by}"))[
                "counts"
            ]
            assert [each["events"] for each in counts] == [len(self.sent)], by

    async def _ask(self, url: str) -> dict[str, Any]:
        async with self._session.get(url) as answer:
            assert answer.status == 200, await answer.text()
            body: dict[str, Any] = await answer.json()
            return body


@pytest.fixture(scope="session")
def former_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the former version."""
    folder = tmp_path_factory.mktemp("former")
    revision = former_revision()
    assert revision is not None  # or this module is not collected
    archived = subprocess.run(  # noqa: S603 - our own command
        ["git", "archive", revision, "service", "config", "pyproject.toml"],  # noqa: S607
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    subprocess.run(["tar", "-x"], check=True, cwd=folder, input=archived.stdout)  # noqa: S607
    return folder


@pytest.fixture
def versions(
    former_code: Path, launcher: Launcher, storage: StorageSettings, tmp_path: Path
) -> tuple[Version, Version]:
    """The former version and this one, on the same database."""
    return (
        FormerVersion(former_code, tmp_path, storage.url),
        ThisVersion(launcher, tmp_path, storage.url),
    )


async def test_upgrade_and_rollback(
    versions: tuple[Version, Version], storage: StorageSettings
) -> None:
    """No event is lost or miscounted by an upgrade, a rollback and another upgrade."""
    former, this = versions
    await migrate(storage, "base")
    assert f" {FORMER_SCHEMA}." in former.run("migrate").stdout
    key = former.run("keys", "add", "shop").stdout.split()[-1]
    async with ClientSession(headers={"X-API-Key": key}) as session:
        caller = Caller(session)
        await _upgrade(former, this, caller)
        await _roll_back(former, this, caller)
        await _upgrade(former, this, caller)


async def _upgrade(former: Version, this: Version, caller: Caller) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(former.serving())
        await caller.send(old)
        await caller.check(old)

        migrated = await asyncio.to_thread(this.run, "migrate")
        assert migrated.status == 0, migrated.stderr
        assert f"schema {SCHEMA}." in migrated.stdout
        await caller.send(old)

        new = stack.enter_context(this.serving())
        for each in (old, new, old, new):
            await caller.send(each)
            await caller.check(old)
            await caller.check(new)

        await stop(old)
        await caller.send(new)
        await caller.check(new)
        await stop(new)


async def _roll_back(former: Version, this: Version, caller: Caller) -> None:
    refused = former.run("serve", "--port", "0")
    assert refused.status == 1
    assert f"{SCHEMA}, which this version does not know" in refused.stderr

    migrated = this.run("migrate", "--to", FORMER_SCHEMA)
    assert (migrated.status, migrated.stderr) == (0, "")
    assert migrated.stdout == f"The database has the schema {FORMER_SCHEMA}.\n"
    with former.serving() as old:
        await caller.check(old)
        await caller.send(old)
        await caller.check(old)
        await stop(old)


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
@pytest.mark.services
async def test_a_migration_under_load(
    versions: tuple[Version, Version], storage: StorageSettings
) -> None:
    """The former version accepts every event during migrations, and all are counted."""
    former, this = versions
    await migrate(storage, FORMER_SCHEMA)
    key = former.run("keys", "add", "shop").stdout.split()[-1]
    async with ClientSession(headers={"X-API-Key": key}) as session:
        caller = Caller(session)
        with former.serving() as old:
            for revision in (SCHEMA, FORMER_SCHEMA, SCHEMA):
                migrating = asyncio.create_task(
                    asyncio.to_thread(this.run, "migrate", "--to", revision)
                )
                while not migrating.done():
                    await caller.send(old, 5)
                assert (await migrating).status == 0, (await migrating).stderr
            await caller.check_counts(old)
            with this.serving() as new:
                await caller.check_counts(new)
                await stop(new)
            await stop(old)
