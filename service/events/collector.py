"""Collecting: from a request's body to its receipt, and failed events once more."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from service import metrics
from service.events.errors import ReplayRefused
from service.events.ingest import Ingest, result_of, running_ingest
from service.events.model import Failure, Receipt, Result
from service.events.questions import Questions
from service.events.reading import EventReader, split_body
from service.events.retention import Retention
from service.events.schemas import load_types
from service.events.store import EventStore
from service.settings import Events as EventSettings
from service.settings import config_folder
from service.storage.database import Database

log = structlog.get_logger()


class Collector:
    """All that is done with events; `open_collector` makes one."""

    def __init__(
        self,
        settings: EventSettings,
        database: Database,
        ingest: Ingest,
        reader: EventReader,
    ) -> None:
        self.settings = settings
        self.questions = Questions(database)
        self._store = EventStore(database)
        self._ingest = ingest
        self._reader = reader

    async def collect(
        self, body: bytes, content_type: str, application: str
    ) -> Receipt:
        """Store the events of a request's body; they are on disk when this returns.

        Raises `BadBody`, `BacklogFull` and `StorageError`; then nothing is stored.
        """
        sources = split_body(body, content_type, self.settings.max_events)
        items = [self._reader.read(source, application) for source in sources]
        receipt = await self._ingest.take(items)
        _note(receipt, application)
        return receipt

    async def replay(self, application: str, failed_id: str) -> Result:
        """Check a failed event again; it is one no more where it keeps its contract.

        Raises `FailedEventNotFound`, `ReplayRefused` and `StorageError`.
        """
        source = await self.questions.find_failed(application, failed_id)
        event = self._reader.read(source.encode(), application)
        if isinstance(event, Failure):
            reasons = "; ".join(
                f"{each.path or '/'}: {each.message}" for each in event.errors
            )
            raise ReplayRefused(reasons)
        (arrival,) = self._ingest.arrive([event])
        stored = await self._store.replay(failed_id, arrival)
        result = result_of(event, stored)
        log.info(
            "events.replayed",
            application=application,
            failed_id=failed_id,
            status=result.status,
        )
        metrics.event_replayed(result.status)
        return result


@asynccontextmanager
async def open_collector(
    settings: EventSettings, database: Database
) -> AsyncIterator[Collector]:
    """Collect as long as this lasts; at its end all that was taken is stored."""
    folder = Path(settings.types_folder) if settings.types_folder else None
    types = load_types(settings, folder or config_folder() / "event_types")
    reader = EventReader(types, settings.future_skew_s)
    async with AsyncExitStack() as stack:
        ingest = await stack.enter_async_context(
            running_ingest(settings, EventStore(database))
        )
        retention = Retention(settings, database)
        if retention.is_on:
            removing = asyncio.create_task(retention.run())
            stack.push_async_callback(_end, removing)
        yield Collector(settings, database, ingest, reader)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _note(receipt: Receipt, application: str) -> None:
    """Say and count what became of a request's events."""
    results = receipt.results
    codes = [error.code for each in results for error in each.errors or ()]
    statuses: Counter[str] = Counter([each.status for each in results])
    metrics.events_received(statuses, codes)
    log.info(
        "events.received",
        application=application,
        accepted=receipt.accepted,
        duplicates=receipt.duplicates,
        failed=receipt.failed,
    )
