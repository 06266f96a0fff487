"""Administration of the stream by operators: read, resize, drain, discard, delete.

No function changes the stream without having read it before, because some changes
discard events: a maximum size below the present one removes the oldest messages.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from nats.aio.client import Client

from service.events.errors import QueueUnavailable, StreamUnusable
from service.events.queue.connection import connect, discard
from service.events.queue.leases import bucket_of
from service.events.queue.stream import NS_PER_S, duplicate_window_ns
from service.events.queue.stream_api import (
    SINGLE,
    Account,
    Answer,
    Cluster,
    Done,
    StreamConfig,
    StreamInfo,
    StreamNotFound,
    call,
    config_in,
    read_stream,
)
from service.settings import EventsSettings

CLIENT: Final = "copilot-usage queue"
LOOK_AGAIN_S: Final = 0.5
RETRY_S: Final = 30.0
"""Time for which a command that waits repeats a request that fails."""


class WouldDiscard(StreamUnusable):
    """The change would discard events that no writer has stored."""


class NoMessage(QueueUnavailable):
    """The stream does not have the message."""


class Message(Struct, frozen=True):
    """A message that waits in the stream."""

    seq: int
    subject: str
    time: str
    data: bytes = b""


class _Stored(Answer, frozen=True, kw_only=True):
    message: Message | None = None


class Consumer(Struct, frozen=True):
    """Progress of a partition's writer."""

    name: str
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0


class _Consumers(Answer, frozen=True, kw_only=True):
    total: int = 0
    consumers: tuple[Consumer, ...] = ()


@asynccontextmanager
async def open_administration(
    settings: EventsSettings,
) -> AsyncIterator["Administration"]:
    """Connect to the servers; raises `QueueUnavailable`."""
    try:
        client = await connect(settings, CLIENT)
    except QueueUnavailable as error:
        servers = ", ".join(map(_address, settings.queue_servers))
        raise QueueUnavailable(f"cannot connect to {servers}: {error}") from error
    try:
        yield Administration(client, settings)
    finally:
        await discard(client)


