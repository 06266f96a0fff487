"""The client of Redis behind Sentinels: which server it uses, and when."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.typing import EventDict

from service.settings.redis_urls import parse_sentinel_url
from service.storage import redis_sentinels, redis_store
from service.storage.redis_sentinels import Login, Sentinels
from service.storage.redis_store import RedisStore, RedisUnavailable
from tests.metric_samples import Read, value
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.redis_sentinels import NAME, SentinelProcess, url_of
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.services

Until = Callable[[Callable[[], bool]], Awaitable[None]]
SILENT = "copilot_usage_redis_sentinels_unavailable"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine Redis is slow."""
    for module, name in (
        (redis_store, "CONNECT_S"),
        (redis_store, "COMMAND_S"),
        (redis_sentinels, "ASK_S"),
        (redis_store, "ASK_S"),
    ):
        monkeypatch.setattr(module, name, GIVE_UP_S)
    monkeypatch.setattr(redis_store, "PING_EVERY_S", 0.02)


class Pair:
    """Two servers that know nothing of each other, and a Sentinel of each.

    That of the second one has taken part in a failover, of which the first one knows
    nothing: it is cut off, together with its master.
    """

    def __init__(self, folder: Path) -> None:
        self.servers = [RedisServer(folder) for _ in range(2)]
        self.sentinels = [
            SentinelProcess(folder, server, f"sentinel config-epoch {NAME} {epoch}")
            for epoch, server in enumerate(self.servers)
        ]
        self.url = url_of(self.sentinels)

    def value(self, number: int, key: str) -> Any:
        """Return a value of one of the servers."""
        with redis.Redis.from_url(self.servers[number].url) as client:
            return client.get(key)

    def knows_an_end(self, number: int) -> bool:
        """Return whether a Sentinel knows that its server does not answer."""
        with redis.Redis(port=self.sentinels[number].port) as client:
            state = client.sentinel_master(NAME)
            return bool(state["is_sdown"])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Return two running servers, and their Sentinels, which do not run yet."""
    with ExitStack() as stack:
        made = Pair(tmp_path)
        for sentinel in made.sentinels:
            stack.callback(sentinel.kill)
        for server in made.servers:
            stack.callback(server.kill)
            server.start()
        yield made


async def put(store: RedisStore, text: str) -> None:
    """Write a value."""
    await store.run(lambda pipeline: pipeline.set(store.key("a"), text))


async def until_written(store: RedisStore, until: Until, text: str) -> None:
    """Write a value as soon as Redis is available."""
    written: list[str] = []
    while not written:
        try:
            await put(store, text)
            written.append(text)
        except RedisUnavailable:
            await until(lambda: not store.is_away)


def logged(entries: list[EventDict]) -> list[str]:
    """Return the events of Redis in a log."""
    return [e["event"] for e in entries if str(e["event"]).startswith("cache.s")]


async def test_the_newest_master_is_used(
    pair: Pair, until: Until, log_entries: list[EventDict], added: Read
) -> None:
    """A Sentinel that missed a failover counts only until another one is reached."""
    store = RedisStore(pair.url, "test")
    pair.sentinels[0].start()
    await until_written(store, until, "one")
    assert pair.value(0, "test:a") == b"one"
    log_entries.clear()

    pair.sentinels[1].start()
    await until(lambda: "cache.shared.moved" in logged(log_entries))

    await put(store, "two")
    assert pair.value(0, "test:a") == b"one"
    assert pair.value(1, "test:a") == b"two"
    (moved,) = [e for e in log_entries if e["event"] == "cache.shared.moved"]
    assert moved["former"] == f"127.0.0.1:{pair.servers[0].port}"
    assert moved["master"] == f"127.0.0.1:{pair.servers[1].port}"
    assert added("copilot_usage_redis_failovers_total") == 1
    await store.close()


async def test_without_sentinels_at_the_start_redis_is_unavailable(
    pair: Pair, until: Until, log_entries: list[EventDict]
) -> None:
    """It is used as soon as a Sentinel names a master."""
    store = RedisStore(pair.url, "test")
    with pytest.raises(RedisUnavailable):
        await put(store, "one")
    assert logged(log_entries) == ["cache.sentinels.lost", "cache.shared.lost"]
    assert value(SILENT) == value("copilot_usage_redis_unavailable") == 1

    pair.sentinels[1].start()
    await until(lambda: not store.is_away)

    await put(store, "two")
    assert pair.value(1, "test:a") == b"two"
    assert value(SILENT) == value("copilot_usage_redis_unavailable") == 0
    assert logged(log_entries)[2:] == [
        "cache.sentinels.restored",
        "cache.shared.restored",
    ]
    await store.close()


async def test_the_known_master_is_used_while_no_sentinel_answers(
    pair: Pair, until: Until, log_entries: list[EventDict]
) -> None:
    """An outage of all Sentinels is no outage of Redis."""
    store = RedisStore(pair.url, "test")
    pair.sentinels[1].start()
    await until_written(store, until, "one")
    log_entries.clear()

    pair.sentinels[1].kill()
    await until(lambda: logged(log_entries) == ["cache.sentinels.lost"])

    await put(store, "two")
    assert pair.value(1, "test:a") == b"two"
    assert value(SILENT) == 1
    pair.sentinels[1].start()
    await until(lambda: "cache.sentinels.restored" in logged(log_entries))
    await store.close()


async def test_a_master_that_is_down_is_not_used(
    pair: Pair, until: Until, log_entries: list[EventDict]
) -> None:
    """Nor is a former one, which a Sentinel that missed the failover still names."""
    store = RedisStore(pair.url, "test")
    pair.sentinels[1].start()
    await until_written(store, until, "one")
    pair.sentinels[0].start()
    log_entries.clear()
    pair.servers[1].kill()
    with pytest.raises(RedisUnavailable):
        await put(store, "two")
    assert logged(log_entries) == ["cache.shared.lost"]
    # Its own Sentinel knows, too, but knows of no other master.
    await until(lambda: pair.knows_an_end(1))
    with pytest.raises(RedisUnavailable):
        await put(store, "two")

    pair.servers[1].start()
    await until_written(store, until, "three")
    assert pair.value(1, "test:a") == b"three"
    assert pair.value(0, "test:a") is None
    await store.close()


@pytest.mark.parametrize(
    "states, expected",
    [
        ([("a", 4, False), ("b", 5, False)], "b"),
        ([("a", 4, False), ("b", 5, True)], None),
        ([("b", 5, True), ("b", 5, False), ("a", 4, False)], "b"),
        ([("b", 5, False), ("b", 5, True)], "b"),
    ],
)
async def test_the_newest_state_decides(
    monkeypatch: pytest.MonkeyPatch,
    states: list[tuple[str, int, bool]],
    expected: str | None,
) -> None:
    """Of equal ones, that of a Sentinel that reaches the master."""
    answers = iter(states)

    async def ask(*_: object) -> dict[str, Any]:
        host, epoch, is_down = next(answers)
        known = {"ip": host, "port": 6_379, "config-epoch": str(epoch), "flags": ""}
        return {**known, "is_master": True, "is_sdown": is_down, "is_odown": False}

    monkeypatch.setattr(Sentinels, "_ask", ask)
    hosts = ",".join(f"s{number}:26379" for number in range(len(states)))
    sentinels = Sentinels(parse_sentinel_url(f"redis+sentinel://{hosts}/m"), Login())
    if expected is None:
        with pytest.raises(RedisConnectionError, match="no Sentinel knows a master m"):
            await sentinels.master_url()
    else:
        assert f"//{expected}:6379" in await sentinels.master_url()
    await sentinels.close()


async def test_an_unknown_name_is_an_outage(
    pair: Pair, until: Until, log_entries: list[EventDict]
) -> None:
    """The log says that no Sentinel knows a master of this name."""
    pair.sentinels[0].start()
    store = RedisStore(pair.url, "test")
    await until_written(store, until, "one")
    await store.close()
    log_entries.clear()

    store = RedisStore(pair.url.replace(NAME, "another"), "test")
    with pytest.raises(RedisUnavailable):
        await put(store, "one")

    (lost,) = [e for e in log_entries if e["event"] == "cache.shared.lost"]
    assert "no Sentinel knows a master another: " in lost["reason"]
    assert "No such master with that name" in lost["reason"]
    await store.close()


async def test_sentinels_may_need_a_login(
    tmp_path: Path, until: Until, log_entries: list[EventDict]
) -> None:
    """It differs from that of the servers, and neither is logged."""
    with ExitStack() as stack:
        server = RedisServer(tmp_path, "--requirepass", "pa55")
        lines = [f"sentinel auth-pass {NAME} pa55", "requirepass s3cret"]
        sentinel = SentinelProcess(tmp_path, server, *lines)
        stack.callback(server.kill)
        server.start()
        stack.callback(sentinel.kill)
        sentinel.start()
        url = url_of([sentinel], "pa55")
        store = RedisStore(url, "test", Login("", "s3cret"))
        await until_written(store, until, "one")
        await store.close()

        wrong = RedisStore(url, "test", Login("", "wr0ng"))
        with pytest.raises(RedisUnavailable):
            await put(wrong, "two")
        await wrong.close()
    (lost,) = [e for e in log_entries if e["event"] == "cache.sentinels.lost"][-1:]
    assert "invalid username-password" in lost["reason"]
    assert not {"pa55", "s3cret", "wr0ng"} & set(str(log_entries).split("'"))
    assert "wr0ng" not in str(log_entries)


@pytest.mark.parametrize(
    "commands",
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
        ),
    ],
    ids=["a replica", "cut off from its replicas"],
)
@pytest.mark.parametrize("writes", [1, 2], ids=["command", "transaction"])
async def test_a_server_that_is_no_master_is_away(
    *,
    tmp_path: Path,
    until: Until,
    log_entries: list[EventDict],
    commands: tuple[tuple[str, ...], tuple[str, ...]],
    writes: int,
) -> None:
    """It answers pings, and is used again when it accepts a write, not before."""
    server = RedisServer(tmp_path)
    server.start()
    store = RedisStore(server.url, "test")
    try:
        with redis.Redis.from_url(server.url) as operator:
            await put(store, "one")
            operator.execute_command(*commands[0])
            with pytest.raises(RedisUnavailable):
                await store.run(
                    *[lambda pipeline: pipeline.set("test:a", "two")] * writes
                )
            assert store.is_away
            probed = operator.info("commandstats").get("cmdstat_set", {})
            await until(
                lambda: (
                    operator.info("commandstats")["cmdstat_set"]["rejected_calls"]
                    + operator.info("commandstats")["cmdstat_set"]["failed_calls"]
                    > probed["rejected_calls"] + probed["failed_calls"] + 2
                )
            )
            assert store.is_away
            operator.execute_command(*commands[1])
            await until(lambda: not store.is_away)
            await put(store, "three")
    finally:
        await store.close()
        server.kill()
    assert logged(log_entries) == ["cache.shared.lost", "cache.shared.restored"]


async def test_a_node_of_a_cluster_is_refused(
    tmp_path: Path, log_entries: list[EventDict]
) -> None:
    """The log says in one line that a cluster is not supported."""
    port = str(free_port())
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", port)
    server.start()
    store = RedisStore(server.url, "test")
    try:
        with redis.Redis.from_url(server.url) as operator:
            operator.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "1")
            for _ in range(2):
                with pytest.raises(RedisUnavailable):
                    await put(store, "one")
    finally:
        await store.close()
        server.kill()
    (refused,) = [e for e in log_entries if e["event"] == "cache.shared.refused"]
    assert refused["reason"].startswith("Redis Cluster is not supported: ")
