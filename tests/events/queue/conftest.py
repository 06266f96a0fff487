"""Servers of the event queue, and the services that use them."""

import pytest

from tests.events.queue.publishing import queue_settings
from tests.nats_servers import nats_server

__all__ = ["nats_server", "queue_settings"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder: they need a server."""
    for item in items:
        if item.path.is_relative_to(__file__.rpartition("/")[0]):
            item.add_marker(pytest.mark.services)
