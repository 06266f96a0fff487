"""The fixture of kept periods, for their forecasts."""

from tests.usage.periods.conftest import keep

__all__ = ["keep"]
