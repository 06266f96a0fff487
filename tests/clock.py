"""A clock that stands still until a test moves it, and how it gets into a period."""

import functools

import pytest

from service.usage.period import CurrentPeriod


class Clock:
    """Seconds since some moment, passed by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        """Let so many seconds go by."""
        self.now_s += seconds


def drive_periods(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Make applications started from now on age their periods and reports by a clock.

    Time-outs, deadlines and the protection of upstream keep to real time.
    """
    driven = functools.partial(CurrentPeriod, clock=clock)
    monkeypatch.setattr("service.app.CurrentPeriod", driven)
