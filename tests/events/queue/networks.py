"""Addresses for servers of a test: each in a network namespace, where that is possible.

A namespace is connected to a bridge by a pair of virtual interfaces. When the outer one
is down, all packets of the server are dropped in silence, as in a partition.
"""

import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from tests.leftovers import processes
from tests.ports import free_port

CLIENT_PORT: Final = 4222
ROUTE_PORT: Final = 6222
MONITOR_PORT: Final = 8222
SPACE: Final = re.compile(r"cu([0-9a-f]+)x[0-9a-f]{3}n\d")
LINK: Final = re.compile(r"cu([0-9a-f]+)x[0-9a-f]{3}(?:v\d)?")
MOUNT: Final = "copilot-usage-test-"


class Place(NamedTuple):
    """Where a server runs: how it is started, and its addresses."""

    command: tuple[str, ...]
    host: str
    port: int
    route_port: int
    monitor_port: int


class Network(Protocol):
    """Places of servers, each of which can be cut off."""

    def place(self, number: int) -> Place:
        """Return the place of a server, from 1."""
        ...

    def cut_off(self, number: int, process: int) -> None:
        """Let no packet reach a server, or leave it."""
        ...

    def connect(self, number: int, process: int) -> None:
        """End that."""
        ...


class Namespaces:
    """Network namespaces behind a bridge, which has the first address."""

    def __init__(self, servers: int) -> None:
        chance = random.SystemRandom()
        # At most 13 characters, of the 15 that a name may have.
        self._name = f"cu{os.getpid():x}x{chance.randrange(0xFFF):03x}"
        self._net = f"10.{chance.randint(200, 250)}.{chance.randint(1, 250)}"
        self._numbers = range(1, servers + 1)

    def open(self) -> None:
        """Make the bridge and the namespaces."""
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self._net}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for number in self._numbers:
            space, outer, inner = self._space(number), self._outer(number), "eth0"
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", inner, "netns", space)
            _ip("link", "set", outer, "master", self._name)
            address = f"{self._net}.{number}/24"
            _ip("-n", space, "addr", "add", address, "dev", inner)
            _ip("-n", space, "link", "set", inner, "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("link", "set", outer, "up")

    def close(self) -> None:
        """Remove them."""
        for number in self._numbers:
            _ip("netns", "del", self._space(number), check=False)
            _ip("link", "del", self._outer(number), check=False)
        _ip("link", "del", self._name, check=False)

    def place(self, number: int) -> Place:
        """Return the place of a server, from 1."""
        command = ("ip", "netns", "exec", self._space(number))
        host = f"{self._net}.{number}"
        return Place(command, host, CLIENT_PORT, ROUTE_PORT, MONITOR_PORT)

    def cut_off(self, number: int, process: int) -> None:
        """Let no packet reach a server, or leave it."""
        del process
        _ip("link", "set", self._outer(number), "down")

    def connect(self, number: int, process: int) -> None:
        """End that."""
        del process
        _ip("link", "set", self._outer(number), "up")

    def _space(self, number: int) -> str:
        return f"{self._name}n{number}"

    def _outer(self, number: int) -> str:
        return f"{self._name}v{number}"


class Loopback:
    """Ports of this machine; a server that is cut off does not run meanwhile."""

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}

    def place(self, number: int) -> Place:
        """Return the place of a server, from 1."""
        ports = free_port(), free_port(), free_port()
        made = Place((), "127.0.0.1", *ports)
        return self._places.setdefault(number, made)

    def cut_off(self, number: int, process: int) -> None:
        """Stop a server's process, which then answers nobody."""
        os.kill(process, signal.SIGSTOP)

    def connect(self, number: int, process: int) -> None:
        """Let it continue."""
        if process in {each.pid for each in processes()}:
            os.kill(process, signal.SIGCONT)


@contextmanager
def network_of(servers: int) -> Iterator[Network]:
    """Open places for servers: in namespaces, or else on the loopback interface."""
    if not can_isolate():
        yield Loopback()
        return
    remove_leftovers()
    spaces = Namespaces(servers)
    try:
        spaces.open()
        yield spaces
    finally:
        spaces.close()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a small file system on a folder, if that is possible."""
    folder.mkdir(parents=True, exist_ok=True)
    if not can_isolate():
        yield False
        return
    size = f"size={megabytes}m"
    source = f"{MOUNT}{os.getpid():x}"
    _run("mount", "-t", "tmpfs", "-o", size, source, str(folder))
    try:
        yield True
    finally:
        # A process that has just been killed may still have a file open.
        _run("umount", "--lazy", str(folder))


def remove_leftovers() -> None:
    """Remove what runs have left that were killed: their names have their process."""
    for name in _names("/run/netns"):
        if _is_left(SPACE.fullmatch(name)):
            _ip("netns", "del", name, check=False)
    for name in _names("/sys/class/net"):
        if _is_left(LINK.fullmatch(name)):
            _ip("link", "del", name, check=False)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, folder, *_ = line.split()
        if _is_left(re.fullmatch(rf"{MOUNT}([0-9a-f]+)", source)):
            _run("umount", "--lazy", folder, check=False)


def _names(folder: str) -> list[str]:
    found = Path(folder)
    return [each.name for each in found.iterdir()] if found.is_dir() else []


def _is_left(found: re.Match[str] | None) -> bool:
    """Return whether a name has a process that has ended."""
    return found is not None and not Path(f"/proc/{int(found[1], 16)}").exists()


@cache
def can_isolate() -> bool:
    """Return whether this process may make namespaces and mounts."""
    if os.geteuid() != 0:
        return False
    name = f"cuprobe{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("link", "add", name[:15], "type", "bridge")
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        if Path("/usr/sbin/ip").exists() or Path("/sbin/ip").exists():
            _ip("link", "del", name[:15], check=False)
            _ip("netns", "del", name, check=False)
    return True


def _ip(*arguments: str, check: bool = True) -> None:
    _run("ip", *arguments, check=check)


def _run(*command: str, check: bool = True) -> None:
    subprocess.run(  # noqa: S603
        command, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
