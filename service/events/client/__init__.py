"""A client for asyncio applications that send events to the service.

    async with EventsClient("https://usage.example.com", key) as events:
        await events.send("page interaction", "pageview", data, session_id=session)

`send` puts an event into a buffer and does not wait for the service. A background task
sends the buffered events in batches. It repeats a batch with the same ids until the
service accepts it, so a lost response duplicates no event. The buffer is bounded:
during a long outage `send` raises `BufferFull`.
"""

from service.events.client.buffer import BufferFull
from service.events.client.delivery import Undelivered
from service.events.client.events_client import EventsClient

__all__ = ["BufferFull", "EventsClient", "Undelivered"]
