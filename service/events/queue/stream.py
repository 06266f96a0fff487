"""The stream: created if it is absent."""

from typing import Final

from nats.aio.client import Client
from nats.js import api
from nats.js.errors import NotFoundError

from service.events.queue.connection import translated
from service.settings import EventsSettings

API_S: Final = 5.0
"""Time limit of one call of the stream's administration."""


def config_of(settings: EventsSettings) -> api.StreamConfig:
    """Return the configuration of a new stream."""
    return api.StreamConfig(
        name=settings.queue_stream,
        description=f"partitions={settings.queue_partitions}",
        subjects=[f"{settings.queue_stream}.*"],
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.NEW,
        num_replicas=settings.queue_replicas,
        max_bytes=settings.queue_max_bytes,
        max_age=settings.queue_max_age_s,
        duplicate_window=settings.queue_duplicate_window_s,
    )


async def ensure_stream(client: Client, settings: EventsSettings) -> None:
    """Create the stream if it is absent; raises `QueueUnavailable`."""
    manager = client.jetstream(timeout=API_S)
    with translated():
        try:
            await manager.stream_info(settings.queue_stream)
        except NotFoundError:
            await manager.add_stream(config_of(settings))
