"""Budgets in the database: create, change, list and remove.

The secret of a webhook is stored as it is. A signature needs the secret itself, so a
digest would not do. A key in the settings, to encrypt it, would be on the same machine.
Only the delivery reads the secret; no answer, log line or command shows it again.
"""

import re
import secrets
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.instants import now_us
from service.storage.database import Database
from service.storage.errors import Collided
from service.storage.uses import Use
from service.upstream.errors import AddressRefused
from service.upstream.public_addresses import check_literal
from service.usage.budgets.errors import (
    BadBudget,
    BadName,
    BudgetNotFound,
    TooManyBudgets,
)
from service.usage.budgets.model import Budget, NewBudget, NewWebhook
from service.usage.budgets.signing import check_secret, new_secret
from service.usage.budgets.tables import budgets, firings
from service.usage.pricing.plans import HUNDREDTHS_PER_CREDIT

MAX_BUDGETS: Final = 100
"""Each published revision is compared with all of them, in its transaction."""
ID_BYTES: Final = 8
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_COLUMNS: Final = [each for each in budgets.c if each is not budgets.c.webhook_secret]
ALL: Final = select(*_COLUMNS).order_by(budgets.c.name)
UNCHANGED: Final = ALL.with_for_update(read=True)
LOCKED: Final = ALL.with_for_update()
"""All budgets, which nobody changes, or reads to change, until the transaction ends."""


class Stored(NamedTuple):
    """A stored budget, and what became of it."""

    budget: Budget
    is_created: bool
    secret: str | None
    """The secret of the webhook if it was created now; it is not shown again."""


class BudgetStore:
    """Reads and writes budgets; all methods raise `StorageError`."""

    def __init__(self, database: Database, *, allow_private: bool) -> None:
        self._database = database
        self._allow_private = allow_private

    async def list(self) -> list[Budget]:
        """Return all budgets, by name."""
        async with self._database.reading(Use.BUDGETS) as connection:
            return await read_budgets(connection)

    async def find(self, name: str) -> Budget:
        """Return a budget; raises `BudgetNotFound`."""
        _check_known(name)
        query = ALL.where(budgets.c.name == name)
        async with self._database.reading(Use.BUDGETS) as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise BudgetNotFound(name)
        return _budget_of(row._mapping)

    async def put(self, name: str, new: NewBudget) -> Stored:
        """Create a budget, or replace its content.

        Raises `BadName`, `BadBudget` and `TooManyBudgets`.
        """
        if not NAME.fullmatch(name):
            raise BadName
        if new.webhook is not None:
            check_webhook(new.webhook, allow_private=self._allow_private)
        try:
            return await self._put(name, new)
        except Collided:  # another request has created it in this moment
            return await self._put(name, new)

    async def _put(self, name: str, new: NewBudget) -> Stored:
        async with self._database.writing(Use.BUDGETS) as connection:
            query = select(budgets).where(budgets.c.name == name).with_for_update()
            row = (await connection.execute(query)).first()
            known = row.webhook_secret if row is not None else None
            values, created = _values_of(new, known)
            if row is None:
                await _insert(connection, name, values)
            else:
                await connection.execute(
                    update(budgets).where(budgets.c.id == row.id).values(values)
                )
            changed = await connection.execute(ALL.where(budgets.c.name == name))
            budget = _budget_of(changed.one()._mapping)
        return Stored(budget, row is None, created)

    async def remove(self, name: str) -> None:
        """Remove a budget and all it has fired; raises `BudgetNotFound`."""
        _check_known(name)
        try:
            await self._remove(name)
        except Collided:  # a process has claimed its firings in this moment
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        async with self._database.writing(Use.BUDGETS) as connection:
            # This waits for a transaction that fires, so that no firing remains.
            removed = await connection.execute(
                delete(budgets).where(budgets.c.name == name).returning(budgets.c.id)
            )
            budget_id = removed.scalar()
            if budget_id is None:
                raise BudgetNotFound(name)
            await connection.execute(
                delete(firings).where(firings.c.budget_id == budget_id)
            )


def _check_known(name: str) -> None:
    """Raise `BudgetNotFound` for a name that no budget can have."""
    # PostgreSQL fails at a zero byte.
    if not NAME.fullmatch(name):
        raise BudgetNotFound(name)


async def read_budgets(
    connection: AsyncConnection, query: Select[Any] = ALL
) -> list[Budget]:
    """Return all budgets, by name."""
    rows = await connection.execute(query)
    return [_budget_of(row._mapping) for row in rows]


def check_webhook(webhook: NewWebhook, *, allow_private: bool) -> None:
    """Raise `BadBudget` for a URL or a secret that is not accepted."""
    try:
        url = URL(webhook.url)
        host = url.raw_host
        # A look-up fails at a label that is empty or too long.
        host.encode("idna") if host else None
    except ValueError:
        raise BadBudget("webhook.url: expected a URL") from None
    schemes = ("https", "http") if allow_private else ("https",)
    if url.scheme not in schemes or not host or not webhook.url.isprintable():
        raise BadBudget(f"webhook.url: expected a URL of {' or '.join(schemes)}")
    # They would be sent to the receiver, and shown with its URL.
    if url.raw_user is not None or url.raw_password is not None:
        raise BadBudget("webhook.url: expected a URL without a user and a password")
    if not allow_private:
        try:
            check_literal(host)
        except AddressRefused as error:
            raise BadBudget(f"webhook.url: {error}") from None
    if webhook.secret is not None:
        check_secret(webhook.secret)


async def _insert(
    connection: AsyncConnection, name: str, values: dict[str, Any]
) -> None:
    number = await connection.scalar(select(func.count()).select_from(budgets))
    if (number or 0) >= MAX_BUDGETS:
        raise TooManyBudgets(f"there are {number} budgets, which is the maximum")
    await connection.execute(
        insert(budgets).values(
            id=secrets.token_hex(ID_BYTES),
            name=name,
            created_at=now_us(),
            checked_at=0,
            **values,
        )
    )


def _values_of(new: NewBudget, known: str | None) -> tuple[dict[str, Any], str | None]:
    """Return the columns of a budget's content, and the secret if it is created now."""
    webhook, secret, created = new.webhook, None, None
    if webhook is not None:
        secret = webhook.secret or known
        if secret is None:
            secret = created = new_secret()
    values = {
        "hundredths": round(new.credits * HUNDREDTHS_PER_CREDIT),
        "thresholds": _encode(new.thresholds),
        "forecast_thresholds": _encode(new.forecast_thresholds),
        "webhook_url": webhook and webhook.url,
        "webhook_host": webhook and URL(webhook.url).raw_host,
        "webhook_secret": secret,
        "disabled_at": None,
    }
    return values, created


def _encode(percents: tuple[int, ...]) -> str:
    return msgspec.json.encode(sorted(set(percents))).decode()


def _budget_of(row: RowMapping) -> Budget:
    lists = {
        name: msgspec.json.decode(row[name], type=tuple[int, ...])
        for name in ("thresholds", "forecast_thresholds")
    }
    return Budget(**{**row, **lists})
