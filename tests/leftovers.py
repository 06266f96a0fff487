"""Open descriptors and children of this process, from /proc."""

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.patience import GIVE_UP_S

SHARED = ("resource_tracker", "playwright", "tests.launcher")
"""Processes that are started once, for all tests."""


def open_files() -> list[str]:
    """The kinds of the open file descriptors of this process, sorted."""
    kinds = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            kinds.append(str(link.readlink()).split(":")[0])
        except FileNotFoundError:  # the descriptor that listed them
            continue
    return sorted(kinds)


class Process(NamedTuple):
    """A process of this machine."""

    pid: int
    parent: int
    command: str


def processes() -> Iterator[Process]:
    """All processes of this machine, zombies too."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent = int(stat.rpartition(")")[2].split()[1])
        yield Process(int(entry.name), parent, command)


def child_pids() -> set[int]:
    """The children of this process, zombies too."""
    return {
        each.pid
        for each in processes()
        if each.parent == os.getpid()
        and not any(shared in each.command for shared in SHARED)
    }


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
