"""Errors of usage; `snapshots.errors` has those of queries on a snapshot.

UsageError
├── RefreshFailed            the period could not be computed
│   ├── MessagesUnavailable  upstream returned no usable messages
│   │   └── ShrinkUnconfirmed  the list has lost most messages, and is not confirmed
│   ├── ReportUnavailable    a report could not be resolved
│   ├── DeadlineExceeded     the whole refresh took too long
│   └── WorkerLost           the child process of a large period is gone, or hangs
└── UnknownPlan              no plan has this name
"""

from collections.abc import Iterable

from service.web.parameters import quoted


class UsageError(Exception):
    """A request that the usage domain cannot answer."""


class RefreshFailed(UsageError):
    """The period could not be computed; `retry_after_s` is the upstream's, if any."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class MessagesUnavailable(RefreshFailed):
    """The upstream returned no usable list of messages."""


class ShrinkUnconfirmed(MessagesUnavailable):
    """The list has lost most messages; a second fetch has to confirm that."""


class ReportUnavailable(RefreshFailed):
    """A report could not be resolved, and its messages may not be priced by text."""


class DeadlineExceeded(RefreshFailed):
    """The refresh was not finished within its deadline."""


class WorkerLost(RefreshFailed):
    """The child process of a large period is gone, or does not answer in time."""

    def __init__(
        self, reason: str = "the process that priced the period is gone"
    ) -> None:
        super().__init__(reason)


class UnknownPlan(UsageError):
    """No plan has this name; `known` lists those that exist."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.known = tuple(known)
        super().__init__(
            f"unknown plan {quoted(name)!r}; known: {', '.join(self.known)}"
        )
