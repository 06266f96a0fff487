"""A cluster of nats-server processes on the loopback address, with file storage."""

import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.load.processes import CORES, Missing, pinned, running, tool
from benchmarks.upstreams import free_port

MEMBERS: Final = 3
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
READY_S: Final = 60.0
POLL_S: Final = 0.1
ANSWER_S: Final = 5.0


class MetaCluster(msgspec.Struct):
    """The members that keep the metadata of streams, as their leader knows them."""

    leader: str = ""
    replicas: list[dict[str, object]] = []
    """All members but the leader."""


class JetStreamState(msgspec.Struct):
    """Part of the page `/jsz?leader-only` of a member."""

    meta_cluster: MetaCluster = msgspec.field(default_factory=MetaCluster)


@contextmanager
def nats_cluster(
    folder: Path, members: int = MEMBERS, cores: Sequence[int] = tuple(CORES)
) -> Iterator[list[str]]:
    """Run a cluster until the context ends, and yield the URL of each member.

    Raises `Missing` if nats-server is not installed, or the cluster elects no leader.
    """
    program = tool("nats-server", "nats-server")
    ports = [free_port() for _ in range(members)]
    routes = [free_port() for _ in range(members)]
    monitors = [free_port() for _ in range(members)]
    listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    with ExitStack() as stack:
        for number in range(members):
            file = folder / f"nats-{number}.conf"
            file.write_text(
                f'server_name: "n{number}"\n'
                f"listen: 127.0.0.1:{ports[number]}\n"
                f"http: 127.0.0.1:{monitors[number]}\n"
                f"max_payload: {MAX_PAYLOAD_BYTES}\n"
                f'jetstream {{ store_dir: "{folder}/data-{number}" }}\n'
                f"cluster {{ name: bench, listen: 127.0.0.1:{routes[number]}, "
                f"routes: [{listed}] }}\n"
            )
            command = pinned(cores, [program, "-c", str(file)])
            answers_at = f"http://127.0.0.1:{monitors[number]}/varz"
            stack.enter_context(running(command, answers_at))
        _await_leader(monitors)
        yield [f"nats://127.0.0.1:{port}" for port in ports]


def _await_leader(monitor_ports: Sequence[int]) -> None:
    """Wait until a leader knows all other members; raises `Missing`."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        states = map(_state, monitor_ports)
        if any(len(each.replicas) == len(monitor_ports) - 1 for each in states):
            return
        time.sleep(POLL_S)
    raise Missing(f"the cluster of NATS is not complete after {READY_S:g} s")


def _state(monitor_port: int) -> MetaCluster:
    url = f"http://127.0.0.1:{monitor_port}/jsz"
    with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
        return msgspec.json.decode(answer.read(), type=JetStreamState).meta_cluster
