"""A Redis with two replicas and three Sentinels, as real processes on free ports."""

import secrets
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import redis

from tests.ports import free_port
from tests.redis_servers import RedisServer

NAME: Final = "the-master"
QUORUM: Final = 2
DOWN_AFTER_MS: Final = 1_000
FAILOVER_MS: Final = 5_000


class SentinelProcess:
    """A Sentinel that monitors one master; it can be killed and started again."""

    def __init__(self, folder: Path, master: RedisServer, *lines: str) -> None:
        self.port = free_port()
        self.run_id = secrets.token_hex(20)
        self._config = folder / f"sentinel-{self.port}.conf"
        self._monitored = [
            f"sentinel monitor {NAME} 127.0.0.1 {master.port} {QUORUM}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} {FAILOVER_MS}",
        ]
        self._lines = list(lines)
        self.process: subprocess.Popen[bytes] | None = None

    def introduce(
        self, sentinels: Iterable["SentinelProcess"], replicas: Iterable[RedisServer]
    ) -> None:
        """Tell it of others, which it would need some seconds to discover."""
        self._lines += [
            f"sentinel known-sentinel {NAME} 127.0.0.1 {each.port} {each.run_id}"
            for each in sentinels
            if each is not self
        ]
        self._lines += [
            f"sentinel known-replica {NAME} 127.0.0.1 {each.port}" for each in replicas
        ]

    def write(self) -> None:
        """Write its configuration, which it changes itself later."""
        own = [f"port {self.port}", "bind 127.0.0.1", f"sentinel myid {self.run_id}"]
        lines = [*own, *self._monitored, *self._lines, ""]
        self._config.write_text("\n".join(lines))

    def start(self) -> None:
        """Start it; it listens some time later."""
        if not self._config.exists():
            self.write()
        log = self._config.with_suffix(".log").open("ab")
        with log:
            self.process = subprocess.Popen(  # noqa: S603
                ["redis-sentinel", str(self._config)],  # noqa: S607
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def url_of(sentinels: Sequence[SentinelProcess], password: str = "") -> str:
    """Return the URL of Sentinels for the settings."""
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
    login = f":{password}@" if password else ""
    return f"redis+sentinel://{login}{hosts}/{NAME}/0"


class ReplicatedRedis:
    """A master, two replicas and three Sentinels."""

    def __init__(self, folder: Path, password: str = "", *lines: str) -> None:
        secret = ["--requirepass", password, "--masterauth", password]
        options = ["--repl-diskless-sync-delay", "0", *(secret if password else [])]
        self.servers = [RedisServer(folder, *options)]
        first = self.servers[0].port
        replica = ["--replicaof", "127.0.0.1", str(first)]
        self.servers += [RedisServer(folder, *options, *replica) for _ in range(2)]
        auth = [f"sentinel auth-pass {NAME} {password}"] if password else []
        self.sentinels = [
            SentinelProcess(folder, self.servers[0], *auth, *lines) for _ in range(3)
        ]
        for each in self.sentinels:
            each.introduce(self.sentinels, self.servers[1:])
        self._password = password

    @property
    def url(self) -> str:
        """The URL for the settings."""
        return url_of(self.sentinels, self._password)

    def start(self) -> None:
        """Start all of them."""
        for server in self.servers:
            server.start()
        for sentinel in self.sentinels:
            sentinel.start()

    def kill(self) -> None:
        """End all of them at once."""
        for server in self.servers:
            server.kill()
        for sentinel in self.sentinels:
            sentinel.kill()

    def is_settled(self) -> bool:
        """Return whether all Sentinels agree, and both replicas have the data."""
        master = self.master()
        states = [self.state(each) for each in self.sentinels if each.process]
        return master is not None and all(
            state is not None
            and state["flags"] == "master"
            and state["num-other-sentinels"] == len(self.sentinels) - 1
            and self._has_replicas(master)
            for state in states
        )

    def state(self, sentinel: SentinelProcess) -> dict[str, Any] | None:
        """Return what a Sentinel says about the master; None while it is away."""
        with redis.Redis(port=sentinel.port) as client:
            try:
                found: dict[str, Any] = client.sentinel_master(
                    NAME, return_responses=True
                )
            except redis.RedisError:
                return None
            return found

    def master(self) -> RedisServer | None:
        """Return the master if all Sentinels that run name the same."""
        states = [self.state(each) for each in self.sentinels if each.process]
        ports = {state and state["port"] for state in states}
        found = [each for each in self.servers if {each.port} == ports]
        return found[0] if found else None

    def client_of(self, server: RedisServer) -> redis.Redis:
        """Return a client of one of the servers."""
        return redis.Redis(port=server.port, password=self._password or None)

    def _has_replicas(self, master: RedisServer) -> bool:
        with self.client_of(master) as client:
            try:
                found = client.info("replication")
            except redis.RedisError:
                return False
        links = [found.get(f"slave{number}", {}).get("state") for number in range(2)]
        return links == ["online", "online"]
