"""Source tree of another revision, with a Python that has what that revision needs.

Both are stored below `.cache/bench`: the tree by its commit, the environment by its
lock.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.load.processes import Tree

CACHE: Final = ".cache/bench"
LOCK: Final = "requirements-dev.lock"
BUILD_S: Final = 600.0
IS_COMPLETE: Final = ".set-up"


class NoTree(Exception):
    """The revision does not exist, or cannot be set up; the text says why."""


def tree_of(revision: str, own: Tree) -> Tree:
    """Return the tree of a revision of the repository that `own` is a checkout of.

    Raises `NoTree`.
    """
    name = f"{revision}^{{commit}}"
    found = _output(["git", "rev-parse", "--verify", "--end-of-options", name], own)
    commit = found.decode().strip()
    cache = own.root / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    root = cache / commit
    if not root.exists():
        _extract(_output(["git", "archive", commit], own), root)
    tree = Tree(root, _python_for(root, own, cache))
    _check_code_of(tree)
    return tree


def _extract(archive: bytes, root: Path) -> None:
    """Unpack an archive; the folder is there only when all of it is."""
    part = root.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(part, filter="data")
    part.rename(root)


def _python_for(root: Path, own: Tree, cache: Path) -> Path:
    """Return this checkout's Python if the locks are the same, else that of its own."""
    lock = root / LOCK
    if not lock.exists():
        raise NoTree(f"{root.name} has no {LOCK}")
    if lock.read_bytes() == (own.root / LOCK).read_bytes():
        return own.python
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    environment = cache / f"venv-{key}"
    if not (environment / IS_COMPLETE).exists():
        _install(environment, root)
    return environment / "bin/python"


def _install(environment: Path, root: Path) -> None:
    """Make a virtual environment of what the lock pins, and nothing else.

    The project is installed for its metadata; its code always comes from the tree.
    """
    print(f"Setting up {environment.name} from {root.name}/{LOCK} …", file=sys.stderr)
    tree = Tree(root, environment / "bin/python")
    install = [str(tree.python), "-m", "pip", "install", "--quiet", "--no-deps"]
    _output([sys.executable, "-m", "venv", "--clear", str(environment)], tree)
    _output([*install, "--require-hashes", "--requirement", LOCK], tree)
    _output([*install, "--no-build-isolation", "--editable", "."], tree)
    (environment / IS_COMPLETE).touch()


def _check_code_of(tree: Tree) -> None:
    """Check that this tree's code is what its Python imports."""
    program = "import service; print(service.__file__)"
    file = _output([str(tree.python), "-c", program], tree).decode().strip()
    if not Path(file).is_relative_to(tree.root):
        raise NoTree(f"not the revision's own code: {file}")


def _output(command: Sequence[str], tree: Tree) -> bytes:
    """Return what a command prints, run at the top of a tree."""
    try:
        return subprocess.run(  # noqa: S603 - our own commands
            command,
            check=True,
            capture_output=True,
            cwd=tree.root,
            env=tree.environment,
            timeout=BUILD_S,
        ).stdout
    except subprocess.CalledProcessError as error:
        raise NoTree(error.stderr.decode(errors="replace").strip()) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoTree(str(error)) from error
