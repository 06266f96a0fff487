"""The outbox: firings that are to be delivered, and the log of their deliveries.

A process claims a firing by the number of its next attempt, for `LEASE_S`. If it is
killed, another process takes the firing over afterwards; if it stops in order, at once.
The result of an attempt is stored only if no later attempt has begun.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta
from sqlalchemy import Row, Select, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.instants import US_PER_S, format_instant, now_us, read_instant
from service.storage.database import Database
from service.storage.uses import Use
from service.usage.budgets.errors import DeliveryNotFound, NoWebhook
from service.usage.budgets.model import Budget, DeliveryItem, Kind
from service.usage.budgets.retries import MAX_ATTEMPTS, MAX_WAIT_S, wait_after
from service.usage.budgets.tables import (
    PENDING,
    budgets,
    firings,
)

LEASE_S: Final = 30.0
"""Longer than an attempt may take."""
MAX_AHEAD_US: Final = int(2 * MAX_WAIT_S * US_PER_S)
"""A firing that is due later than any wait allows was written by a wrong clock."""
CANDIDATES: Final = 100
DELIVERY_ID: Final = re.compile(r"msg_[0-9a-f]{32}")

_CLAIMABLE: Final = (
    select(
        firings,
        budgets.c.name,
        budgets.c.webhook_url,
        budgets.c.webhook_host,
        budgets.c.webhook_secret,
        budgets.c.disabled_at,
    )
    .join(budgets, budgets.c.id == firings.c.budget_id)
    .where(firings.c.state == PENDING)
    # A first attempt does not wait behind those of receivers that have failed.
    .order_by(firings.c.attempts, firings.c.next_at)
    .limit(CANDIDATES)
)
_OLDEST: Final = (
    select(func.min(firings.c.fired_at))
    .join(budgets, budgets.c.id == firings.c.budget_id)
    .where(firings.c.state == PENDING)
)


class Claimed(NamedTuple):
    """A firing that this process delivers, and the number of the attempt."""

    id: str
    attempt: int
    max_attempts: int
    budget: str
    budget_id: str
    period: str
    kind: Kind
    percent: int
    payload: str
    url: str | None
    host: str | None
    secret: str | None
    is_disabled: bool

    @property
    def tries(self) -> int:
        """The number of the attempt since the firing, or since a retry by hand."""
        return self.attempt - self.max_attempts + MAX_ATTEMPTS


class Outcome(NamedTuple):
    """The result of an attempt."""

    state: str
    """The state of the firing; `PENDING` if another attempt follows."""
    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    disables: bool = False
    """True if the receiver wants no more deliveries."""


class DeliveryPlace(NamedTuple):
    """The place of a page: the last delivery before it."""

    fired_at: Annotated[int, Meta(ge=-(2**62), le=2**62)]
    id: Annotated[str, Meta(pattern=f"^{DELIVERY_ID.pattern}$")]


class Outbox:
    """Reads and writes firings; all methods raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_due(self, busy: Collection[str]) -> list[Claimed]:
        """Return firings that are due, but for those of busy hosts; none is claimed."""
        now = now_us()
        is_due = or_(firings.c.next_at <= now, firings.c.next_at > now + MAX_AHEAD_US)
        query = _CLAIMABLE.where(is_due)
        if busy:
            is_free = budgets.c.webhook_host.not_in(sorted(busy))
            query = query.where(or_(budgets.c.webhook_host.is_(None), is_free))
        async with self._database.reading(Use.BUDGETS) as connection:
            return [_claimed(row) for row in await connection.execute(query)]

    async def claim(self, chosen: Iterable[Claimed]) -> list[Claimed]:
        """Return those of the firings that this process may deliver now."""
        until = now_us() + int(LEASE_S * US_PER_S)
        claimed = []
        async with self._database.writing(Use.BUDGETS) as connection:
            # In one order in all processes, so that none waits for another in a circle.
            for each in sorted(chosen):
                values = {"attempts": each.attempt, "next_at": until}
                statement = _update_attempt(each.id, each.attempt - 1).values(values)
                if (await connection.execute(statement)).rowcount:
                    claimed.append(each)
        return claimed

    async def finish(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Store the result of an attempt; return False if a later one has begun."""
        now = now_us()
        values: dict[str, Any] = {
            "state": outcome.state,
            "last_status": outcome.status,
            "last_error": outcome.error,
        }
        if outcome.state == PENDING:
            wait_s = wait_after(claimed.tries, outcome.retry_after_s)
            values["next_at"] = now + int(wait_s * US_PER_S)
        else:
            values["ended_at"] = now
        async with self._database.writing(Use.BUDGETS) as connection:
            if outcome.disables:
                await _disable(connection, claimed, now)
            statement = _update_attempt(claimed.id, claimed.attempt).values(values)
            return bool((await connection.execute(statement)).rowcount)

    async def release(self, claimed: Iterable[Claimed]) -> None:
        """End claims whose attempts were cancelled; the firings are due at once.

        Such an attempt does not count: restarts end no delivery.
        """
        values = {"next_at": now_us(), "max_attempts": firings.c.max_attempts + 1}
        async with self._database.writing(Use.BUDGETS) as connection:
            for each in sorted(claimed):
                statement = _update_attempt(each.id, each.attempt).values(values)
                await connection.execute(statement)

    async def oldest_waiting(self) -> int | None:
        """Return when the oldest firing was that is not delivered yet."""
        async with self._database.reading(Use.BUDGETS) as connection:
            oldest: int | None = await connection.scalar(_OLDEST)
            return oldest

    async def of_period(self, period_number: int) -> Sequence[Row[Any]]:
        """Return the firings of a period, in the order of their thresholds."""
        query = (
            select(firings)
            .where(firings.c.period_number == period_number)
            .order_by(firings.c.kind.desc(), firings.c.percent)
        )
        async with self._database.reading(Use.BUDGETS) as connection:
            return (await connection.execute(query)).all()

    async def page(
        self, budget: Budget, place: DeliveryPlace | None, limit: int
    ) -> list[DeliveryItem]:
        """Return deliveries of a budget after a place, the newest first."""
        query = _of_budget(budget).limit(limit)
        if place is not None:
            key = tuple_(firings.c.fired_at, firings.c.id)
            query = query.where(key < tuple_(place.fired_at, place.id))
        async with self._database.reading(Use.BUDGETS) as connection:
            return [_item(row) for row in await connection.execute(query)]

    async def retry(self, budget: Budget, delivery: str) -> DeliveryItem:
        """Have a firing delivered again, now, with all its attempts.

        Raises `DeliveryNotFound` and `NoWebhook`.
        """
        # PostgreSQL fails at a zero byte.
        if not DELIVERY_ID.fullmatch(delivery):
            raise DeliveryNotFound(budget.name, delivery)
        if not budget.has_webhook:
            raise NoWebhook(budget.name)
        statement = (
            update(firings)
            .where(firings.c.id == delivery, firings.c.budget_id == budget.id)
            .values(
                state=PENDING,
                next_at=now_us(),
                max_attempts=firings.c.attempts + MAX_ATTEMPTS,
                ended_at=None,
            )
            .returning(firings)
        )
        async with self._database.writing(Use.BUDGETS) as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise DeliveryNotFound(budget.name, delivery)
        return _item(row)


def place_of(item: DeliveryItem) -> DeliveryPlace:
    """Return the place after a delivery."""
    return DeliveryPlace(read_instant(item.fired_at), item.id)


async def _disable(connection: AsyncConnection, claimed: Claimed, now: int) -> None:
    """Disable the webhook, unless it was replaced during the attempt."""
    await connection.execute(
        update(budgets)
        .where(budgets.c.id == claimed.budget_id, budgets.c.webhook_url == claimed.url)
        .values(disabled_at=now)
    )


def _update_attempt(firing: str, attempts: int) -> Any:
    return update(firings).where(
        firings.c.id == firing,
        firings.c.attempts == attempts,
        firings.c.state == PENDING,
    )


def _of_budget(budget: Budget) -> Select[Any]:
    return (
        select(firings)
        .where(firings.c.budget_id == budget.id)
        .order_by(firings.c.fired_at.desc(), firings.c.id.desc())
    )


def _claimed(row: Row[Any]) -> Claimed:
    return Claimed(
        id=row.id,
        attempt=row.attempts + 1,
        max_attempts=row.max_attempts,
        budget=row.name,
        budget_id=row.budget_id,
        period=row.period,
        kind=Kind(row.kind),
        percent=row.percent,
        payload=row.payload,
        url=row.webhook_url,
        host=row.webhook_host,
        secret=row.webhook_secret,
        is_disabled=row.disabled_at is not None,
    )


def _item(row: Row[Any]) -> DeliveryItem:
    known = {
        "next_attempt_at": _time(row.next_at if row.state == PENDING else None),
        "ended_at": _time(row.ended_at),
        "last_status": row.last_status,
        "last_error": row.last_error,
    }
    optional: dict[str, Any] = {
        name: value for name, value in known.items() if value is not None
    }
    return DeliveryItem(
        id=row.id,
        period=row.period,
        kind=Kind(row.kind),
        threshold=row.percent,
        fired_at=format_instant(row.fired_at),
        state=row.state,
        attempts=row.attempts,
        **optional,
    )


def _time(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)
