"""Run a command under the restrictions of a unit that need no systemd.

`python -m scripts.confined UNIT COMMAND…` takes all rights, and the same system
calls, kinds of sockets and executable memory away as the unit does. It uses libseccomp,
as systemd itself.
"""

import ctypes
import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
EQUAL: Final = 4
MASKED_EQUAL: Final = 7
FAMILIES: Final = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
MAX_FAMILY: Final = 46
WRITE: Final = 2
EXECUTE: Final = 4
SETPRIV: Final = "setpriv --no-new-privs --inh-caps=-all --bounding-set=-all".split()


class Comparison(ctypes.Structure):
    """libseccomp's comparison of one argument of a system call."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Filter:
    """A filter of system calls, with one action for all that no rule names."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(default))

    def add(self, action: int, call: str, *comparisons: Comparison) -> None:
        """Add a rule; a name that this machine does not know is left out."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number >= 0:
            made = (Comparison * len(comparisons))(*comparisons)
            added = self._library.seccomp_rule_add_array(
                self._context, ctypes.c_uint32(action), number, len(comparisons), made
            )
            if added:
                raise OSError(-added, call)

    def load(self) -> None:
        """Put the filter into force, for this process and all that it starts."""
        if error := self._library.seccomp_load(self._context):
            raise OSError(-error, "seccomp_load")


def values_of(unit: Path, key: str) -> list[str]:
    """Return the values of a key of a unit, in order."""
    text = unit.read_text(encoding="utf-8")
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def calls_of(group: str) -> set[str]:
    """Return the system calls of a group of systemd, or the call itself."""
    if not group.startswith("@"):
        return {group}
    command = ["systemd-analyze", "syscall-filter", group]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = (line.strip() for line in done.stdout.splitlines()[1:])
    names = [line for line in lines if line and not line.startswith("#")]
    return set[str]().union(*(calls_of(name) for name in names))


def allowed_calls(unit: Path) -> set[str]:
    """Return the system calls that `SystemCallFilter=` of a unit allows."""
    allowed = set[str]()
    for value in values_of(unit, "SystemCallFilter"):
        named = set[str]().union(*map(calls_of, value.removeprefix("~").split()))
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


def lower(wanted: int, permitted: int) -> int:
    """Return a limit that this process may set; only systemd may raise it."""
    return wanted if permitted == resource.RLIM_INFINITY else min(wanted, permitted)


def confine(unit: Path) -> None:
    """Restrict this process as the unit says; it needs `no_new_privs`."""
    calls = Filter(ERRNO | errno.EPERM)
    for call in sorted(allowed_calls(unit)):
        calls.add(ALLOW, call)
    details = Filter(ALLOW)
    (families,) = values_of(unit, "RestrictAddressFamilies")
    permitted = {FAMILIES[name] for name in families.split() if name != "none"}
    for family in {*range(MAX_FAMILY)} - permitted:
        compared = Comparison(0, EQUAL, family, 0)
        details.add(ERRNO | errno.EAFNOSUPPORT, "socket", compared)
    # MemoryDenyWriteExecute=yes
    both = Comparison(2, MASKED_EQUAL, WRITE | EXECUTE, WRITE | EXECUTE)
    details.add(ERRNO | errno.EPERM, "mmap", both)
    later = Comparison(2, MASKED_EQUAL, EXECUTE, EXECUTE)
    details.add(ERRNO | errno.EPERM, "mprotect", later)
    for files in map(int, values_of(unit, "LimitNOFILE")):
        limit = lower(files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.umask(int(*values_of(unit, "UMask"), 8))  # type: ignore[call-overload]
    details.load()
    calls.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the caller chooses it
