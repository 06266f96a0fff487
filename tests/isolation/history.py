"""The history of the project, from which the former version is taken."""

import subprocess
from functools import cache
from typing import Final

from tests.running import ROOT

FIRST_CHANGE: Final = "service/storage/migrations/versions/0003_event_changes.py"
"""The first file of the present schema; the version before it is the former one."""


@cache
def former_revision() -> str | None:
    """Return the commit before the present schema; None in an archive of the code."""
    log = ["git", "log", "--diff-filter=A", "--format=%H^", "-n1", "--", FIRST_CHANGE]
    try:
        added = subprocess.run(  # noqa: S603 - our own command
            log, check=True, cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        subprocess.run(  # noqa: S603
            ["git", "rev-parse", "--verify", added],  # noqa: S607
            check=True,
            cwd=ROOT,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return added
