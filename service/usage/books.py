"""The books: one period's messages, and its ledger under each plan asked for.

All of it is plain computation without waiting, so that it runs where it disturbs
nobody: in the serving process for a small period, in one of its own for a large one
(`bookkeeping.py`). Arguments and results can therefore all be pickled.

A refresh goes in three steps, and only the last is seen by those who ask: `load` reads
the messages, `settle` prices them, `commit` puts them in place of the former ones. A
refresh that was given up may still compute when the next has begun: what it comes to
is dropped.
"""

import itertools
from typing import Any, Final, NamedTuple

from service.usage.errors import BooksLost
from service.usage.formats import FORMATS
from service.usage.ledger import (
    Body,
    Buffer,
    Ledger,
    Messages,
    read_messages,
    to_credits,
)
from service.usage.model import (
    DailyUsage,
    Explanation,
    Source,
    StepTaken,
    UsageByReport,
)
from service.usage.pricing import price
from service.usage.rating import Plan
from service.usage.reports import ReportKey, Settled
from service.usage.selection import Cursor, Selection, select
from service.usage.summaries import daily_usage, parse_zone, usage_by_report

MAX_INVALID_IDS_TOLD: Final = 100

PlanId = str


class Contents(NamedTuple):
    """What was loaded: how many messages, and the report ids that they name."""

    messages: int
    keys: list[ReportKey]
    invalid_ids: list[Any]
    """The first few report ids that cannot be asked for."""


class RatedMessage(NamedTuple):
    """A message priced now, told for the log."""

    message_id: int
    source: Source
    report_id: ReportKey | None
    credits_used: float
    steps: list[StepTaken]


class Priced(NamedTuple):
    """What pricing a period under one plan came to."""

    plan: PlanId
    messages: int
    reused: int
    degraded: int
    credits_total: float
    rated: list[RatedMessage]
    """The messages priced now, as many as were asked for."""
    omitted: int
    """How many more were priced now."""

    @property
    def headers(self) -> dict[str, str]:
        """What an answer's headers tell: the plan, and how many messages it prices by
        text for want of a report."""
        degraded = {"Usage-Degraded": str(self.degraded)} if self.degraded else {}
        return {"Usage-Plan": self.plan, **degraded}

    @property
    def bill(self) -> tuple[str, int, int, float]:
        """What is the same for whoever prices the same period."""
        return self.plan, self.messages, self.degraded, self.credits_total

    def all_reused(self) -> "Priced":
        """The same, of a refresh that has found nothing new."""
        return self._replace(reused=self.messages, rated=[], omitted=0)


class Extract(NamedTuple):
    """A selection of messages, encoded; and where the next page starts, if any."""

    body: bytes
    next: Cursor | None


class _Period(NamedTuple):
    """Messages, their reports, and their ledgers by the plan's id."""

    messages: Messages
    settled: Settled
    ledgers: dict[PlanId, Ledger]


class Books:
    """The period in force, and while a refresh goes on the one that will follow it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._load_number = 0
        self._loaded: Messages | None = None
        self._coming: _Period | None = None
        self._current: _Period | None = None

    def load(self, body: Body) -> Contents:
        """Read upstream's messages; `msgspec.DecodeError` if they break their form."""
        self._load_number = number = next(self._numbers)
        messages = read_messages(body)
        if number == self._load_number:
            self._loaded = messages
        return self._contents(messages)

    def load_again(self) -> Contents:
        """Take the current period's messages once more: upstream has no other."""
        self._load_number = next(self._numbers)
        self._loaded = self._in_force().messages
        return self._contents(self._loaded)

    def settle(self, settled: Settled, plan: Plan, most_told: int) -> list[Priced]:
        """Price what was loaded, its reports being settled.

        Under the plan given, and under each that the current period was asked for.
        Of the messages priced now, `most_told` are told of, for each plan.
        """
        number, loaded = self._load_number, self._loaded
        if loaded is None:
            raise RuntimeError("nothing is loaded")
        before = self._current.ledgers if self._current else {}
        plans = {plan.id: plan} | {name: each.plan for name, each in before.items()}
        ledgers = {
            name: price(loaded, settled, each, before.get(name))
            for name, each in plans.items()
        }
        if number == self._load_number:
            self._coming = _Period(loaded, settled, ledgers)
        return [tell(ledger, most_told) for ledger in ledgers.values()]

    def commit(self) -> None:
        """Put the settled period in the place of the current one."""
        self._current, self._coming, self._loaded = self._coming, None, None

    def clear(self) -> None:
        """Forget everything: another keeper has the period now."""
        self._loaded = self._coming = self._current = None

    def tell(self, plan: Plan, most_told: int) -> Priced:
        """What the current period came to under a plan."""
        return tell(self._ledger(plan), most_told)

    def answer(self, plan: Plan, media_type: str, *, is_coming: bool = False) -> Buffer:
        """The whole current period, or the settled one, in one of the formats."""
        ledger = self.ledger(plan, is_coming=is_coming)
        return FORMATS[media_type](ledger, None)

    def ledger(self, plan: Plan, *, is_coming: bool) -> Ledger:
        """The settled period's ledger if it `is_coming`, else the current one's."""
        return self._coming_ledger(plan) if is_coming else self._ledger(plan)

    def extract(self, plan: Plan, media_type: str, selection: Selection) -> Extract:
        """A page of the current period; `CursorExpired` where its start is gone."""
        ledger = self._ledger(plan)
        page = select(ledger, selection)
        return Extract(bytes(FORMATS[media_type](ledger, page.rows)), page.next)

    def explain(self, plan: Plan, message_id: int) -> Explanation:
        """Why a message costs what it costs; `MessageNotFound` without one."""
        return self._ledger(plan).explain(message_id)

    def daily(self, plan: Plan, zone: str | None) -> DailyUsage:
        """What each day of a time zone has used."""
        return daily_usage(self._ledger(plan), parse_zone(zone))

    def by_report(self, plan: Plan) -> UsageByReport:
        """What each report has used."""
        return usage_by_report(self._ledger(plan))

    def _in_force(self) -> _Period:
        if self._current is None:
            raise BooksLost
        return self._current

    def _ledger(self, plan: Plan) -> Ledger:
        """The current period under a plan, priced now if it was not yet."""
        period = self._in_force()
        if plan.id not in period.ledgers:
            period.ledgers[plan.id] = price(period.messages, period.settled, plan)
        return period.ledgers[plan.id]

    def _coming_ledger(self, plan: Plan) -> Ledger:
        if self._coming is None:
            raise RuntimeError("nothing is settled")
        return self._coming.ledgers[plan.id]

    def _contents(self, messages: Messages) -> Contents:
        references = messages.references
        invalid_ids = list(references.invalid_ids.values())[:MAX_INVALID_IDS_TOLD]
        return Contents(len(messages.all), references.keys, invalid_ids)


def tell(ledger: Ledger, most: int) -> Priced:
    """Sum a ledger up, and tell of at most so many of the messages priced now."""
    rows = ledger.fresh[:most].tolist()
    rated = [
        RatedMessage(
            message_id=ledger.messages.all[row].id,
            source=ledger.source(row),
            report_id=ledger.messages.key_of(row),
            credits_used=to_credits(int(ledger.hundredths[row])),
            steps=steps,
        )
        for row, steps in zip(rows, ledger.steps(rows), strict=True)
    ]
    return Priced(
        plan=ledger.plan.id,
        messages=len(ledger),
        reused=len(ledger) - len(ledger.fresh),
        degraded=ledger.degraded,
        credits_total=ledger.credits_total,
        rated=rated,
        omitted=len(ledger.fresh) - len(rows),
    )
