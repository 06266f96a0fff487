"""What can go wrong with a period.

UsageError
├── RefreshFailed            the period could not be computed
│   ├── MessagesUnavailable  upstream gave no usable messages
│   ├── ReportUnavailable    a report could not be settled
│   ├── DeadlineExceeded     the whole refresh took too long
│   └── BooksLost            the process that kept a large period is gone
├── MessageNotFound          the period has no such message
├── UnknownPlan              no plan of that name
└── CursorExpired            the page's starting point is gone
"""

from collections.abc import Iterable

from service.parameters import quoted


class UsageError(Exception):
    """Something that the usage domain cannot answer."""


class RefreshFailed(UsageError):
    """The period could not be computed; `retry_after_s` is upstream's wish, if any."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class MessagesUnavailable(RefreshFailed):
    """Upstream gave no usable list of messages."""


class ReportUnavailable(RefreshFailed):
    """A report could not be settled, and guessing its price is not allowed."""


class DeadlineExceeded(RefreshFailed):
    """The refresh was not finished within its deadline."""


class BooksLost(RefreshFailed):
    """The process that kept a large period is gone."""

    def __init__(
        self, reason: str = "the process that kept the period is gone"
    ) -> None:
        super().__init__(reason)


class MessageNotFound(UsageError):
    """The current period has no message with this id."""

    def __init__(self, message_id: int | str) -> None:
        super().__init__(message_id)  # as it came: errors travel between processes

    def __str__(self) -> str:
        return f"the current period has no message {quoted(str(self.args[0]))}"


class UnknownPlan(UsageError):
    """No plan goes by this name; `known` lists those that exist."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.known = tuple(known)
        super().__init__(
            f"unknown plan {quoted(name)!r}; known: {', '.join(self.known)}"
        )


class CursorExpired(UsageError):
    """The message at which the previous page ended is not in the period any more."""
