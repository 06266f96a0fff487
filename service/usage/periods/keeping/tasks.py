"""The background tasks that keep periods, as the settings have them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from service.settings import Settings
from service.storage.database import Database
from service.storage.errors import StorageError
from service.storage.maintenance import in_background
from service.usage.periods.calendar import Schedule
from service.usage.periods.keeping.closing import Closing, MonthSource
from service.usage.periods.keeping.months import Months
from service.usage.periods.keeping.recorder import Recorder, running_recorder
from service.usage.periods.keeping.retention import PeriodRetention
from service.usage.periods.keeping.upstream_periods import UpstreamPeriods
from service.usage.periods.observer import PeriodObserver, UnobservedPeriods
from service.usage.periods.statements.sealing import Sealing


@asynccontextmanager
async def running_keeping(
    settings: Settings,
    database: Database,
    schedule: Schedule,
    source: MonthSource,
    observer: PeriodObserver | None = None,
) -> AsyncIterator[Recorder]:
    """Run what keeps periods, and closes and seals them; return what receives them."""
    observer = observer or UnobservedPeriods()
    sealing = Sealing(database, settings.usage.own_process_bytes)
    retention = PeriodRetention(settings.periods.retention, database, observer.parts)
    async with (
        in_background(sealing.run()),
        in_background(retention.run()),
    ):
        keep_texts = settings.periods.keep_texts
        if not settings.has_calendar:
            keeper = UpstreamPeriods(database, observer, keep_texts=keep_texts)
            async with running_recorder(keeper) as recorder:
                yield recorder
            return
        months = Months(
            database,
            observer,
            schedule,
            is_complete=source.is_complete,
            keep_texts=keep_texts,
        )
        # Before the first refresh, which needs the bounds of the month.
        with suppress(StorageError):
            await months.learn()
        closing = Closing(months, source, settings.periods.grace_s)
        async with (
            running_recorder(months) as recorder,
            in_background(closing.run()),
        ):
            yield recorder
