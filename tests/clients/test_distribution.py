"""The archives of the distribution, built and installed without anything else."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import copilot_usage_client
from tests.clients.answering import Server
from tests.patience import GIVE_UP_S
from tests.running import ROOT

CLIENT = ROOT / "clients" / "python"
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command, and return its output."""
    done = subprocess.run(  # noqa: S603
        command, cwd=cwd, capture_output=True, check=False, text=True, timeout=GIVE_UP_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
        *("--no-build-isolation", "--wheel-dir", folder, CLIENT),
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_the_package_alone(wheel: Path) -> None:
    """It has all modules with their types and the license, and requires nothing."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        requirements = [
            line.partition(": ")[2]
            for line in opened.read(metadata).decode().splitlines()
            if line.startswith("Requires-Dist")
        ]

    modules = {path.name for path in CLIENT.glob("src/copilot_usage_client/*.*")}
    prefix = "copilot_usage_client/"
    assert {name for name in names if ".dist-info/" not in name} == {
        prefix + name for name in modules
    }
    assert prefix + "py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert all("extra == 'aiohttp'" in each for each in requirements)


def test_the_source_archive_has_the_source(tmp_path: Path) -> None:
    """A wheel can be built from it."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path,
        cwd=CLIENT)  # fmt: skip
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}

    wanted = {"pyproject.toml", "README.md", "LICENSE"}
    assert wanted | {"src/copilot_usage_client/client.py"} <= names


def test_it_works_in_an_empty_environment(
    wheel: Path, tmp_path: Path, server: Server
) -> None:
    """Without the service and any other package it sends events; only asyncio lacks."""
    venv, python = tmp_path / "venv", tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    (packages,) = venv.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(packages)  # noqa: S202 - our own
    program = """
import sys
from importlib.metadata import version
import copilot_usage_client
with copilot_usage_client.Client(sys.argv[1], "key", spool_dir=sys.argv[2]) as client:
    client.track("a", "b", {"x": 1}, session_id="s")
assert "service" not in sys.modules
try:
    copilot_usage_client.AsyncClient
except ModuleNotFoundError as error:
    print(version("copilot-usage-client"), error.name)
"""
    said = run(
        python, "-I", "-W", "error", "-c", program, server.url, tmp_path / "spool"
    )

    assert said.split() == [PROJECT["version"], "aiohttp"]
    assert len(server.accepted) == 1


def test_an_unknown_name_is_an_error() -> None:
    """Only `AsyncClient` is imported late."""
    with pytest.raises(AttributeError):
        copilot_usage_client.Unknown  # noqa: B018
