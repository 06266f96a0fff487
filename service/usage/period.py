"""The current period: fetch its messages, settle its reports, price it, say so.

This is where the steps of a refresh meet, and the only place of usage that logs
prices: rating itself is pure.
"""

import asyncio
import time
from typing import Final, NamedTuple

import structlog

from service.settings import Settings
from service.upstream.client import UpstreamClient
from service.upstream.errors import UpstreamError
from service.usage.errors import (
    DeadlineExceeded,
    MessagesUnavailable,
    RefreshFailed,
    UnknownPlan,
)
from service.usage.ledger import Ledger, Messages, price, read_messages, to_credits
from service.usage.rating import PLANS, Plan
from service.usage.reports import Reports, Settled, log_invalid_id

MESSAGES_PATH: Final = "/messages/current-period"
MAX_LOGGED_INVALID_IDS: Final = 100

log = structlog.get_logger()


class Fetched(NamedTuple):
    """What upstream said in one refresh, before any plan."""

    messages: Messages
    settled: Settled


class CurrentPeriod:
    """Answers what the current period has used, under any plan."""

    def __init__(self, settings: Settings, client: UpstreamClient) -> None:
        self._client = client
        self._deadline_s = settings.upstream.deadline_s
        self._default_plan = settings.usage.plan
        self._steps_per_refresh = settings.logging.steps_per_refresh
        self._reports = Reports(
            client, settings.upstream.concurrency, settings.usage.on_report_error
        )
        self._ledgers: dict[str, Ledger] = {}

    async def current(self, plan_name: str | None = None) -> Ledger:
        """The period priced under a plan, the configured one by default.

        Raises `UnknownPlan` or `RefreshFailed`; takes `deadline_s` at most.
        """
        plan = find_plan(self._default_plan if plan_name is None else plan_name)
        started = time.perf_counter()
        log.info("usage.refresh.started", plan=plan.id)
        try:
            ledger = await self._refresh(plan)
        except RefreshFailed as error:
            log.error(
                "usage.refresh.failed",
                plan=plan.id,
                duration_s=_since(started),
                reason=str(error),
                **{"error.type": type(error).__name__},
            )
            raise
        self._log_finished(ledger, started)
        return ledger

    async def _refresh(self, plan: Plan) -> Ledger:
        try:
            async with asyncio.timeout(self._deadline_s):
                fetched = await self._fetch()
        except TimeoutError:
            raise DeadlineExceeded(f"not finished in {self._deadline_s} s") from None
        ledger = price(*fetched, plan, self._ledgers.get(plan.id))
        self._log_prices(ledger)
        self._ledgers[plan.id] = ledger
        return ledger

    async def _fetch(self) -> Fetched:
        try:
            fetched = await self._client.fetch(MESSAGES_PATH, read_messages)
        except UpstreamError as error:
            raise MessagesUnavailable(
                str(error), retry_after_s=error.retry_after_s
            ) from error
        messages = fetched.value
        for report_id in list(messages.invalid_ids.values())[:MAX_LOGGED_INVALID_IDS]:
            log_invalid_id(report_id)
        return Fetched(messages, await self._reports.settle(messages.distinct_keys))

    def _log_prices(self, ledger: Ledger) -> None:
        """Log each step of the messages priced now, as far as the settings want it."""
        rows = ledger.fresh[: self._steps_per_refresh].tolist()
        plan = ledger.plan.id
        for row, steps in zip(rows, ledger.steps(rows), strict=True):
            message_id = ledger.messages.all[row].id
            bound = log.bind(message_id=message_id)
            for step in steps:
                bound.info(
                    "credits.step",
                    plan=plan,
                    step=step.step,
                    credits=step.credits,
                    total=step.total,
                )
            source = ledger.source(row)
            named = (
                {"report_id": ledger.messages.keys[row]} if source == "report" else {}
            )
            bound.info(
                "credits.rated",
                source=source,
                **named,
                credits_used=to_credits(int(ledger.hundredths[row])),
            )
        if omitted := len(ledger.fresh) - len(rows):
            log.info("credits.steps_omitted", messages=omitted)

    def _log_finished(self, ledger: Ledger, started: float) -> None:
        log.info(
            "usage.refresh.finished",
            plan=ledger.plan.id,
            messages=len(ledger),
            reports=len(ledger.settled.reports),
            missing_reports=ledger.missing_reports,
            credits_total=ledger.credits_total,
            duration_s=_since(started),
            reused=len(ledger) - len(ledger.fresh),
        )


def find_plan(name: str) -> Plan:
    """The plan of this name, with or without its version; else `UnknownPlan`."""
    for plan in PLANS.values():
        if name in {plan.name, plan.id}:
            return plan
    raise UnknownPlan(name, PLANS)


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 6)
