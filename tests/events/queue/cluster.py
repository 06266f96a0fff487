"""A cluster of `nats-server` processes with JetStream, of which a test breaks any part.

Each server has its own folder, and its own network namespace where that is possible.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import nats
import nats.errors
import nats.js.errors
from aiohttp import ClientError, ClientSession
from nats.js.api import StreamInfo

from tests.events.queue.networks import Network, Place, network_of, small_disk
from tests.nats_servers import PROGRAM
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S

SERVERS: Final = 3
DISK_MB: Final = 512
CHUNK: Final = bytes(1024 * 1024)
REQUEST_S: Final = 1.0
FAILURES: Final = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)

CONFIGURATION: Final = """
server_name: node{number}
listen: "{place.host}:{place.port}"
http: "{place.host}:{place.monitor_port}"
max_payload: 8MB
# A peer or client that is cut off is noticed soon.
ping_interval: "1s"
ping_max: 2
write_deadline: "2s"
jetstream {{ store_dir: "{store}", max_file_store: 400MB, max_memory_store: 64MB }}
cluster {{
  name: test
  listen: "{place.host}:{place.route_port}"
  routes: [{routes}]
}}
"""


class Node:
    """One server, which can be killed, cut off, and left without space."""

    def __init__(
        self, number: int, network: Network, folder: Path, program: str
    ) -> None:
        self.number = number
        self.place = network.place(number)
        self.name = f"node{number}"
        self.url = f"nats://{self.place.host}:{self.place.port}"
        self.log = folder / f"{self.name}.log"
        self.store = folder / self.name
        self.has_small_disk = False
        self._configuration = folder / f"{self.name}.conf"
        self._network = network
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, places: Sequence[Place]) -> None:
        """Write the configuration, with the routes to all servers."""
        routes = ", ".join(f'"nats://{each.host}:{each.route_port}"' for each in places)
        self._configuration.write_text(
            CONFIGURATION.format(
                number=self.number, place=self.place, store=self.store, routes=routes
            )
        )

    @property
    def is_running(self) -> bool:
        """True until it is killed, or has ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process, unless it runs; it is ready some time later."""
        if self.is_running:
            # Another fault of the same round has been healed by a restart.
            return
        command = [*self.place.command, self._program, "-c", str(self._configuration)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(GIVE_UP_S)
            self._process = None

    def cut_off(self) -> None:
        """Let no packet reach it, or leave it."""
        assert self._process is not None
        self._network.cut_off(self.number, self._process.pid)

    def connect(self) -> None:
        """End that."""
        if self._process is not None:
            self._network.connect(self.number, self._process.pid)

    def fill_disk(self) -> None:
        """Leave no space on its disk, which must be small."""
        assert self.has_small_disk
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(CHUNK):
                pass

    def free_disk(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return self.store / "filler"


class NatsCluster:
    """Servers with JetStream that replicate streams."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """The addresses of all servers, as `events.queue_url` has them."""
        return ",".join(node.url for node in self.nodes)

    async def stream(self, name: str) -> StreamInfo | None:
        """Return what a living server knows of a stream; None without a leader."""
        for node in self.nodes:
            with suppress(*FAILURES):
                return await _stream_of(node, name)
        return None

    async def leader_of(self, name: str) -> Node:
        """Return the leader of a stream, when there is one."""
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                found = await self.stream(name)
                if found is not None and found.cluster and found.cluster.leader:
                    leader = found.cluster.leader
                    return next(each for each in self.nodes if each.name == leader)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def until_whole(self, name: str | None = None) -> None:
        """Wait until all servers answer, and all replicas of a stream are current."""
        async with asyncio.timeout(GIVE_UP_S):
            for node in self.nodes:
                while not await _is_ready(node):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_AGAIN_S)
            while name and not await self._is_replicated(name):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_AGAIN_S)

    async def until_equal(self, name: str) -> None:
        """Wait until all servers have the same last message of a stream.

        The leader may call a replica current that has missed messages just before.
        """
        async with asyncio.timeout(GIVE_UP_S), ClientSession() as session:
            while True:
                ends = [await _last_of(session, node, name) for node in self.nodes]
                if None not in ends and len(set(ends)) == 1:
                    return
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _is_replicated(self, name: str) -> bool:
        found = await self.stream(name)
        if found is None or found.cluster is None:
            return False
        replicas = found.cluster.replicas or []
        others = [each for each in replicas if each.current and not each.offline]
        return len(others) == len(self.nodes) - 1


@asynccontextmanager
async def nats_cluster(
    folder: Path, program: str = PROGRAM
) -> AsyncIterator[NatsCluster]:
    """Run a cluster; its last server has a small disk, where that is possible."""
    with ExitStack() as stack:
        network = stack.enter_context(network_of(SERVERS))
        nodes = [
            Node(number, network, folder, program) for number in range(1, SERVERS + 1)
        ]
        for node in nodes:
            node.configure([each.place for each in nodes])
        last = nodes[-1]
        last.has_small_disk = stack.enter_context(small_disk(last.store, DISK_MB))
        try:
            for node in nodes:
                node.start()
            cluster = NatsCluster(nodes)
            await cluster.until_whole()
            yield cluster
        finally:
            for node in nodes:
                node.kill()


async def _stream_of(node: Node, name: str) -> StreamInfo:
    async with _connected(node) as client:
        info: StreamInfo = await client.jetstream(timeout=REQUEST_S).stream_info(name)
        return info


async def _last_of(session: ClientSession, node: Node, name: str) -> int | None:
    """Return the place of the last message that a server has of a stream."""
    url = f"http://{node.place.host}:{node.place.monitor_port}/jsz?streams=true"
    try:
        async with session.get(url) as answer:
            found = await answer.json(content_type=None)
    except (ClientError, OSError):
        return None
    for account in found.get("account_details", ()):
        for stream in account.get("stream_detail", ()):
            if stream["name"] == name:
                return int(stream["state"]["last_seq"])
    return None


async def _is_ready(node: Node) -> bool:
    """Return whether a server has JetStream, and knows the leader of the cluster."""
    try:
        async with _connected(node) as client:
            await client.jetstream(timeout=REQUEST_S).account_info()
    except FAILURES:
        return False
    return True


@asynccontextmanager
async def _connected(node: Node) -> AsyncIterator[Any]:
    async def ignore(_error: Exception) -> None:
        pass

    client = await nats.connect(
        node.url,
        allow_reconnect=False,
        connect_timeout=int(REQUEST_S),
        error_cb=ignore,
    )
    try:
        yield client
    finally:
        await client.close()
