"""Receipts: the outcome of a request's events, in the order sent."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from msgspec import UNSET, UnsetType

from service.events.model import Event, EventFailure, EventResult, Receipt
from service.events.store import NEW, Stored


def end_with_receipt(
    items: Sequence[Event | EventFailure],
    end: Callable[[Receipt | Exception], None],
    outcome: list[Stored] | Exception,
) -> None:
    """Pass on the receipt of a request's events, or the error."""
    if isinstance(outcome, Exception):
        end(outcome)
    else:
        end(receipt_of(_results(items, outcome)))


def complete(receipt: asyncio.Future[Receipt], outcome: Receipt | Exception) -> None:
    """Give a waiting request its receipt, or the error."""
    # The future of a cancelled request is cancelled.
    if receipt.done():
        return
    if isinstance(outcome, Exception):
        receipt.set_exception(outcome)
    else:
        receipt.set_result(outcome)


def _results(
    items: Sequence[Event | EventFailure], stored: Iterable[Stored]
) -> list[EventResult]:
    return [
        # Nearly all are new: `result_of` would double the cost of the receipt.
        EventResult(item.id, "accepted")
        if each is NEW and isinstance(item, Event)
        else result_of(item, each)
        for item, each in zip(items, stored, strict=False)
    ]


def receipt_of(
    results: list[EventResult], *, is_stored: bool | UnsetType = UNSET
) -> Receipt:
    """Return the receipt with these results."""
    statuses = [result.status for result in results]
    return Receipt(
        accepted=statuses.count("accepted"),
        duplicates=statuses.count("duplicate"),
        failed=statuses.count("failed") + statuses.count("conflict"),
        results=results,
        stored=is_stored,
    )


def receipt_before_storage(items: Sequence[Event | EventFailure]) -> Receipt:
    """Return the receipt of events that a queue has; failures are known already."""
    return receipt_of(_results(items, repeat(NEW)), is_stored=False)


def result_of(item: Event | EventFailure, stored: Stored) -> EventResult:
    """Return the result of one event for the receipt."""
    if isinstance(item, EventFailure):
        return EventResult(item.event_id, "failed", item.errors, item.id)
    if (conflict := stored.conflict) is not None:
        return EventResult(item.id, "conflict", conflict.errors, conflict.id)
    return EventResult(item.id, "accepted" if stored.is_new else "duplicate")
