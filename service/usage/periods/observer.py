"""Notice of kept figures, for what depends on them, such as budgets."""

from collections.abc import Sequence
from typing import Final, Protocol

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from service.usage.periods.model import KeptPeriod


class PeriodObserver(Protocol):
    """Receives the figures of the open period while they are published."""

    @property
    def parts(self) -> Sequence[Table]:
        """Tables with a `period_number`, whose rows are removed with their period."""

    async def published(self, connection: AsyncConnection, period: KeptPeriod) -> None:
        """Write what follows from a new revision, in the transaction that publishes it.

        Raises `StorageError`; then the revision is not published.
        """

    async def confirmed(self, period: KeptPeriod) -> None:
        """Note that a fresh snapshot has the figures of the published revision.

        It is called after each publication, and for each snapshot that changes nothing.
        Raises `StorageError`.
        """


class UnobservedPeriods:
    """The observer of periods on which nothing depends."""

    parts: Final = ()

    async def published(self, connection: AsyncConnection, period: KeptPeriod) -> None:
        """Write nothing."""

    async def confirmed(self, period: KeptPeriod) -> None:
        """Note nothing."""
