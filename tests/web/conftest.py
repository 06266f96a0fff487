"""Loops for the tests of connections, which behave by the loop that serves them."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

BOTH_LOOPS: dict[str, LoopFactory] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Connections are tested on both loops, all else on the plain one."""
    if item.path.name == "test_connections.py":
        return BOTH_LOOPS
    return {"asyncio": asyncio.new_event_loop}
