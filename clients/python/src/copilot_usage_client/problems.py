"""Problems of events, as `on_error` receives them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("copilot_usage_client")


@dataclass(frozen=True)
class Problem:
    """A problem of one or several events.

    `code` is one of the codes in the README. `event` is the event where the problem
    has a single one: as it is sent, or for `invalid` as it was given to `track`.
    `errors` are the errors that the service found, each with `code`, `path` and
    `message`.
    """

    code: str
    message: str
    events: int = 1
    event: dict[str, Any] | None = None
    errors: tuple[dict[str, Any], ...] = ()

    @property
    def event_id(self) -> str | None:
        """Id of the event, where the problem has a single one that has an id."""
        found = (self.event or {}).get("id")
        return found if isinstance(found, str) else None


OnError = Callable[[Problem], None]
Report = Callable[[Problem], None]


def reporter(on_error: OnError | None) -> Report:
    """Return a function that calls `on_error`, or logs; it never raises."""

    def report(problem: Problem) -> None:
        if on_error is None:
            _log(problem)
            return
        try:
            on_error(problem)
        except Exception:
            # The callback belongs to the application; delivery goes on.
            log.exception("on_error failed for the problem %s", problem.code)

    return report


def _log(problem: Problem) -> None:
    # Without the content of events, which may be personal.
    log.error(
        "%s: %s (events: %d, id: %s, errors: %s)",
        problem.code,
        problem.message,
        problem.events,
        problem.event_id,
        [error.get("code") for error in problem.errors],
    )
