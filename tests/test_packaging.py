"""What is installed and from where: archives hold the page, lock files name no host."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
BUILD_TIMEOUT_S: Final = 120
PYTHON_LOCKS: Final = sorted(ROOT.glob("requirements*.lock"))
NPM_LOCK: Final = ROOT / "dashboard" / "package-lock.json"
PROJECT_FILES: Final = (".gitignore", "pyproject.toml", "README.md", "LICENSE")
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
    assert {"service/web/dashboard_missing.html", "service/web/docs.css"} <= names
    assert not [name for name in names if name.startswith("dashboard")]


def test_the_source_archive_has_the_page_and_its_source(archives: Path) -> None:
    """A wheel can be made from it without Node.js, and the page anew with it."""
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        paths = [PurePosixPath(each) for each in opened.getnames()]
    names = {str(path.relative_to(path.parts[0])) for path in paths}

    assert {f"service/web/static/dashboard/{name}" for name in PAGE_FILES} <= names
    assert {"dashboard/src/main.tsx", "config/default.toml", "README.md"} <= names
    assert not [name for name in names if "node_modules" in name]


def test_every_package_of_the_dashboard_has_its_reason() -> None:
    """What is installed is told why, and nothing else is."""
    package = json.loads(NPM_LOCK.with_name("package.json").read_bytes())
    wanted = {*package["dependencies"], *package["devDependencies"]}
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    _, _, told = text.partition("## The dashboard, in the browser")
    rows = re.findall(r"^\| (.+?) \|", told, re.MULTILINE)
    names = [name for row in rows for name in row.split(", ")]

    assert sorted(set(names) - {"package"}) == sorted(wanted)


@pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda path: path.name)
def test_python_locks_name_no_host(lock: Path) -> None:
    """Each package is a version with hashes; where it comes from is the reader's."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if re.match(r"[a-z0-9]", line)]

    assert pinned
    assert not [line for line in pinned if not re.match(r"[\w.-]+(\[[^]]*\])?==", line)]
    assert not [line for line in lines if "://" in line or line.startswith("-")]


def test_the_npm_lock_names_no_host() -> None:
    """Each package is a version with a hash, and none says where it was found."""
    packages = json.loads(NPM_LOCK.read_bytes())["packages"]
    del packages[""]  # the dashboard itself

    assert packages
    for name, package in packages.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+[\w.+-]*", package["version"]), name
        assert package["integrity"].startswith("sha512-"), name
        assert not package.keys() & {"resolved", "link"}, name
