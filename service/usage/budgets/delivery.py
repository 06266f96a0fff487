"""Delivery of firings: to their webhooks, or to the log.

Each process delivers what it has claimed in the outbox; there is no leader.
A host has at most `MAX_PER_HOST` attempts at once, so a slow receiver delays only
itself.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from service.storage.database import Database
from service.storage.errors import StorageError
from service.storage.maintenance import in_background, repeat_logged
from service.usage.budgets import metrics
from service.usage.budgets.outbox import Claimed, Outbox, Outcome
from service.usage.budgets.tables import DELIVERED, FAILED, LOGGED, PENDING
from service.usage.budgets.webhooks import WebhookClient

MAX_RUNNING: Final = 32
MAX_PER_HOST: Final = 2
POLL_S: Final = 2.0
"""Time after which a process looks for firings of others, and for retries."""
JITTER_S: Final = 0.5
RELEASE_S: Final = 1.0
"""Time limit of the release of claims, which a shutdown waits for."""

RESULTS: Final = {DELIVERED: "delivered", PENDING: "retried", FAILED: "failed"}

log = structlog.get_logger()


class Deliverer:
    """Delivers what is due, until it is cancelled."""

    def __init__(self, database: Database, webhooks: WebhookClient) -> None:
        self._outbox = Outbox(database)
        self._webhooks = webhooks
        self._is_wanted = asyncio.Event()
        self._is_wanted.set()
        self._running: dict[asyncio.Task[None], Claimed] = {}

    def wake(self) -> None:
        """Look for firings at once."""
        self._is_wanted.set()

    async def run(self) -> None:
        """Deliver for ever; a failure of the database is logged once."""
        try:
            await repeat_logged("budget.outbox_failed", self._deliver_due, 0.0)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        """Cancel the attempts, and release their claims for other processes."""
        running = dict(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        cancelled = [each for task, each in running.items() if task.cancelled()]
        if cancelled:
            # Otherwise their leases end. An unavailable database delays no shutdown.
            with suppress(StorageError, TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await self._outbox.release(cancelled)

    async def _deliver_due(self) -> None:
        """Wait until something may be due, and start attempts for what is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S + random.uniform(0, JITTER_S)):  # noqa: S311
                await self._is_wanted.wait()
        self._is_wanted.clear()
        while await self._start_some():
            pass
        metrics.waiting_since(await self._outbox.oldest_waiting())

    async def _start_some(self) -> int:
        """Claim firings that may be attempted now, and start; return their number."""
        by_host = Counter(each.host or "" for each in self._running.values())
        busy = {host for host, number in by_host.items() if number >= MAX_PER_HOST}
        free = MAX_RUNNING - len(self._running)
        if free <= 0:
            return 0
        chosen: list[Claimed] = []
        for each in await self._outbox.find_due(busy - {""}):
            host = each.host or ""
            if len(chosen) < free and (not host or by_host[host] < MAX_PER_HOST):
                by_host[host] += 1
                chosen.append(each)
        claimed = await self._outbox.claim(chosen) if chosen else []
        for each in claimed:
            self._start(each)
        return len(claimed)

    def _start(self, claimed: Claimed) -> None:
        task = asyncio.create_task(self._attempt(claimed))
        self._running[task] = claimed
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease ends, and the firing is attempted again.
            log.error("budget.delivery_failed", reason=str(error), exc_info=error)
        self.wake()

    async def _attempt(self, claimed: Claimed) -> None:
        """Deliver a firing, and store the outcome."""
        has_webhook = claimed.url is not None and not claimed.is_disabled
        if claimed.attempt == 1 or not has_webhook:
            _report(claimed, has_webhook=has_webhook)
        outcome = Outcome(LOGGED)
        if has_webhook:
            outcome = await self._webhooks.deliver(claimed)
            _record(claimed, outcome)
        with suppress(StorageError):
            # Otherwise the lease ends, and it is delivered again: at least once.
            await self._outbox.finish(claimed, outcome)


def _report(claimed: Claimed, *, has_webhook: bool) -> None:
    metrics.reached(claimed.kind)
    log.warning(
        "budget.threshold_reached",
        budget=claimed.budget,
        period=claimed.period,
        kind=claimed.kind.value,
        threshold=claimed.percent,
        delivery=claimed.id,
        webhook=has_webhook,
    )


def _record(claimed: Claimed, outcome: Outcome) -> None:
    metrics.attempted(RESULTS[outcome.state])
    values = {
        "budget": claimed.budget,
        "delivery": claimed.id,
        "attempt": claimed.attempt,
        "host": claimed.host,
        "http.response.status_code": outcome.status,
        "error.type": outcome.error,
    }
    known = {name: value for name, value in values.items() if value is not None}
    write = log.info if outcome.state == DELIVERED else log.warning
    write("budget.webhook", result=RESULTS[outcome.state], **known)
    if outcome.state == FAILED:
        log.error("budget.undeliverable", disabled=outcome.disables, **known)


@asynccontextmanager
async def running_deliverer(
    database: Database, webhooks: WebhookClient
) -> AsyncIterator[Deliverer]:
    """Run a deliverer; attempts that it has begun are cancelled at the end.

    Another process, or the next one, repeats them at once.
    """
    deliverer = Deliverer(database, webhooks)
    async with in_background(deliverer.run()):
        yield deliverer
