"""The stream on three servers: its replicas, and room for them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import pytest
from msgspec.structs import replace

from service.events.errors import QueueUnavailable, StreamUnusable
from service.events.queue.administration import (
    Administration,
    is_replicated,
    open_administration,
)
from service.events.queue.leases import Leases, bucket_of
from service.events.queue.overview import overview_of
from service.events.queue.stream import ensure_stream
from service.events.queue.stream_api import config_in, read_stream
from service.settings import EventsSettings, load
from tests.events.queue.cluster import NatsCluster, nats_cluster

NAME: Final = "replicated"
MAX_BYTES: Final = 10_000_000
T = TypeVar("T")


def settings_of(cluster: NatsCluster, replicas: int) -> EventsSettings:
    """Return settings of a stream on the cluster."""
    events = load().settings.events
    return replace(
        events,
        queue_url=cluster.url,
        queue_stream=NAME,
        queue_replicas=replicas,
        queue_max_bytes=MAX_BYTES,
    )


async def on(
    settings: EventsSettings, work: Callable[[Administration], Awaitable[T]]
) -> T:
    """Do work on a connection of its own, as a command does."""
    async with open_administration(settings) as queue:
        return await work(queue)


async def test_replicas_are_added_and_shown(
    tmp_path: Path,
) -> None:
    """A stream with fewer replicas than set is refused until it is resized."""
    async with nats_cluster(tmp_path) as cluster:
        too_large = replace(settings_of(cluster, 3), queue_max_bytes=10**12)
        with pytest.raises(QueueUnavailable, match=r"room for events.queue_max_bytes"):
            await on(too_large, lambda queue: ensure_stream(queue.client, too_large))

        one, three = settings_of(cluster, 1), settings_of(cluster, 3)
        await on(one, lambda queue: ensure_stream(queue.client, one))
        with pytest.raises(StreamUnusable, match="queue_replicas is 1 and not 3"):
            await on(three, lambda queue: ensure_stream(queue.client, three))

        await on(one, lambda queue: Leases(one).open(queue.client))
        await on(three, lambda queue: queue.resize({"num_replicas": 3}))
        await on(three, lambda queue: queue.until_replicated(lambda _: None))
        await on(three, lambda queue: ensure_stream(queue.client, three))
        await check_overview(three, {"node1", "node2", "node3"})


async def test_leases_with_fewer_replicas_than_the_stream_are_shown(
    tmp_path: Path,
) -> None:
    """The loss of their one server would stop all writers."""
    async with nats_cluster(tmp_path) as cluster:
        one, three = settings_of(cluster, 1), settings_of(cluster, 3)
        await on(three, lambda queue: ensure_stream(queue.client, three))
        await on(three, lambda queue: Leases(one).open(queue.client))

        problems = await on(three, problems_of)

        assert problems == [f"replicas of KV_{NAME}_writers is 1 and not 3"]


async def problems_of(queue: Administration) -> list[str]:
    """Return what an operator sees of the leases."""
    return await queue.lease_problems(await queue.read())


async def check_overview(settings: EventsSettings, servers: set[str]) -> None:
    """Check what an operator sees of the servers."""

    async def work(queue: Administration) -> None:
        info, account = await queue.read(), await queue.account()
        shown = overview_of(info, await queue.consumers(), account, "2.9.10", settings)
        assert {each.server for each in shown.servers} == servers
        assert [each.role for each in shown.servers] == ["leader", "replica", "replica"]
        assert shown.differences == ()
        assert await queue.lease_problems(info) == []
        bucket = await read_stream(queue.client, f"KV_{bucket_of(NAME)}")
        assert is_replicated(bucket)
        assert config_in(bucket).num_replicas == 3

    await on(settings, work)
