"""`copilot-usage budgets`: it changes the database of the settings directly."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from service.command_line import main
from service.settings import StorageSettings
from service.storage.database import Database
from service.usage.budgets.outbox import Outbox
from tests.running import ROOT, SERVICE
from tests.usage.budgets.conftest import fire_in

HOOK: Final = "https://hooks.example.com/secret-path"


class Command:
    """Runs the command line in this process."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return the status, the output and the errors."""
        self._monkeypatch.setattr("sys.argv", ["copilot-usage", "budgets", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    def json(self, *arguments: str) -> dict[str, Any]:
        """Return the JSON that a command has printed."""
        status, out, err = self.run(*arguments)
        assert (status, err) == (0, "")
        item: dict[str, Any] = json.loads(out)
        return item


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    empty_file: Path,
) -> Command:
    """Return the command on a database of its own."""
    file = tmp_path / "budgets.db"
    file.write_bytes(empty_file.read_bytes())
    url = f"sqlite+aiosqlite:///{file}"
    monkeypatch.setenv("COPILOT_USAGE_STORAGE__URL", url)
    return Command(capsys, monkeypatch)


def test_a_budget_is_set_shown_listed_and_removed(command: Command) -> None:
    """The secret is printed once."""
    item = command.json(
        "set", "office", "5000", "--thresholds=80,100", f"--webhook={HOOK}"
    )
    assert (item["credits"], item["thresholds"]) == (5000.0, [80, 100])
    assert item["webhook"].pop("secret").startswith("whsec_")
    assert command.json("show", "office") == item
    status, out, _ = command.run("list")
    assert status == 0
    assert out.splitlines()[1].split() == [
        "office",
        "5,000.00",
        "https://hooks.example.com/…",
    ]
    assert command.run("remove", "office") == (0, "Removed: office\n", "")
    status, _, err = command.run("show", "office")
    assert (status, err) == (2, "copilot-usage: there is no budget 'office'\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("set", "of fice", "1"),
        ("set", "office", "0"),
        ("set", "office", "1", "--thresholds=many"),
        ("set", "office", "1", "--webhook=http://hooks.example.com"),
        ("remove", "none"),
        ("deliveries", "none"),
        ("retry", "none", "msg_1"),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused(
    command: Command, arguments: tuple[str, ...]
) -> None:
    """The status is 2, and the error is one line."""
    status, out, err = command.run(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("copilot-usage: ")


async def run_apart(storage: StorageSettings, *arguments: str) -> str:
    """Run a command in a process of its own, and return its output."""
    process = await asyncio.create_subprocess_exec(
        *SERVICE,
        "budgets",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "COPILOT_USAGE_STORAGE__URL": storage.url},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_deliveries_are_listed_and_retried(
    database: Database, storage: StorageSettings
) -> None:
    """A retry is due at once, for any service on the database."""
    await fire_in(database, url="https://hooks.test/hook")
    outbox = Outbox(database)
    (claimed,) = await outbox.claim(await outbox.find_due(()))
    ran = await run_apart(storage, "deliveries", "office")
    assert ran.splitlines()[1].split()[:4] == [claimed.id, "2024-04-29", "used", "50%"]
    assert json.loads(await run_apart(storage, "retry", "office", claimed.id))["id"]
    (due,) = await outbox.find_due(())
    assert (due.id, due.attempt) == (claimed.id, 2)
