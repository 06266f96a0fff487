"""Install every lock with an old and a new pip, and check that nothing is missing.

pip before 23.3 resolves what it installs by hash, and later ones read more metadata, so
a lock has to be complete for both, which install at the same time. Each installation
has a fresh environment and ends with `pip check` and check_environment.py. After a
failure the status is 1.
"""

import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PIPS: Final = ("23.0.1" if sys.version_info < (3, 12) else "23.2.1", "26.3")
"""The oldest pip that a supported Python ships, and a current one."""
ROOTS: Final = {
    "requirements.lock": ("project",),
    "requirements-dev.lock": ("project", "dev"),
    "requirements-build.lock": ("build",),
    "requirements-load.lock": ("load",),
}
CHECKED_BY_SET_UP: Final = "requirements-ray.lock"
"""scripts/setup-ray checks it in the same way; twice more would take minutes."""
STEP_TIMEOUT_S: Final = 600


class IncompleteLockError(Exception):
    """A lock cannot be installed, or lacks what its packages require."""


def run(*command: str | Path) -> None:
    """Run a command to its end; raises `IncompleteLockError` with its output."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        timeout=STEP_TIMEOUT_S,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise IncompleteLockError(f"{' '.join(map(str, command))}\n{done.stdout}")


def install_pip(version: str, folder: Path) -> tuple[str | Path, ...]:
    """Install a version of pip by itself, and return the command that runs it."""
    pip = (sys.executable, "-m", "pip")
    python = new_environment(folder)
    run(*pip, "--python", python, "install", "--quiet", f"pip=={version}")
    return (python, "-m", "pip")


def new_environment(folder: Path) -> Path:
    """Make an empty environment and return its Python."""
    venv.create(folder, clear=True)
    return folder / "bin" / "python"


def check_lock(pip: tuple[str | Path, ...], lock: Path, folder: Path) -> None:
    """Install a lock into a fresh environment; raises `IncompleteLockError`."""
    pip = (*pip, "--disable-pip-version-check", "--python", new_environment(folder))
    options = ("--quiet", "--no-deps", "--require-hashes", "--no-compile")
    run(*pip, "install", *options, "--requirement", lock)
    run(*pip, "check")
    (site_packages,) = folder.glob("lib/python*/site-packages")
    checker = ROOT / "scripts" / "check_environment.py"
    run(sys.executable, checker, "--path", site_packages, *ROOTS[lock.name])


def check_locks(locks: Sequence[Path], version: str) -> None:
    """Install all locks with a version of pip; raises `IncompleteLockError`."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = install_pip(version, Path(scratch, "pip"))
        for lock in locks:
            check_lock(pip, lock, Path(scratch, "environment"))


def main() -> None:
    """Check all locks with all versions of pip, and say in one line how it went."""
    began_s = time.monotonic()
    locks = sorted({*ROOT.glob("requirements*.lock")} - {ROOT / CHECKED_BY_SET_UP})
    try:
        with ThreadPoolExecutor(len(PIPS)) as pool:
            list(pool.map(partial(check_locks, locks), PIPS))
    except (IncompleteLockError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"Locks: {error}")
    took_s = time.monotonic() - began_s
    pips = " and ".join(PIPS)
    sys.stdout.write(f"Locks: all are complete with pip {pips} ({took_s:.0f} s)\n")


if __name__ == "__main__":
    main()
