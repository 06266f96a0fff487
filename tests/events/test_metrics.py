"""Metrics of requests: written in batches, also without a scrape."""

from unittest.mock import Mock

from service.events import metrics
from service.observability.metrics import expose
from tests.clock import LoopTime


async def test_metrics_are_written_soon(loop_time: LoopTime) -> None:
    """What is noted twice is written once, though nobody scrapes this process."""
    metrics.write_now()
    write = Mock()

    metrics.write_later(write)
    metrics.write_later(write)

    write.assert_not_called()
    await loop_time.pass_s(metrics.WRITE_AFTER_S)
    write.assert_called_once()


async def test_metrics_are_written_before_a_scrape() -> None:
    """A scrape sees everything that was noted before it."""
    metrics.write_now()
    write = Mock()

    metrics.write_later(write)
    expose("")

    write.assert_called_once()


def test_metrics_are_written_at_once_without_a_loop() -> None:
    """A command has no loop that could write them later."""
    metrics.write_now()
    write = Mock()

    metrics.write_later(write)

    write.assert_called_once()
