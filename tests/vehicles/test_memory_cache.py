"""The memory cache is bounded in size; `test_fetching.py` tests its times."""

import pytest

from service.vehicles.memory_cache import MemoryCache
from service.vehicles.model import Entry
from tests.clock import Clock
from tests.conftest import MakeSettings
from tests.vehicles.conftest import OTHER, vin

ENTRY = Entry(OTHER, 1)


@pytest.fixture
def clock() -> Clock:
    """The clock of the cache."""
    return Clock()


@pytest.fixture
def memory(settings: MakeSettings, clock: Clock) -> MemoryCache:
    """Three entries at most, for two seconds."""
    return MemoryCache(
        settings(vehicles={"held_s": 2.0, "max_held": 3}).vehicles, clock
    )


def test_size_is_bounded(memory: MemoryCache) -> None:
    """Beyond the bound one is given up, and not one that was found lately."""
    for number in range(3):
        memory.put(vin(number), ENTRY, memory.removals)
    memory.find(vin(0))
    memory.put(vin(3), ENTRY, memory.removals)

    assert [memory.find(vin(number)) is not None for number in range(4)] == [
        *(True, False, True, True)
    ]
    assert len(memory) == 3
