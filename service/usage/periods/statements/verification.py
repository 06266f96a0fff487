"""Verification of all statements: the chain of digests, and each period in it."""

from collections.abc import AsyncIterator
from enum import StrEnum

from msgspec import Struct

from service.storage.database import Database
from service.usage.periods.statements.digests import FIRST_PREVIOUS, Statement
from service.usage.periods.statements.period_check import (
    Difference,
    OnChunk,
    PeriodCheck,
)
from service.usage.periods.statements.store import Link, StatementStore
from service.usage.periods.tables import CLOSED


class Result(StrEnum):
    """The result of a verification."""

    VERIFIED = "verified"
    DIFFERENT = "different"
    REMOVED = "removed"
    """Retention has removed the period; its digest is the anchor of the next one."""
    UNSEALED = "unsealed"
    """The period has closed, and has no digest yet."""


class Verified(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result for one period."""

    period: str
    result: Result
    messages: int | None = None
    digest: str | None = None
    difference: Difference | None = None


class Verification:
    """Verifies statements, the oldest first; methods raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._links: list[Link] = []

    async def open(self) -> int:
        """Read the chain, and return the number of chunks to check."""
        self._links = await StatementStore(self._database).chain()
        return sum(
            len(link.period.digests)
            for link in self._links
            if link.period is not None and link.statement is not None
        )

    async def run(self, on_chunk: OnChunk) -> AsyncIterator[Verified]:
        """Yield the result of each period."""
        before: Link | None = None
        last = max((each.number for each in self._links if each.statement), default=0)
        for link in self._links:
            yield await self._verify(link, before, last, on_chunk)
            before = link

    async def _verify(
        self, link: Link, before: Link | None, last: int, on_chunk: OnChunk
    ) -> Verified:
        statement, period = link.statement, link.period
        if statement is None:
            name = period.period if period else ""
            if link.number > last:
                return Verified(period=name, result=Result.UNSEALED)
            missing = Difference(what="its statement was removed")
            return Verified(period=name, result=Result.DIFFERENT, difference=missing)
        difference = _broken(link, before)
        is_removed = statement.removed_at is not None
        if difference is None and period is not None and not is_removed:
            check = PeriodCheck(self._database, period)
            difference = await check.run(statement, on_chunk)
        result = Result.REMOVED if is_removed else Result.VERIFIED
        return Verified(
            period=statement.period,
            result=Result.DIFFERENT if difference else result,
            messages=period.messages if period else None,
            digest=statement.digest,
            difference=difference,
        )


def _broken(link: Link, before: Link | None) -> Difference | None:
    """Return what is wrong with a statement, without its rows."""
    statement, period = link.statement, link.period
    assert statement is not None  # noqa: S101 - checked by the caller
    previous = before.statement if before else None
    if (reason := _broken_chain(statement, before, previous)) is not None:
        return Difference(what=reason)
    if statement.removed_at is not None:
        was_kept = previous is not None and previous.removed_at is None
        what = "an older period is kept, so retention cannot have removed this one"
        return Difference(what=what) if was_kept else None
    if period is None:
        return Difference(what="the period was removed, and not by retention")
    if period.status != CLOSED:
        return Difference(what=f"the period is {period.status}")
    if period.period != statement.period:
        what = f"the period is {period.period} in the list of periods"
        return Difference(what=what)
    return None


def _broken_chain(
    statement: Statement, before: Link | None, previous: Statement | None
) -> str | None:
    if before is not None and previous is None:
        return None  # reported for the one before
    digest = FIRST_PREVIOUS if previous is None else previous.digest
    if statement.previous_digest == digest:
        return None
    stated = statement.previous_digest
    return f"previous_digest is {stated}, and {digest} by the statement before"
