"""Kept periods and their changes, as the API answers them and as they are compared."""

from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType, field

from service.usage.snapshots.kept import DIGEST_BYTES, ChunkRef

DATE_CHARS: Final = len("2024-04-29")


class KeptPeriod(Struct, frozen=True, kw_only=True):
    """A row of a kept period; times in microseconds, credits in hundredths."""

    number: int
    period: str
    status: str
    revision: int
    plan: str
    first_at: int
    last_at: int
    messages: int
    hundredths: int
    degraded: int
    fetched_at: int
    chunks: bytes
    closed_at: int | None = None
    starts_at: int | None = None
    """The begin of a calendar month; None where the upstream decides."""
    ends_at: int | None = None
    texts: bytes | None = None
    """The digests of the texts of each chunk; None without texts."""

    @property
    def text_digests(self) -> list[bytes]:
        """The digests of the texts of each chunk; none without texts."""
        return split_digests(self.texts or b"")

    @property
    def begins_on(self) -> str:
        """The date of its id, without a number: `2024-04-29`."""
        return self.period[:DATE_CHARS]

    @property
    def digests(self) -> list[bytes]:
        """The digests of the chunks, in the order of the messages."""
        return split_digests(self.chunks)


class Adjustments(Struct, frozen=True, kw_only=True):
    """Messages after the closing of a period; times and credits as for a period."""

    period_number: int
    revision: int = 0
    fetched_at: int = 0
    messages: int = 0
    hundredths: int = 0
    chunks: bytes = b""


class SnapshotContent(Struct, frozen=True, kw_only=True):
    """A snapshot to be kept: its totals, and its chunks."""

    plan: str
    first_at: int
    last_at: int
    messages: int
    hundredths: int
    degraded: int
    fetched_at: int
    begins_on: str
    chunks: list[ChunkRef]
    texts: list[bytes]
    """The digests of the texts of each chunk; none without texts."""
    outline: bytes
    """As `snapshots.outline` encodes it."""

    @property
    def digests(self) -> bytes:
        """The digests of the chunks, one after the other."""
        return b"".join(each.digest for each in self.chunks)


def split_digests(chunks: bytes) -> list[bytes]:
    """Return digests that are stored one after the other."""
    return [
        chunks[at : at + DIGEST_BYTES] for at in range(0, len(chunks), DIGEST_BYTES)
    ]


class ChangeKind(StrEnum):
    """The reason why the credits of a message, or its report, changed."""

    ADDED = "added"
    REMOVED = "removed"
    TEXT_CHANGED = "text_changed"
    REPORT_CHANGED = "report_changed"
    REPORT_MISSING = "report_missing"
    REPORT_FOUND = "report_found"
    PLAN_CHANGED = "plan_changed"
    ADJUSTMENT = "adjustment"


class Change(NamedTuple):
    """A change of one message; credits in hundredths."""

    kind: ChangeKind
    message_id: int
    before: int
    after: int
    reason: str


class PeriodItem(Struct, frozen=True, kw_only=True):
    """A kept period; `from` and `to` are the times of its first and last message."""

    period: str
    status: Literal["open", "closed"]
    first: Annotated[str, Meta(description="The time of the first message.")] = field(
        name="from"
    )
    last: Annotated[str, Meta(description="The time of the last message.")] = field(
        name="to"
    )
    messages: int
    credits_used: float
    adjustments: Annotated[
        float,
        Meta(description="Credits of messages that came after it was closed."),
    ]
    revision: int
    plan: str
    closed_at: str | UnsetType = UNSET
    digest: Annotated[
        str | UnsetType,
        Meta(description="The digest of the statement, soon after the period closes."),
    ] = UNSET
    previous_digest: Annotated[
        str | UnsetType,
        Meta(description="The digest of the statement before, which `digest` covers."),
    ] = UNSET


class PeriodsAnswer(Struct, frozen=True):
    """The kept periods, the newest first."""

    periods: list[PeriodItem]


class ChangeItem(Struct, frozen=True, kw_only=True):
    """A change of one message, and the revision of the period that has it."""

    revision: int
    at: str
    kind: ChangeKind
    message_id: int
    credits_before: float
    credits_after: float
    reason: str


class ChangesAnswer(Struct, frozen=True, kw_only=True):
    """A page of changes; the credits are those before and after all of them."""

    period: str
    changes: list[ChangeItem]
    credits_before: float
    credits_after: float
    missed_snapshots: Annotated[
        int,
        Meta(description="Snapshots that nobody compared: what came and went is lost."),
    ]
