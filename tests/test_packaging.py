"""Archives with the page, and lock files."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from scripts import check_locks
from scripts.check_environment import (
    Package,
    find_problems,
    installed,
    requirements_of,
)
from scripts.dockerfile import read_stages

ROOT: Final = Path(__file__).parents[1]
BUILD_TIMEOUT_S: Final = 120
PYTHON_LOCKS: Final = sorted(ROOT.glob("requirements*.lock"))
NPM_LOCK: Final = ROOT / "dashboard" / "package-lock.json"
PROJECT_FILES: Final = (".gitignore", "pyproject.toml", "README.md", "LICENSE")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The load tools are installed in another environment, so only check_locks.py can know
# what they require.
LOCK_ROOTS: Final = {
    name: roots
    for name, roots in check_locks.ROOTS.items()
    if name != "requirements-load.lock"
}
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS: Final = {
    "linux": ("posix", "Linux", "x86_64"),
    "darwin": ("posix", "Darwin", "arm64"),
}
PAGE_FILES: Final = ("index.html", "assets/a-1.js", "assets/a-1.js.br")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and a source archive of the project, with a page as if just built."""
    project = tmp_path_factory.mktemp("packaging") / "project"
    for name in ("config", "service"):
        ignored = shutil.ignore_patterns("static", "__pycache__")
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    for name in PROJECT_FILES:
        shutil.copy(ROOT / name, project)
    made = [f"service/web/static/dashboard/{name}" for name in PAGE_FILES]
    for name in (*made, "dashboard/src/main.tsx", "dashboard/node_modules/a/a.js"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("made")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build"],
        cwd=project,
        check=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
    )
    return project / "dist"


def test_the_wheel_has_the_built_page(archives: Path) -> None:
    """Though it is not under version control; sources of the page are not in it."""
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())

    assert {f"service/web/static/dashboard/{name}" for name in PAGE_FILES} <= names
    assert "service/web/dashboard_missing.html" in names
    assert {f"service/web/docs.{suffix}" for suffix in ("css", "html", "js")} <= names
    assert not [name for name in names if name.startswith("dashboard")]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_has_the_page_and_its_source(archives: Path) -> None:
    """A wheel can be made from it without Node.js, and the page anew with it."""
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        paths = [PurePosixPath(each) for each in opened.getnames()]
    names = {str(path.relative_to(path.parts[0])) for path in paths}

    assert {f"service/web/static/dashboard/{name}" for name in PAGE_FILES} <= names
    assert {"dashboard/src/main.tsx", "config/default.toml", "README.md"} <= names
    assert "LICENSE" in names
    assert not [name for name in names if "node_modules" in name]


def test_every_package_of_the_dashboard_has_its_reason() -> None:
    """Every dependency has a reason on the page, and no other package has."""
    package = json.loads(NPM_LOCK.with_name("package.json").read_bytes())
    wanted = {*package["dependencies"], *package["devDependencies"]}
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    _, _, told = text.partition("## The dashboard, in the browser")
    rows = re.findall(r"^\| (.+?) \|", told, re.MULTILINE)
    names = [name for row in rows for name in row.split(", ")]

    assert sorted(set(names) - {"package"}) == sorted(wanted)


def locked(text: str, environment: Mapping[str, str]) -> dict[NormalizedName, Package]:
    """The packages of a lock that one environment installs, with their requirements.

    Those are of the packages installed here; a package for other platforms has none.
    """
    here = installed()
    packages = {}
    for line in re.findall(r"^[a-z0-9].*?(?= \\$)", text, re.MULTILINE):
        pinned = Requirement(line)
        if pinned.marker is None or pinned.marker.evaluate(dict(environment)):
            name = canonicalize_name(pinned.name)
            version = Version(str(pinned.specifier).removeprefix("=="))
            known = here.get(name, Package(version, ()))
            assert known.version == version, name
            packages[name] = known
    return packages


def environment_of(python: str, platform: str) -> dict[str, str]:
    """The values of markers on another Python and platform."""
    values = {key: str(value) for key, value in default_environment().items()}
    os_name, system, machine = PLATFORMS[platform]
    return values | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": platform,
        "os_name": os_name,
        "platform_system": system,
        "platform_machine": machine,
    }


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCK_ROOTS)
def test_a_lock_is_complete(name: str, python: str, platform: str) -> None:
    """It has all that its packages and their extras require, on every platform."""
    environment = environment_of(python, platform)
    packages = locked((ROOT / name).read_text(encoding="utf-8"), environment)

    assert find_problems(packages, requirements_of(LOCK_ROOTS[name]), environment) == []


@pytest.mark.parametrize("package", ["hiredis", "greenlet", "aiohttp"])
def test_an_incomplete_lock_is_found(package: str) -> None:
    """Without a package that is required by an extra or by itself, a lock fails."""
    environment = environment_of("3.13", "linux")
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    packages = locked(text, environment)
    del packages[canonicalize_name(package)]

    problems = find_problems(packages, requirements_of(["project"]), environment)
    assert any(f"requires {package}" in each for each in problems)


def test_the_image_can_use_a_queue() -> None:
    """Its lock has the extra `nats`, though the project does not require it."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")

    assert "nats-py" in locked(text, environment_of("3.13", "linux"))


def test_the_image_is_built_with_what_ci_uses() -> None:
    """CI builds the dashboard with the Node.js of the Dockerfile."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_bytes())
    steps = workflow["jobs"]["ci"]["steps"]
    given = [each.get("with", {}) for each in steps]
    (node,) = [each["node-version"] for each in given if "node-version" in each]
    (stage, *_) = read_stages((ROOT / "Dockerfile").read_text())

    assert stage.base.startswith(f"node:{node}-")


@pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda path: path.name)
def test_python_locks_name_no_host(lock: Path) -> None:
    """Each package is a version with hashes; no index is named."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if re.match(r"[a-z0-9]", line)]

    assert pinned
    assert not [line for line in pinned if not re.match(r"[\w.-]+(\[[^]]*\])?==", line)]
    assert not [line for line in lines if "://" in line or line.startswith("-")]


def test_the_npm_lock_names_no_host() -> None:
    """Each package is a version with a hash, and no URL."""
    packages = json.loads(NPM_LOCK.read_bytes())["packages"]
    del packages[""]  # the dashboard itself

    assert packages
    for name, package in packages.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+[\w.+-]*", package["version"]), name
        assert package["integrity"].startswith("sha512-"), name
        assert not package.keys() & {"resolved", "link"}, name
