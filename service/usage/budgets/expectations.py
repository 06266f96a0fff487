"""Forecasts of the open period for budgets, computed once a minute for all requests."""

from typing import Final

import msgspec

from service.instants import US_PER_S, now_us
from service.usage.budgets.model import ForecastItem
from service.usage.errors import UsageError
from service.usage.forecast.forecasts import Forecasts
from service.usage.periods.errors import PeriodError
from service.usage.periods.model import KeptPeriod
from service.usage.snapshot import DerivedAnswers
from service.usage.snapshots.errors import ChunkDamaged, SnapshotError

MINUTE_US: Final = 60 * US_PER_S

_decoder: Final = msgspec.json.Decoder(ForecastItem)


class Expectations:
    """Forecasts of kept periods, cached by their revisions."""

    def __init__(self, forecasts: Forecasts) -> None:
        self._forecasts = forecasts
        self._derived = DerivedAnswers()

    async def of(self, period: KeptPeriod) -> ForecastItem | None:
        """Return the forecast of a period; None if its days cannot be read now.

        Raises `StorageError`.
        """
        as_of = now_us()
        as_of -= as_of % MINUTE_US

        async def encode() -> bytes:
            return msgspec.json.encode(await self._forecasts.of_period(period, as_of))

        try:
            body = await self._derived.body(
                (period.number, period.revision, as_of), encode
            )
        except (PeriodError, SnapshotError, ChunkDamaged, UsageError):
            return None  # another revision has replaced it, or a worker has ended
        return _decoder.decode(body)
