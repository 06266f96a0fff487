"""Environments made of metadata alone, complete and incomplete ones."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from scripts import check_environment
from scripts.check_environment import find_problems, installed

GIVE_UP_S: Final = 60
CACHE: Final = ('codec>=2; extra == "fast"', 'other; extra == "slow"')


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write the metadata of a package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


def problems(folder: Path, *roots: str, **environment: str) -> list[str]:
    """The problems of the packages in a folder."""
    markers = {"python_version": "3.11", "sys_platform": "linux"} | environment
    return find_problems(
        installed([str(folder)]), [Requirement(each) for each in roots], markers
    )


def test_a_complete_environment(tmp_path: Path) -> None:
    """Names are compared as they are normalized, and pre-releases count."""
    install(tmp_path, "Cache", "1.0", *CACHE)
    install(tmp_path, "codec", "2.1b1", "the.base")
    install(tmp_path, "the_base", "1")
    assert problems(tmp_path, "cache[fast]>=1", "absent; python_version < '3'") == []


@pytest.mark.parametrize(
    "version, said",
    [
        (None, "cache[fast] requires codec>=2, which is missing"),
        ("1.9", "cache[fast] requires codec>=2, and has 1.9"),
    ],
)
def test_an_extra_is_followed(version: str | None, said: str, tmp_path: Path) -> None:
    """The requirements of an extra have to be there, in the right version."""
    install(tmp_path, "cache", "1.0", *CACHE)
    if version is not None:
        install(tmp_path, "codec", version)
    assert problems(tmp_path, "cache[fast]") == [said]
    assert problems(tmp_path, "cache") == []


def test_an_extra_that_another_package_asks_for(tmp_path: Path) -> None:
    """Extras are followed from each installed package, and through other extras."""
    install(tmp_path, "cache", "1.0", 'cache[fast]; extra == "all"', *CACHE)
    install(tmp_path, "user", "1.0", "cache[all]")
    said = "cache[fast] requires codec>=2, which is missing"
    assert problems(tmp_path) == [said]


def test_markers_of_another_python(tmp_path: Path) -> None:
    """The markers are those of the environment that is asked about."""
    install(tmp_path, "user", "1.0", "newer; python_version >= '3.13'")
    assert problems(tmp_path) == []
    said = "user requires newer, which is missing"
    assert problems(tmp_path, python_version="3.13") == [said]


def test_the_command_fails_with_a_line_for_each_problem(tmp_path: Path) -> None:
    """An environment without anything lacks what the group requires."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, check_environment.__file__, "--path", tmp_path, "build"],
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "project requires hatchling>=1.27, which is missing\n"
