"""The units for systemd: accepted, confined, and not too confined for the service."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from scripts.confined import SETPRIV, values_of
from service.keys.store import SANDBOX_KEY
from service.settings import load
from tests.deploy.files import DEPLOY, ROOT, seconds
from tests.events.conftest import event
from tests.running import SERVICE, Running, exit_status, started, until

FOLDER: Final = DEPLOY / "systemd"
UNIT: Final = FOLDER / "copilot-usage.service"
BACKUP: Final = FOLDER / "copilot-usage-backup.service"
CONFINED: Final = (sys.executable, "-m", "scripts.confined")
SERVICES: Final = sorted(FOLDER.glob("*.service"))
UNITS: Final = [*SERVICES, *sorted(FOLDER.glob("*.timer"))]
INSTALLED: Final = "/opt/copilot-usage/current/bin/"
MAX_EXPOSURE: Final = 15
"""In tenths: systemd calls up to 2.0 safe or OK."""
VIN: Final = "1XPWD40X1ED215307"

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop rights")


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """It knows each key and value; only the installed program is another one."""
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        installed = re.sub(rf"={INSTALLED}\w+", "=/bin/true", text)
        (tmp_path / unit.name).write_text(installed)
    paths = [str(tmp_path / unit.name) for unit in UNITS]
    command = ["systemd-analyze", "verify", "--man=no", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line] == []
    assert done.returncode == 0, done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_units_are_little_exposed(unit: Path) -> None:
    """By systemd's own measure."""
    options = ["security", "--offline=true", "--no-pager"]
    command = ["systemd-analyze", *options, f"--threshold={MAX_EXPOSURE}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_the_service_has_time_to_stop() -> None:
    """systemd waits longer than the service, and signals the main process only."""
    (limit,) = values_of(UNIT, "TimeoutStopSec")
    server = load(FOLDER / "copilot-usage.toml").settings.server

    assert seconds(limit) > server.shutdown_grace_s
    assert values_of(UNIT, "KillMode") == ["mixed"]


def test_units_use_the_same_files() -> None:
    """The settings store in the state folder; the backup reads the same settings."""
    (folder,) = values_of(UNIT, "StateDirectory")
    settings = load(FOLDER / "copilot-usage.toml").settings
    commands = [values_of(unit, "ExecStart")[0] for unit in SERVICES]

    assert settings.storage.url.startswith(f"sqlite+aiosqlite:////var/lib/{folder}/")
    for command in commands:
        assert re.search(rf"{INSTALLED}.* --config (\S+)", command)[1] == (  # type: ignore[index]
            "/etc/copilot-usage/copilot-usage.toml"
        )
    assert len({values_of(unit, "User")[0] for unit in SERVICES}) == 1


def test_a_reload_follows_the_link_to_the_version(tmp_path: Path) -> None:
    """It executes Python by the path of the unit, also after the link has changed."""
    (tmp_path / "current").symlink_to(sys.prefix)
    python = tmp_path / "current" / "bin" / "python"
    program = "from service.server import handover; print(handover.COMMAND[0])"
    done = subprocess.run(
        [python, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert values_of(UNIT, "ExecStart")[0].startswith(f"{INSTALLED}python -P -m ")
    assert done.stdout == f"{python}\n"


@needs_systemd
@needs_root
def test_the_backup_works_under_the_restrictions(
    tmp_path: Path, empty_file: Path
) -> None:
    """Its command, as systemd would read it, makes a copy with the time as its name."""
    command, _ = values_of(BACKUP, "ExecStart")
    config = tmp_path / "copilot-usage.toml"
    config.write_text(f'[storage]\nurl = "sqlite+aiosqlite:///{empty_file}"\n')
    for old, new in {
        f"{INSTALLED}copilot-usage": f"{sys.executable} -m service",
        "/etc/copilot-usage/copilot-usage.toml": str(config),
        "$$": "$",
        "%%": "%",
    }.items():
        assert old in command
        command = command.replace(old, new)
    backups = tmp_path / "backups"
    backups.mkdir()
    subprocess.run(
        [*SETPRIV, *CONFINED, str(BACKUP), *shlex.split(command)],
        cwd=backups,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )

    (copy,) = backups.iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}Z\.db", copy.name)
    assert copy.stat().st_size > 0


@needs_systemd
@needs_root
async def test_the_service_works_under_the_restrictions(tmp_path: Path) -> None:
    """Workers, the pricing process, events, an export and a reload need no more."""
    settings = {
        "events__enabled": True,
        "logging__slow_request_s": 0.0,
        "server__workers": 2,
        "storage__url": f"sqlite+aiosqlite:///{tmp_path}/state/events.db",
        "usage__own_process_bytes": 1,
    }
    confined = [*SETPRIV, *CONFINED, str(UNIT)]
    serve = [*SERVICE, "serve", "--port", "0", "--sandbox"]
    with started(tmp_path / "log", [*confined, *serve], settings) as service:
        await use(service)
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: len(service.events("service.started")) == 2)
        await use(service)
        service.process.send_signal(signal.SIGTERM)
        assert await exit_status(service.process) == 0

    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert [line for line in lines if line["level"] in {"warning", "error"}] == []
    assert os.stat(tmp_path / "state" / "events.db").st_mode & 0o077 == 0  # noqa: PTH116


async def use(service: Running) -> None:
    """Have a running service do all that it can do."""
    key = {"X-API-Key": SANDBOX_KEY}
    url = f"http://localhost:{service.port}"
    async with asyncio.timeout(120), aiohttp.ClientSession(url) as session:

        async def ask(method: str, path: str, **options: object) -> bytes:
            async with session.request(method, path, **options) as answer:  # type: ignore[arg-type]
                assert answer.ok, await answer.text()
                return await answer.read()

        await ask("GET", "/usage?sort=credits_used:desc&limit=5")
        await ask("POST", "/events", json=event(), headers=key)
        await ask("GET", "/events", headers=key)
        await ask("GET", f"/vehicles/lookup?vin={VIN}")
        assert (await ask("GET", "/vehicles/export")).startswith(b"PAR1")
        assert b"copilot_usage_" in await ask("GET", "/metrics")
