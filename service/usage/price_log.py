"""The log of prices: every step of the messages that a refresh has priced."""

import asyncio
from typing import Final

import structlog

from service.usage.books import Priced, RatedMessage

LOGGED_AT_ONCE: Final = 20
"""Messages whose steps are logged before other requests get their turn."""

log = structlog.get_logger()


async def log_prices(priced: Priced) -> None:
    """Log each step of the messages priced now, letting other requests in between."""
    for number, message in enumerate(priced.rated, start=1):
        _log_message(priced.plan, message)
        if number % LOGGED_AT_ONCE == 0:
            await asyncio.sleep(0)
    if priced.omitted:
        log.info("credits.steps_omitted", messages=priced.omitted)


def _log_message(plan: str, message: RatedMessage) -> None:
    bound = log.bind(message_id=message.message_id)
    for step in message.steps:
        bound.info(
            "credits.step",
            plan=plan,
            step=step.step,
            credits=step.credits,
            total=step.total,
        )
    named = {"report_id": message.report_id} if message.source == "report" else {}
    bound.info(
        "credits.rated",
        source=message.source,
        **named,
        credits_used=message.credits_used,
    )
