"""The check of the queue before a start, whose failure is one clear line."""

from typing import Final

from service.events.errors import QueueUnavailable
from service.events.queue.connection import connect, discard
from service.events.queue.stream import ensure_stream
from service.settings import EventsSettings

CLIENT: Final = "copilot-usage check"


async def check_queue(settings: EventsSettings) -> None:
    """Connect once, and create or compare the stream; raises `QueueUnavailable`."""
    try:
        client = await connect(settings, CLIENT)
        try:
            await ensure_stream(client, settings)
        finally:
            await discard(client)
    except QueueUnavailable as error:
        raise type(error)(f"events.queue_url: {error}") from error
