"""The standard output of `make run`: the log of the service, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PYTHON_WITHOUT_VENV: Final = f"""#!/bin/sh
[ "$1 $2" != "-m venv" ] || exit 1
exec {sys.executable} "$@"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the scripts, and with what they read."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "requirements-dev.lock", tmp_path)
    return tmp_path


def test_the_set_up_reports_its_progress_as_an_error_output(checkout: Path) -> None:
    """A reader of the log, such as jq, gets no line that is not JSON."""
    python = checkout / "python"
    python.write_text(PYTHON_WITHOUT_VENV)
    python.chmod(0o755)
    ran = subprocess.run(  # noqa: S603
        [checkout / "scripts" / "setup-venv"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert "Setting up .venv" in ran.stderr
    assert ran.stdout == ""


def test_progress_of_the_page_is_shown_and_its_errors_are_kept(checkout: Path) -> None:
    """The page's progress is no part of the log either."""
    ran = subprocess.run(  # noqa: S603
        [
            checkout / "scripts" / "page-if-possible",
            *("sh", "-c", "echo Building; echo broken >&2; exit 1"),
        ],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stdout == ""
    progress, notice = ran.stderr.splitlines()
    assert progress == "Building"
    assert notice.startswith("copilot-usage: the dashboard cannot be built")
    assert (checkout / ".cache" / "page.log").read_text() == "broken\n"
