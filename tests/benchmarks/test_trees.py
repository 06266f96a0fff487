"""Tree of another revision: its own code, and what its own lock pins."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from benchmarks.__main__ import main
from benchmarks.gate.trees import CACHE, LOCK, NoTree, tree_of
from benchmarks.load.processes import Tree

PROJECT: Final = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND: Final = """
import zipfile

FILES = {
    "METADATA": ["Metadata-Version: 2.1", "Name: tiny", "Version: 1"],
    "WHEEL": ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any"],
    "RECORD": [],
}

def build_editable(folder, *_):
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        for file, lines in FILES.items():
            wheel.writestr(f"tiny-1.dist-info/{file}", chr(10).join(lines))
    return name
"""
"""Of a project without dependencies: it can be installed without a network."""


def git(root: Path, *arguments: str) -> str:
    """Run git on a repository, without the settings of the machine."""
    who = ("-c", "user.name=a", "-c", "user.email=a@a.test")
    command = ["git", *who, *arguments]
    return subprocess.run(  # noqa: S603
        command, cwd=root, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def own(tmp_path: Path) -> Tree:
    """A checkout with one commit, whose code has changed since then."""
    root = tmp_path / "a checkout"
    (root / "service").mkdir(parents=True)
    code = root / "service/__init__.py"
    code.write_text("AGE = 'old'\n")
    (root / LOCK).touch()
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "backend.py").write_text(BACKEND)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    code.write_text("AGE = 'new'\n")
    return Tree(root, Path(sys.executable))


def age_of(tree: Tree) -> str:
    """Name the age that the code of a tree has, in a process of its own."""
    command = [str(tree.python), "-c", "import service; print(service.AGE)"]
    return subprocess.run(  # noqa: S603
        command,
        cwd=tree.root,
        env=tree.environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_the_code_is_the_revisions(own: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of the revision imports the checkout's code, nor the reverse."""
    monkeypatch.setenv("PYTHONPATH", str(own.root))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")

    assert (age_of(own), age_of(tree_of("HEAD", own))) == ("new", "old")


def test_equal_locks_share_an_environment(own: Tree) -> None:
    """Nothing is installed where the revision pins what is installed already."""
    assert tree_of("HEAD", own).python == own.python
    assert not list((own.root / CACHE).glob("venv-*"))


def test_another_lock_has_an_environment_of_its_own(own: Tree) -> None:
    """It is made from the revision's lock once, and used again."""
    (own.root / LOCK).write_text("# more\n")

    tree = tree_of("HEAD", own)
    tree.python.with_name("mark").touch()
    again = tree_of("HEAD", own)

    assert tree == again
    assert tree.python.is_relative_to(own.root / CACHE)
    assert tree.python.with_name("mark").exists()
    assert age_of(tree) == "old"


def test_the_checkout_stays_clean(own: Tree) -> None:
    """Git does not see what was built beside the checkout."""
    before = git(own.root, "status", "--porcelain")
    tree_of("HEAD", own)

    assert git(own.root, "status", "--porcelain") == before


@pytest.mark.parametrize("revision", ["nothing", "--help", "HEAD:service"])
def test_an_unknown_revision(own: Tree, revision: str) -> None:
    """A name of no commit is an error, and nothing is built."""
    with pytest.raises(NoTree):
        tree_of(revision, own)


def test_a_revision_without_a_lock(own: Tree) -> None:
    """A revision that cannot be installed exactly is not measured."""
    git(own.root, "rm", "--quiet", LOCK)
    git(own.root, "commit", "--quiet", "--message", "without")
    (own.root / LOCK).touch()

    with pytest.raises(NoTree, match=f"has no {LOCK}"):
        tree_of("HEAD", own)


def test_an_unknown_revision_is_exit_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command says which revision it was."""
    assert main(["--against", "no-such-revision"]) == 2
    assert "\nbench: no-such-revision: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["codecs"], ["--against", "HEAD", "codec"]])
def test_an_unknown_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark that does not exist is refused with those that do."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)

    assert raised.value.code == 2
    assert "no such benchmark: codec" in capsys.readouterr().err
