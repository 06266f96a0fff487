"""The programs and servers that benchmarks need, and those that this machine lacks."""

import os
import socket
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from benchmarks.load.processes import Missing, tool

POSTGRESQL: Final = os.environ.get(
    "BENCH_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test"
)
POSTGRESQL_PORT: Final = 5432
CONNECT_S: Final = 2.0
GATE: Final = "--against"
"""Stands for the comparison with a revision, among the names of benchmarks."""


class Need(NamedTuple):
    """A tool, the benchmarks that use it, and a check that raises `Missing`."""

    name: str
    used_by: frozenset[str]
    check: Callable[[], object]


def _program(name: str, package: str, *used_by: str) -> Need:
    return Need(name, frozenset(used_by), partial(tool, name, package))


def find_postgresql(url: str = POSTGRESQL) -> None:
    """Connect to the server of PostgreSQL; raise `Missing` if none listens."""
    parts = urlsplit(url)
    address = parts.hostname or "127.0.0.1", parts.port or POSTGRESQL_PORT
    try:
        socket.create_connection(address, CONNECT_S).close()
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        reason = f"PostgreSQL does not listen on {where}: set BENCH_POSTGRESQL"
        raise Missing(reason) from error


NEEDS: Final = (
    _program("wrk", "wrk", "overload", "throughput", "vehicles", GATE),
    _program("h2load", "nghttp2-client", "big_period", "overload", "periods"),
    _program("nginx", "nginx-light", "throughput"),
    _program("chromium", "chromium", "dashboard"),
    _program("nats-server", "nats-server", "queue"),
    _program("git", "git", GATE),
    Need("PostgreSQL", frozenset({"asking", "events", "export"}), find_postgresql),
)


def describe_needs(names: Collection[str], needs: Sequence[Need] = NEEDS) -> str:
    """Return one line: the tools of these benchmarks, and why some are missing.

    Empty if they need none. Nothing is installed.
    """
    needed = [each for each in needs if each.used_by & set(names)]
    if not needed:
        return ""
    reasons = list(filter(None, map(_why_missing, needed)))
    missing = f"missing: {'; '.join(reasons)}" if reasons else "none is missing"
    return f"tools: {', '.join(each.name for each in needed)}; {missing}"


def _why_missing(need: Need) -> str:
    try:
        need.check()
    except Missing as error:
        return str(error)
    return ""
