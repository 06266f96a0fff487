"""Ports for servers that tests restart, and for those that do not exist."""

import os
import random
import socket
from collections.abc import Iterator
from itertools import cycle
from typing import Final

PORTS: Final = range(12_000, 32_768)
"""Below those that Linux gives to outgoing connections.

One of these can be taken between the choice of the port and the start of its server, or
while the server is restarted.
"""


def free_port() -> int:
    """Return a port on which nobody listens, and that no other call returns soon."""
    return next(each for each in _candidates if _is_free(each))


def _own_ports() -> Iterator[int]:
    """Repeat the ports of this process of pytest, beginning with any of them."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = PORTS[worker::workers]
    # Another run of the tests may have the same ports.
    begin = random.randrange(len(own))
    return cycle([*own[begin:], *own[:begin]])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_candidates: Final = _own_ports()
