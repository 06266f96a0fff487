"""Leases of partitions: at most one writer stores the events of a partition.

A lease is a value of a key-value bucket, which expires after `events.queue_lease_s`
unless its writer renews it. Each writer also has a value of its own. So all writers
know how many there are, and which partitions are free. A stalled writer may work on
after the end of its lease: `docs/decisions/event-queue.md` explains why that does no
harm.
"""

import asyncio
import secrets
import time
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from msgspec import Struct
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError

from service.events.queue.connection import translated
from service.events.queue.stream_api import API_S
from service.settings import EventsSettings

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
WRONG_LAST_SEQUENCE: Final = 10071
REQUEST_S: Final = 2.0
PARTITION: Final = "partition"
WRITER: Final = "writer"


class Taken(Exception):
    """Another writer has the lease."""


class Lease(Struct):
    """A lease of ours: its revision, and when it ends by the monotonic clock."""

    revision: int
    ends_at: float


class Look(Struct, frozen=True):
    """Content of the bucket: ids of the writers, and partitions with a lease."""

    writers: frozenset[str]
    partitions: frozenset[int]


class Leases:
    """The leases of one writer."""

    def __init__(self, settings: EventsSettings) -> None:
        self.writer = secrets.token_hex(8)
        self.owned: dict[int, Lease] = {}
        self._settings = settings
        self.length_s = settings.queue_lease_s
        bucket = bucket_of(settings.queue_stream)
        self._stream = f"KV_{bucket}"
        self._subject = f"$KV.{bucket}"

    async def open(self, client: Client) -> None:
        """Create the bucket if it is absent; raises `QueueUnavailable`."""
        manager = client.jetstream(timeout=API_S)
        with translated():
            try:
                info = await manager.stream_info(self._stream)
            except NotFoundError:
                info = await manager.add_stream(self._configuration())
        # Writers with another setting must agree with those that are there.
        self.length_s = info.config.max_age or self.length_s

    async def renew(self, client: Client) -> None:
        """Renew all leases and our own value; forget the leases that have ended."""
        context = client.jetstream(timeout=REQUEST_S)
        await _all_of(
            self._put(context, f"{WRITER}.{self.writer}"),
            *(self._renew(context, each) for each in list(self.owned)),
        )

    def has(self, partition: int) -> bool:
        """Return whether the lease of a partition is ours, and has not ended."""
        lease = self.owned.get(partition)
        return lease is not None and time.monotonic() < lease.ends_at

    def forget_ended(self) -> None:
        """Forget the leases that have ended, because they could not be renewed."""
        now = time.monotonic()
        for partition, lease in list(self.owned.items()):
            if lease.ends_at <= now:
                del self.owned[partition]

    async def look(self, client: Client) -> Look:
        """Return what the bucket has; raises `QueueUnavailable`."""
        manager = client.jetstream(timeout=REQUEST_S)
        with translated():
            info = await manager.stream_info(self._stream, subjects_filter=">")
        writers, partitions = {self.writer}, set()
        for subject in info.state.subjects or {}:
            kind, _, name = subject.removeprefix(f"{self._subject}.").partition(".")
            if kind == WRITER:
                writers.add(name)
            elif kind == PARTITION and name.isdecimal():
                partitions.add(int(name))
        return Look(frozenset(writers), frozenset(partitions))

    async def acquire(self, client: Client, partition: int) -> bool:
        """Take a lease that is free; return False if another writer was faster."""
        context = client.jetstream(timeout=REQUEST_S)
        ends_at = time.monotonic() + self.length_s
        try:
            revision = await self._put(context, _key_of(partition), expected=0)
        except Taken:
            return False
        self.owned[partition] = Lease(revision, ends_at)
        return True

    async def release(self, client: Client, partitions: Iterable[int]) -> None:
        """Give leases back, so that other writers can take them at once.

        Raises `QueueUnavailable`. The leases that could not be given back end by
        themselves: none of them is ours any more, so none is renewed.
        """
        leases = [self.owned.pop(each, None) for each in partitions]
        # Only these revisions: another writer may have a lease by now.
        revisions = [each.revision for each in leases if each is not None]
        await _all_of(*(self._remove(client, each) for each in revisions))

    async def sign_off(self, client: Client) -> None:
        """Give all leases back, and remove our own value.

        So no partition is left for us. Raises `QueueUnavailable`; what could not be
        removed ends by itself.
        """
        # At once: a request without an answer must not take the time of the others.
        await _all_of(self.release(client, list(self.owned)), self._remove_own(client))

    async def _remove_own(self, client: Client) -> None:
        manager = client.jetstream(timeout=REQUEST_S)
        with translated():
            try:
                own = f"{self._subject}.{WRITER}.{self.writer}"
                found = await manager.get_last_msg(self._stream, own)
            except NotFoundError:
                return
        await self._remove(client, found.seq or 0)

    async def _renew(self, context: JetStreamContext, partition: int) -> None:
        lease = self.owned[partition]
        ends_at = time.monotonic() + self.length_s
        try:
            key = _key_of(partition)
            lease.revision = await self._put(context, key, expected=lease.revision)
        except Taken:
            self.owned.pop(partition, None)
            return
        lease.ends_at = ends_at

    async def _put(
        self, context: JetStreamContext, key: str, expected: int | None = None
    ) -> int:
        """Write a value; return its revision, or raise `Taken`."""
        headers = None if expected is None else {EXPECTED: str(expected)}
        subject, value = f"{self._subject}.{key}", self.writer.encode()
        with translated():
            try:
                ack = await context.publish(subject, value, headers=headers)
            except APIError as error:
                if error.err_code != WRONG_LAST_SEQUENCE:
                    raise
                raise Taken from error
        return ack.seq

    async def _remove(self, client: Client, revision: int) -> None:
        manager = client.jetstream(timeout=REQUEST_S)
        with translated():
            try:
                await manager.delete_msg(self._stream, revision)
            except APIError:
                # It has ended already.
                return

    def _configuration(self) -> api.StreamConfig:
        # As `nats kv` makes a bucket, but a value may be deleted: a marker in its place
        # would look like a lease.
        return api.StreamConfig(
            name=self._stream,
            description="Leases of writers of events",
            subjects=[f"{self._subject}.>"],
            max_msgs_per_subject=1,
            max_age=self._settings.queue_lease_s,
            duplicate_window=min(120.0, self._settings.queue_lease_s),
            discard=api.DiscardPolicy.NEW,
            storage=api.StorageType.FILE,
            num_replicas=self._settings.queue_replicas,
            allow_rollup_hdrs=True,
            allow_direct=True,
        )


async def _all_of(*requests: Coroutine[Any, Any, object]) -> None:
    """Wait for the end of all requests, then raise the failure of one."""
    for each in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each


def bucket_of(stream: str) -> str:
    """Return the name of the bucket with the leases of a stream."""
    return f"{stream}_writers"


def share_of(writer: str, writers: frozenset[str], partitions: int) -> int:
    """Return how many partitions a writer should have; the shares add up to all."""
    rank = sorted(writers).index(writer)
    return partitions // len(writers) + (rank < partitions % len(writers))


def _key_of(partition: int) -> str:
    return f"{PARTITION}.{partition}"
