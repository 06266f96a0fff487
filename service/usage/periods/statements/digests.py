"""Statements: the digests of closed periods, each chained with the one before.

A digest covers the lines of `head_of`, and the period as CSV. docs/keep-periods.md
describes the form, which must not change.
"""

import hashlib
from typing import Final

from msgspec import Struct

from service.instants import format_instant
from service.usage.periods.model import KeptPeriod
from service.usage.snapshots.formats import CSV_HEAD

FIRST_PREVIOUS: Final = "0" * 64
"""Stands for the digest of the statement before the first one."""


class Statement(Struct, frozen=True, kw_only=True):
    """The digest of a closed period; times in microseconds since 1970."""

    period_number: int
    period: str
    previous_digest: str
    """SHA-256 in hexadecimal digits, as `digest`."""
    digest: str
    sealed_at: int
    removed_at: int | None = None
    """The time at which retention removed the period; its statement stays."""


class StatementHash:
    """Computes the digest of a statement, while its CSV is made."""

    def __init__(self, previous_digest: str, period: KeptPeriod) -> None:
        self._hash = hashlib.sha256(head_of(previous_digest, period) + CSV_HEAD)

    def add(self, lines: bytes) -> None:
        """Add the next lines of CSV."""
        self._hash.update(lines)

    def hexdigest(self) -> str:
        """Return the digest of all rows so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def head_of(previous_digest: str, period: KeptPeriod) -> bytes:
    """Return the four lines before the CSV, as `GET /usage/periods` has their values.

    They are the digest of the statement before, the id, the plan and `closed_at`.
    """
    closed_at = "" if period.closed_at is None else format_instant(period.closed_at)
    lines = previous_digest, period.period, period.plan, closed_at
    return "".join(f"{line}\n" for line in lines).encode()
