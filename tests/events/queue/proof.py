"""Rounds of failures of everything that events go through, while clients send.

Each round has some faults at random, then all is healed, and what was acknowledged must
be stored: once, and in the order of arrival. A run with the same seed has the same
faults in the same order.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from service.keys.store import add_key
from service.settings import StorageSettings
from service.storage.database import migrate, open_database
from tests.conftest import storage_at
from tests.events.conftest import OWN_EVENTS
from tests.events.faults.cluster import Cluster
from tests.events.queue.cluster import NatsCluster, Node, nats_cluster
from tests.events.queue.senders import Application, Senders, check_stored, sending
from tests.launcher import Launcher, Service
from tests.nats_servers import CURRENT
from tests.running import until_ready

SERVER: Final = os.environ.get("NATS_SERVER", CURRENT)
"""A current server: version 2.9 can lose what it has acknowledged."""
COLLECTORS: Final = 4
WRITERS: Final = 2
CLIENTS: Final = 20
APPLICATIONS: Final = ("shop", "desk", "till", "yard")
STREAM: Final = "copilot_usage_events"
MAX_FAULTS: Final = 3
MAX_PAUSE_S: Final = 2.0
MAX_LENGTH_S: Final = 4.0
"""Time from the last fault of a round to its healing."""
ANSWERS: Final = 3
"""Requests of each client that must be acknowledged after everything is healed."""


class WriterService(Service):
    """A process that only stores what the stream has."""

    command = "writer"


class Site:
    """Everything that events go through, and how each part fails and heals."""

    def __init__(
        self,
        nats: NatsCluster,
        database: Cluster,
        collectors: Sequence[Service],
        writers: Sequence[Service],
    ) -> None:
        self.nats = nats
        self.collectors = collectors
        self.writers = writers
        self._database = database
        self._healing: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        """Start all processes of the service."""
        for each in (*self.collectors, *self.writers):
            each.start()
        await self.until_up()

    async def until_up(self) -> None:
        """Wait until every process is ready, and the stream has all replicas."""
        await self.nats.until_whole(STREAM)
        for each in (*self.collectors, *self.writers):
            await each.until_up()
            await until_ready(each.port)

    async def break_(self, fault: str, chance: random.Random) -> str:
        """Let something fail until it is healed; return what."""
        return await FAULTS[fault](self, chance)

    async def heal(self, chance: random.Random) -> None:
        """Heal everything, in a random order."""
        chance.shuffle(self._healing)
        # What starts without the database ends, and a supervisor would start it again.
        self._healing.sort(key=lambda heal: heal != self._database.start)
        for heal in self._healing:
            await heal()
        self._healing.clear()
        await self.until_up()

    async def kill_leader(self, chance: random.Random) -> str:
        """Kill the leader of the stream."""
        node = await self._leader(chance)
        node.kill()
        self._heal_by(node.start)
        return node.name

    async def cut_off(self, chance: random.Random) -> str:
        """Cut one server off from the others and from everyone else."""
        node = chance.choice(self.nats.nodes)
        if not node.is_running:
            return f"{node.name}, which does not run"
        node.cut_off()
        self._heal_by(node.connect)
        return node.name

    async def fill_disk(self, chance: random.Random) -> str:
        """Leave no space on a server's disk; it restarts when it has space again."""
        del chance
        node = self.nats.nodes[-1]
        if not node.has_small_disk:
            return "none is small"
        node.fill_disk()

        def heal() -> None:
            node.free_disk()
            node.kill()
            node.start()

        self._heal_by(heal)
        return node.name

    async def kill_writer(self, chance: random.Random) -> str:
        """Kill a writer."""
        return self._kill_one("writer", self.writers, chance)

    async def kill_collector(self, chance: random.Random) -> str:
        """Kill a collector."""
        return self._kill_one("collector", self.collectors, chance)

    async def kill_database(self, chance: random.Random) -> str:
        """Kill PostgreSQL."""
        del chance
        self._database.kill()
        self._healing.append(self._database.start)
        return "PostgreSQL"

    async def _leader(self, chance: random.Random) -> Node:
        """Return the leader; a running server if there is none."""
        found = await self.nats.stream(STREAM)
        leader = found.cluster.leader if found and found.cluster else None
        running = [each for each in self.nats.nodes if each.is_running]
        named = [each for each in running if each.name == leader]
        # The same number of draws, whoever leads.
        any_one = chance.choice(self.nats.nodes)
        return (named or [any_one])[0]

    def _kill_one(
        self, kind: str, services: Sequence[Service], chance: random.Random
    ) -> str:
        number = chance.randrange(len(services))
        service = services[number]
        if service.process_id is None:
            return f"{kind} {number}, which does not run"
        service.kill()
        self._heal_by(service.start)
        return f"{kind} {number}"

    def _heal_by(self, heal: Callable[[], object]) -> None:
        async def work() -> None:
            heal()

        self._healing.append(work)


