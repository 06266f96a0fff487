"""Errors of queries on a snapshot; they can be pickled.

SnapshotError
├── MessageNotFound  the snapshot has no such message
├── CursorExpired    the next page cannot continue after the previous one
├── RangeNotCovered  the range ends before the first message
├── RevisionGone     the worker does not have the snapshot
└── TextsMissing     the snapshot came from another process, without its texts

ChunkDamaged is a ValueError: what the database has of a kept period is damaged.
"""

from typing import Final

MAX_QUOTED_CHARACTERS: Final = 80


class SnapshotError(Exception):
    """A query that the snapshot cannot answer."""


class MessageNotFound(SnapshotError):
    """The current period has no message with this id."""

    def __init__(self, message_id: int | str) -> None:
        super().__init__(message_id)

    def __str__(self) -> str:
        shown = str(self.args[0])
        if len(shown) > MAX_QUOTED_CHARACTERS:
            shown = shown[: MAX_QUOTED_CHARACTERS - 1] + "…"
        return f"the current period has no message {shown}"


class CursorExpired(SnapshotError):
    """The next page cannot continue after the previous one; the text says why."""


class RangeNotCovered(SnapshotError):
    """The range ends before the first message of the current period."""

    def __init__(self, begin: str) -> None:
        super().__init__(begin)

    def __str__(self) -> str:
        return f"the range ends before the current period: {self.args[0]}/.."


class ChunkDamaged(ValueError):
    """A part of a kept period in the database is not what was stored."""


class RevisionGone(SnapshotError):
    """The worker does not have the snapshot that a query names."""


class TextsMissing(SnapshotError):
    """Another plan needs the texts, and this snapshot has none."""
