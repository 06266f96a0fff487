"""Watching of the stream: its metrics, and whether it can be used.

Each process reads the stream a few times a minute, with one small request.
"""

import asyncio
import random
from typing import Final

import structlog

from service.events.errors import QueueUnavailable
from service.events.queue import metrics
from service.events.queue.administration import problem_of, replica_states
from service.events.queue.connection import QueueConnection
from service.events.queue.overview import oldest_in
from service.events.queue.stream import partitions_of
from service.events.queue.stream_api import StreamInfo, config_in, read_stream
from service.instants import US_PER_S

INTERVAL_S: Final = (8.0, 12.0)
"""Pause between two requests; a range, so that many processes do not ask at once."""

RETRY_S: Final = 1.0
"""Pause while the stream cannot be used, as during an election."""

log = structlog.get_logger()

_chance: Final = random.SystemRandom()


class StreamWatch:
    """Reads the stream regularly; `problem` is why it cannot be used."""

    def __init__(self, connection: QueueConnection, stream: str) -> None:
        self.problem: str | None = None
        self._connection = connection
        self._stream = stream
        self._last: StreamInfo | None = None

    async def run(self) -> None:
        """Read the stream until this is cancelled."""
        while True:
            await self.read()
            pause_s = RETRY_S if self.problem else _chance.uniform(*INTERVAL_S)
            await asyncio.sleep(pause_s)

    async def read(self) -> None:
        """Read the stream once, and set the metrics."""
        try:
            info = await read_stream(self._connection.client, self._stream)
            measure(info)
        except (QueueUnavailable, ValueError) as error:  # or a format that is not known
            self.problem = str(error)
        else:
            self.problem = problem_of(info)
            self._report_replaced(info)
        metrics.stream_available(is_available=self.problem is None)

    def _report_replaced(self, info: StreamInfo) -> None:
        """Log that the stream is another one: events in the former one are lost."""
        last, self._last = self._last, info
        if last is not None and last.created != info.created:
            log.error(
                "events.queue_stream_replaced",
                stream=self._stream,
                created_at=info.created,
                messages=last.state.messages,
            )


def measure(info: StreamInfo) -> None:
    """Set the metrics of a stream."""
    oldest_at = oldest_in(info)
    metrics.stream_measured(
        info.state.messages,
        info.state.bytes,
        max(0, config_in(info).max_bytes),
        0.0 if oldest_at is None else oldest_at / US_PER_S,
    )
    metrics.replicas_measured(replica_states(info))
    metrics.partitions_measured(partitions_of(config_in(info)) or 0)