Fault = Callable[[Site, random.Random], Awaitable[str]]
FAULTS: Final[dict[str, Fault]] = {
    "kill of the leader": Site.kill_leader,
    "kill of a writer": Site.kill_writer,
    "kill of a collector": Site.kill_collector,
    "kill of the database": Site.kill_database,
    "partition": Site.cut_off,
    "full disk": Site.fill_disk,
}


async def run_rounds(
    site: Site, applications: Sequence[Application], rounds: int, seed: int
) -> set[str]:
    """Have so many rounds; fail if an acknowledged event is lost, doubled or late.

    Returns the kinds of faults that have happened.
    """
    happened: set[str] = set()
    chance = random.Random(seed)
    deck = faults_of(chance)
    ports = [each.port for each in site.collectors]
    async with sending(applications, ports, CLIENTS) as senders:
        for number in range(1, rounds + 1):
            started = time.monotonic()
            senders.resume()
            await senders.until_answered(1)
            _say(f"  round {number} of {rounds}, seed {seed}:")
            happened |= await _fail(site, chance, deck)
            await site.heal(chance)
            await _check(site, applications, senders)
            events = sum(len(each.stored) for each in applications)
            _say(
                f"    {events:,} events of {senders.answers:,} requests stored, "
                f"{time.monotonic() - started:.1f} s"
            )

    return happened


async def _fail(site: Site, chance: random.Random, deck: Iterator[str]) -> set[str]:
    happened = set()
    for _ in range(chance.randint(1, MAX_FAULTS)):
        await asyncio.sleep(chance.uniform(0, MAX_PAUSE_S))
        fault = next(deck)
        happened.add(fault)
        _say(f"    {fault}: {await site.break_(fault, chance)}")
    await asyncio.sleep(chance.uniform(0, MAX_LENGTH_S))
    return happened


async def _check(
    site: Site, applications: Sequence[Application], senders: Senders
) -> None:
    await senders.until_answered(ANSWERS)
    await senders.pause()
    await check_stored(applications, site.collectors[0].port)
    await site.nats.until_equal(STREAM)


def _say(text: str) -> None:
    """Print a line at once, so that a run that fails shows what it has done."""
    print(text, flush=True)  # noqa: T201


def faults_of(chance: random.Random) -> Iterator[str]:
    """Yield faults at random; each kind once before any of them again."""
    while True:
        yield from chance.sample(list(FAULTS), len(FAULTS))


@asynccontextmanager
async def open_site(
    launcher: Launcher, folder: Path
) -> AsyncIterator[tuple[Site, list[Application]]]:
    """Run everything that events go through, with a key for each application."""
    database = Cluster()
    async with AsyncExitStack() as stack:
        stack.callback(database.remove)
        await database.start()
        storage = storage_at(database.url.replace("postgresql", "postgresql+asyncpg"))
        await migrate(storage)
        applications = [
            Application(name, await _key(storage, name)) for name in APPLICATIONS
        ]
        nats = await stack.enter_async_context(nats_cluster(folder, SERVER))
        settings = _settings(storage, nats)
        made = [
            Service(launcher, folder / f"collector{n}.log", **settings)
            for n in range(COLLECTORS)
        ]
        writers = [
            WriterService(launcher, folder / f"writer{n}.log", **settings)
            for n in range(WRITERS)
        ]
        for each in (*made, *writers):
            stack.callback(_end, each)
        site = Site(nats, database, made, writers)
        await site.start()
        yield site, applications


async def _key(storage: StorageSettings, name: str) -> str:
    async with open_database(storage) as database:
        return await add_key(database, name, OWN_EVENTS, 1_000_000)


def _settings(storage: StorageSettings, nats: NatsCluster) -> dict[str, object]:
    return {
        "storage__url": storage.url,
        "events__enabled": True,
        "events__queue_url": nats.url,
        "events__queue_writer": False,
        # It bounds the time in which nothing is stored after a writer was killed.
        "events__queue_lease_s": 3.0,
        "events__queue_max_bytes": 100 * 1024 * 1024,
        "sandbox__enabled": True,
        "periods__enabled": False,
        "vehicles__enabled": False,
        "health__warm_up": False,
        "logging__access": False,
        "server__drain_s": 0.0,
    }


def _end(service: Service) -> None:
    if service.process_id is not None:
        service.kill()
