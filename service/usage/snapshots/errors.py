"""Errors of queries on a snapshot. They travel between processes, so they pickle.

SnapshotError
├── MessageNotFound  the snapshot has no such message
├── CursorExpired    the row at which the last page ended is gone
├── RevisionGone     the worker does not have the snapshot, or not any more
└── TextsMissing     the snapshot came from another process, without its texts
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
    """The message at which the previous page ended is not in the period any more."""


class RevisionGone(SnapshotError):
    """The worker does not have the snapshot that a query names."""


class TextsMissing(SnapshotError):
    """Only the texts can tell another plan's prices, and this snapshot has none."""
