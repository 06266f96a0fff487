"""A span of time that decides which messages of a body are a snapshot."""

from hashlib import sha256
from typing import NamedTuple

import numpy as np

from service.usage.snapshots.messages import Messages
from service.usage.snapshots.parts import Parts


class Span(NamedTuple):
    """A billing month, in microseconds since 1970; `end` is exclusive."""

    begin: int
    end: int
    begins_on: str
    """The date on which it begins, in the zone of the calendar: `2024-04-29`."""


def within(messages: Messages, span: Span) -> Messages:
    """Return the messages of a span, in their order; the same object if all are.

    What lets the next body be decoded in part is not taken over.
    """
    instants = messages.instants
    rows = np.flatnonzero((instants >= span.begin) & (instants < span.end))
    if len(rows) == len(instants):
        return messages
    fractions, sent = messages.fractions, messages.sent
    digest = sha256(f"{messages.digest} {span.begin} {span.end}".encode())
    return messages._replace(
        ids=messages.ids[rows],
        timestamps=Parts([messages.timestamps.take(rows)]),
        instants=instants[rows],
        fractions=None if fractions is None else fractions[rows],
        sent=None if sent is None else Parts([sent.take(rows)]),
        report_of=messages.report_of[rows],
        digest=digest.hexdigest(),
        hashes=None,
        checkpoints=(),
    )


def count_earlier(messages: Messages, span: Span) -> int:
    """Return how many messages precede a span."""
    return int(np.count_nonzero(messages.instants < span.begin))