class Administration:
    """The stream of the settings, for commands; `open_administration` connects."""

    def __init__(self, client: Client, settings: EventsSettings) -> None:
        self.client = client
        self._settings = settings
        self._name = settings.queue_stream
        self._bucket = f"KV_{bucket_of(self._name)}"

    async def read(self) -> StreamInfo:
        """Return what the servers know of the stream, with messages by subject.

        Raises `StreamNotFound` and `QueueUnavailable`, as all functions do.
        """
        return await read_stream(self.client, self._name, with_subjects=True)

    async def account(self) -> Account:
        """Return the storage that all streams of the account use."""
        return await call(self.client, "INFO", Account)

    async def consumers(self) -> list[Consumer]:
        """Return the consumers of the stream: one for each partition with a writer."""
        found: list[Consumer] = []
        while True:
            subject, body = f"CONSUMER.LIST.{self._name}", {"offset": len(found)}
            page = await call(self.client, subject, _Consumers, body)
            found += page.consumers
            if not page.consumers or len(found) >= page.total:
                return found

    async def resize(self, changes: dict[str, Any]) -> StreamInfo:
        """Change values of the configuration; all others stay as they are.

        Raises `WouldDiscard` for a maximum size below the size of the messages, and for
        another number of partitions while there are messages.
        """
        info = await read_stream(self.client, self._name)
        state = info.state
        if changes.get("max_bytes", state.bytes) < state.bytes:
            raise WouldDiscard(
                f"the stream has {state.bytes} bytes: with a maximum of "
                f"{changes['max_bytes']}, it would discard the oldest events"
            )
        if "description" in changes and state.messages:
            raise WouldDiscard(
                f"the stream has {state.messages} messages of the present partitions: "
                "drain it first"
            )
        if changes.get("num_replicas", 1) > 1 and info.cluster is None:
            raise StreamUnusable(SINGLE)
        if "max_age" in changes:
            # The servers accept no duplicate window above the maximum age.
            max_age_s = changes["max_age"] / NS_PER_S
            aged = replace(self._settings, queue_max_age_s=max_age_s)
            changes = {**changes, "duplicate_window": duplicate_window_ns(aged)}
        resized = await self._update(info, changes)
        if "num_replicas" in changes and (leases := await self._leases()):
            # With fewer replicas than the stream, one server would stop all writers.
            await self._update(leases, {"num_replicas": changes["num_replicas"]})
        return resized

    async def until_replicated(self, shown: Callable[[StreamInfo], object]) -> None:
        """Wait until all replicas of the stream and of the leases are current."""
        await self.until(is_replicated, shown)
        if await self._leases():
            await self.until(is_replicated, shown, self._bucket)

    async def lease_problems(self, info: StreamInfo) -> list[str]:
        """Return in what the bucket of leases differs from the stream."""
        try:
            leases = await self._leases()
        except QueueUnavailable as error:
            return [f"the leases of writers cannot be read: {error}"]
        if leases is None:
            return []
        if problem := problem_of(leases):
            return [f"the leases of writers have {problem}"]
        actual, expected = (config_in(each).num_replicas for each in (leases, info))
        if actual == expected:
            return []
        return [f"replicas of {self._bucket} is {actual} and not {expected}"]

    async def _leases(self) -> StreamInfo | None:
        """Return what the servers know of the leases; None before the first writer."""
        try:
            return await read_stream(self.client, self._bucket)
        except StreamNotFound:
            return None

    async def _update(self, info: StreamInfo, changes: dict[str, Any]) -> StreamInfo:
        config: dict[str, Any] = msgspec.json.decode(info.config)
        subject = f"STREAM.UPDATE.{config['name']}"
        return await call(self.client, subject, StreamInfo, config | changes)

    async def until(
        self,
        holds: Callable[[StreamInfo], bool],
        shown: Callable[[StreamInfo], object],
        name: str | None = None,
    ) -> StreamInfo:
        """Read a stream until something holds, and pass each state to `shown`.

        A request that fails is repeated for `RETRY_S`. Without a name, the stream is
        that of the settings.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + RETRY_S
        while True:
            try:
                info = await read_stream(self.client, name or self._name)
                give_up_at = loop.time() + RETRY_S
            except StreamNotFound:
                raise
            except QueueUnavailable:
                if self.client.is_closed or loop.time() > give_up_at:
                    raise
            else:
                shown(info)
                if holds(info):
                    return info
            await asyncio.sleep(LOOK_AGAIN_S)

    async def messages(
        self, subject: str, maximum: int | None
    ) -> AsyncIterator[Message]:
        """Yield messages that wait, the oldest first, without taking them."""
        seq, number = 0, 0
        while maximum is None or number < maximum:
            body = {"seq": seq + 1, "next_by_subj": subject}
            try:
                subject_ = f"STREAM.MSG.GET.{self._name}"
                found = await call(self.client, subject_, _Stored, body)
            except StreamNotFound:
                return
            if found.message is None:
                return
            yield found.message
            seq, number = found.message.seq, number + 1

    async def purge(self, subject: str) -> int:
        """Discard all messages of a subject; return their number."""
        body = {"filter": subject}
        return (
            await call(self.client, f"STREAM.PURGE.{self._name}", Done, body)
        ).purged

    async def discard_message(self, seq: int) -> None:
        """Discard one message; raises `NoMessage` if it is not in the stream."""
        body = {"seq": seq}
        try:
            await call(self.client, f"STREAM.MSG.GET.{self._name}", _Stored, body)
        except StreamNotFound as error:
            await read_stream(self.client, self._name)
            raise NoMessage(
                f"there is no message {seq}: a writer has stored it, or it is discarded"
            ) from error
        await call(self.client, f"STREAM.MSG.DELETE.{self._name}", Done, body)

    async def delete(self, *, with_events: bool = False) -> StreamInfo:
        """Delete the stream and the leases; raises `WouldDiscard` for messages."""
        info = await read_stream(self.client, self._name)
        if info.state.messages and not with_events:
            raise WouldDiscard(
                f"the stream has {info.state.messages} messages that no writer has "
                "stored: drain it first"
            )
        await call(self.client, f"STREAM.DELETE.{self._name}", Done)
        # Otherwise a new stream of this name would keep their replicas and duration.
        with suppress(StreamNotFound):
            await call(self.client, f"STREAM.DELETE.{self._bucket}", Done)
        return info


def _address(url: str) -> str:
    """Return host and port of a URL, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def problem_of(info: StreamInfo) -> str | None:
    """Return why a stream acknowledges nothing; None if it does."""
    # A server that has lost the others does not know that they are offline.
    if info.cluster is not None and not info.cluster.leader:
        return "no leader: nothing is acknowledged"
    states = replica_states(info)
    absent = states["offline"] + states["missing"]
    if 2 * absent < sum(states.values()):
        return None
    return "most replicas offline: nothing is acknowledged"


def is_replicated(info: StreamInfo) -> bool:
    """Return whether a stream has a leader, and all replicas are current."""
    # During an election, all of them may be current without a leader.
    has_leader = info.cluster is None or bool(info.cluster.leader)
    return (
        has_leader and replica_states(info)["current"] == config_in(info).num_replicas
    )


def replica_states(info: StreamInfo) -> dict[str, int]:
    """Return the number of replicas by state, the leader's included.

    `missing` are those that no server has yet.
    """
    config: StreamConfig = config_in(info)
    # A single server has no cluster, and is the only replica.
    cluster = info.cluster or Cluster(leader="-")
    states = {"current": int(bool(cluster.leader)), "behind": 0, "offline": 0}
    for peer in cluster.replicas:
        state = "offline" if peer.offline else "current" if peer.current else "behind"
        states[state] += 1
    states["missing"] = max(0, config.num_replicas - sum(states.values()))
    return states
