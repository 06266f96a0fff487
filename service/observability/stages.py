"""Stages of a request, such as its wait for a refresh, to explain slow requests.

Nothing is collected without `collect`; a stage then costs a few microseconds at most.
"""

import time
from contextvars import ContextVar
from typing import Final, Literal

Name = Literal["waited_in_lane", "refresh", "query", "read_body", "storage", "upstream"]
OTHER: Final = "other"
"""The time of a request in no stage."""


class Stages:
    """The time of one request in each stage; an inner stage interrupts an outer one."""

    __slots__ = ("_current", "_since", "_times")

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._current: Name | None = None
        self._since = 0.0

    def enter(self, name: Name | None) -> Name | None:
        """Begin a stage, or none, and return the one that ends."""
        now = time.perf_counter()
        before = self._current
        if before is not None:
            known_s = self._times.get(before, 0.0)
            self._times[before] = known_s + now - self._since
        self._current, self._since = name, now
        return before

    def divide(self, duration_s: float) -> dict[str, float]:
        """Return the seconds of each stage; their sum is the duration."""
        self.enter(None)
        rest_s = max(0.0, duration_s - sum(self._times.values()))
        return {
            name: round(seconds, 6)
            for name, seconds in [*self._times.items(), (OTHER, rest_s)]
        }


NO_STAGES: Final = Stages()
"""Stands for those of a request that are not collected."""
_collected: Final[ContextVar[Stages | None]] = ContextVar("stages", default=None)


def collect() -> Stages:
    """Collect the stages of the request in this context, which ends with its task."""
    stages = Stages()
    _collected.set(stages)
    return stages


class Stage:
    """Counts the time of its body as a stage of the request in this context."""

    # A generator would cost three times as much.

    __slots__ = ("_before", "_name", "_stages")

    def __init__(self, name: Name) -> None:
        self._name = name
        self._stages = _collected.get()

    def __enter__(self) -> None:
        if self._stages is not None:
            self._before = self._stages.enter(self._name)

    def __exit__(self, *_error: object) -> None:
        if self._stages is not None:
            self._stages.enter(self._before)


def stage(name: Name) -> Stage:
    """Return a context, whose body is a stage of the request in this context."""
    return Stage(name)
