"""The log lines of prices: each step, and the resulting price of a message."""

import asyncio
from typing import Final

import structlog

from service.usage.snapshots.logged_prices import LoggedPrice, Priced

LOGGED_AT_ONCE: Final = 10
"""Messages whose steps are logged before the event loop serves other requests."""

log = structlog.get_logger()


async def log_prices(priced: Priced) -> None:
    """Log each step of the messages that were priced now, a few at a time."""
    for number, price in enumerate(priced.logged, start=1):
        _log_price(priced.summary.plan, price)
        if number % LOGGED_AT_ONCE == 0:
            await asyncio.sleep(0)
    if priced.omitted:
        log.info("credits.steps_omitted", messages=priced.omitted)


def _log_price(plan: str, price: LoggedPrice) -> None:
    bound = log.bind(message_id=price.message_id)
    for step in price.steps:
        bound.info(
            "credits.step",
            plan=plan,
            step=step.step,
            credits=step.credits,
            total=step.total,
        )
    named = {"report_id": price.report_id} if price.source == "report" else {}
    bound.info(
        "credits.rated",
        source=price.source,
        **named,
        credits_used=price.credits_used,
    )
