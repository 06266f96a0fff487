"""What this process has open, and which processes are its children, by /proc."""

import os
import select
from pathlib import Path

from tests.patience import GIVE_UP_S

KEPT = ("resource_tracker", "playwright")
"""What is started once and kept: multiprocessing's helper, the browser's driver."""


def open_files() -> list[str]:
    """What each file descriptor of this process leads to, by kind, sorted."""
    kinds = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            kinds.append(str(link.readlink()).split(":")[0])
        except FileNotFoundError:  # the descriptor that listed them
            continue
    return sorted(kinds)


def child_pids() -> set[int]:
    """The children of this process, zombies too."""
    children = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent = int(stat.rpartition(")")[2].split()[1])
        is_kept = any(each in command for each in KEPT)
        if parent == os.getpid() and not is_kept:
            children.add(int(entry.name))
    return children


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended; it need not be a child of ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([handle], [], [], GIVE_UP_S)
        assert ended, f"process {pid} is still there"
    finally:
        os.close(handle)
