"""Publishes messages of one size to a stream, and does nothing else.

It is the upper bound of what a collector in Python can publish. It uses nats-py as its
documentation shows it. A process of its own, which prints one JSON object.
"""

import asyncio
import sys
import time
from itertools import repeat
from typing import Final

import msgspec
import nats
import uvloop
from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig

ACK_S: Final = 60.0
STREAM: Final = "bare"
REPLICAS: Final = 3
MAX_BYTES: Final = 2 * 1024 * 1024 * 1024


class Publication(msgspec.Struct):
    """Number and size of messages, and how many wait for an acknowledgement at once."""

    urls: str
    message_bytes: int
    messages: int
    in_flight: int


class Published(msgspec.Struct):
    """Messages a second, and CPU time of each."""

    per_s: float
    cpu_us: float


async def publish(publication: Publication) -> Published:
    """Publish to a new stream of three replicas, and remove it."""
    client = await nats.connect(publication.urls.split(","))
    stream = client.jetstream(timeout=ACK_S)
    await stream.add_stream(
        StreamConfig(
            name=STREAM,
            subjects=[f"{STREAM}.*"],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            max_bytes=MAX_BYTES,
            num_replicas=REPLICAS,
        )
    )
    left = iter(repeat(bytes(publication.message_bytes), publication.messages))

    async def publish_some() -> None:
        for message in left:
            await stream.publish(f"{STREAM}.1", message, timeout=ACK_S)

    try:
        started, cpu_started = time.perf_counter(), time.process_time()
        await asyncio.gather(*(publish_some() for _ in range(publication.in_flight)))
        taken_s = time.perf_counter() - started
        cpu_s = time.process_time() - cpu_started
    finally:
        await stream.delete_stream(STREAM)
        await client.close()
    messages = publication.messages
    return Published(messages / taken_s, cpu_s / messages * 1e6)


async def wipe(url: str, stream: str) -> tuple[int, int]:
    """Remove all messages of a stream; return their number and size in bytes."""
    client = await nats.connect(url)
    try:
        manager = client.jsm()
        state = (await manager.stream_info(stream)).state
        await manager.purge_stream(stream)
        return state.messages, state.bytes
    finally:
        await client.close()


if __name__ == "__main__":
    arguments = msgspec.json.decode(sys.argv[1], type=Publication)
    print(msgspec.json.encode(uvloop.run(publish(arguments))).decode())
