"""Names in the files of `deploy/`: settings, endpoints and files that exist."""

import re
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.engine import make_url

from service.settings import load
from tests.deploy.files import DEPLOY, PAGES, ROOT, SECTIONS, TEXTS, endpoints

VARIABLE: Final = re.compile(r"COPILOT_USAGE_(\w+)")
SETTING: Final = re.compile(rf"(?<![\w./-])({'|'.join(SECTIONS)})\.([a-z_]+)\b(?!\.)")
PATH: Final = re.compile(
    r"https?://[\w.\[\]-]+:8000(/[\w/.-]*)|path: (/[\w/]+)|location (/\w*)"
)
FILE: Final = re.compile(r"(?<![\w./-])((?:config|deploy|docs|scripts)/[\w./-]*\w)")
COMMENT: Final = re.compile(r"#.*$", re.MULTILINE)
MADE: Final = ("deploy/secrets", "deploy/kubernetes/overlays/production")
"""Folders that the operator makes."""

each_text = pytest.mark.parametrize(
    "file", [*TEXTS, *PAGES], ids=lambda file: str(file.relative_to(ROOT))
)


@pytest.mark.parametrize(
    "file", sorted(DEPLOY.rglob("*.toml")), ids=lambda file: str(file.relative_to(ROOT))
)
def test_settings_files_are_valid(file: Path) -> None:
    """The service accepts each TOML file."""
    load(file)


def test_the_example_environment_is_valid() -> None:
    """The service accepts each variable of the example, once it is no comment."""
    text = (DEPLOY / "systemd" / "environment.example").read_text(encoding="utf-8")
    pairs = re.findall(r"^#?(\w+)=(.*)$", text, re.MULTILINE)

    assert pairs
    load(environment=dict(pairs))


def test_the_page_about_backups_names_the_database_of_the_unit() -> None:
    """The copy that an operator restores replaces the file that the service opens."""
    settings = load(DEPLOY / "systemd" / "copilot-usage.toml").settings
    page = (ROOT / "docs" / "backup.md").read_text(encoding="utf-8")
    (named,) = re.findall("^DATABASE=(.+)$", page, re.MULTILINE)

    assert make_url(settings.storage.url).database == named


@each_text
def test_settings_exist(file: Path) -> None:
    """Each variable, and each dotted name of a section in a comment, is a setting."""
    text = file.read_text(encoding="utf-8")
    named = [tuple(each.lower().split("__")) for each in VARIABLE.findall(text)]
    prose = text if file in PAGES else "\n".join(COMMENT.findall(text))
    named += SETTING.findall(prose)

    unknown = [each for each in named if each[-1] not in SECTIONS.get(each[0], ())]
    assert unknown == []


@each_text
def test_endpoints_exist(file: Path) -> None:
    """Each path of the service, in probes, proxies and commands, is an endpoint."""
    text = file.read_text(encoding="utf-8")
    paths = (path for found in PATH.findall(text) for path in found if path)
    named = {path for path in paths if not path.startswith("/var/")}
    known = endpoints()

    below = {path: f"{path.rstrip('/')}/" for path in named}
    found = {
        path for path in named for each in known if f"{each}/".startswith(below[path])
    }
    assert named - found == set()


@each_text
def test_files_exist(file: Path) -> None:
    """Each file of the project that is named exists."""
    named = set(FILE.findall(file.read_text(encoding="utf-8")))

    missing = {name for name in named if not (ROOT / name).exists()}
    assert {name for name in missing if not name.startswith(MADE)} == set()
