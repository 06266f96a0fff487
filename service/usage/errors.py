"""Errors of usage, beside those of queries in `snapshots.errors`.

UsageError
├── RefreshFailed            the period could not be computed
│   ├── MessagesUnavailable  upstream gave no usable messages
│   │   └── ShrinkUnconfirmed  it has lost most messages, and only said so once
│   ├── ReportUnavailable    a report could not be resolved
│   ├── DeadlineExceeded     the whole refresh took too long
│   └── WorkerLost           the process that keeps a large period is gone, or hangs
└── UnknownPlan              no plan has this name
"""

from collections.abc import Iterable

from service.parameters import quoted


class UsageError(Exception):
    """A request that the usage domain cannot answer."""


class RefreshFailed(UsageError):
    """The period could not be computed; `retry_after_s` is upstream's, if any."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class MessagesUnavailable(RefreshFailed):
    """Upstream gave no usable list of messages."""


class ShrinkUnconfirmed(MessagesUnavailable):
    """Upstream's list has lost most messages, which a second fetch has to confirm."""


class ReportUnavailable(RefreshFailed):
    """A report could not be resolved, and guessing its price is not allowed."""


class DeadlineExceeded(RefreshFailed):
    """The refresh was not finished within its deadline."""


class WorkerLost(RefreshFailed):
    """The process that keeps a large period is gone, or does not answer in time."""

    def __init__(
        self, reason: str = "the process that kept the period is gone"
    ) -> None:
        super().__init__(reason)


class UnknownPlan(UsageError):
    """No plan has this name; `known` lists those that exist."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.known = tuple(known)
        super().__init__(
            f"unknown plan {quoted(name)!r}; known: {', '.join(self.known)}"
        )
