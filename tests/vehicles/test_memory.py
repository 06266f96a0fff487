"""What is held in memory: for a while, not too much, and nothing that was removed."""

import pytest

from service.vehicles.memory import Memory
from service.vehicles.model import Entry
from tests.clock import Clock
from tests.conftest import MakeSettings
from tests.vehicles.conftest import OTHER, VIN, vin

ENTRY = Entry(OTHER, 1)
NEWER = Entry(None, 2)


@pytest.fixture
def clock() -> Clock:
    """What memory measures time by."""
    return Clock()


@pytest.fixture
def memory(settings: MakeSettings, clock: Clock) -> Memory:
    """Three entries at most, for two seconds."""
    return Memory(settings(vehicles={"held_s": 2.0, "max_held": 3}).vehicles, clock)


def test_nothing_is_held_at_first(memory: Memory) -> None:
    """What was never put is not found."""
    assert memory.find(VIN) is None
    assert len(memory) == 0


def test_an_entry_is_held_for_its_time(memory: Memory, clock: Clock) -> None:
    """It is found until its time is over, however often it is found."""
    memory.put(VIN, ENTRY, memory.removals)
    clock.pass_s(1.9)
    assert memory.find(VIN) == ENTRY

    clock.pass_s(0.1)
    assert memory.find(VIN) is None


def test_what_is_put_again_is_new(memory: Memory, clock: Clock) -> None:
    """The newer entry takes the place of the older, and has its whole time."""
    memory.put(VIN, ENTRY, memory.removals)
    clock.pass_s(1.9)
    memory.put(VIN, NEWER, memory.removals)
    clock.pass_s(1.9)

    assert memory.find(VIN) == NEWER
    assert len(memory) == 1


def test_the_longest_unused_goes_first(memory: Memory) -> None:
    """Beyond the bound one is given up, and not one that was found lately."""
    for number in range(3):
        memory.put(vin(number), ENTRY, memory.removals)
    memory.find(vin(0))
    memory.put(vin(3), ENTRY, memory.removals)

    assert [memory.find(vin(number)) is not None for number in range(4)] == [
        *(True, False, True, True)
    ]
    assert len(memory) == 3


def test_what_is_removed_is_gone(memory: Memory) -> None:
    """At once, and nothing else with it."""
    memory.put(VIN, ENTRY, memory.removals)
    memory.put(vin(1), ENTRY, memory.removals)

    memory.remove(VIN)

    assert memory.find(VIN) is None
    assert memory.find(vin(1)) == ENTRY


def test_what_was_read_before_a_removal_is_not_put(memory: Memory) -> None:
    """It may be what was removed; what is read after it is put."""
    read_at = memory.removals
    memory.remove(VIN)

    memory.put(VIN, ENTRY, read_at)
    assert memory.find(VIN) is None

    memory.put(VIN, ENTRY, memory.removals)
    assert memory.find(VIN) == ENTRY


def test_without_a_time_nothing_is_held(settings: MakeSettings, clock: Clock) -> None:
    """`held_s` of 0 turns it off."""
    memory = Memory(settings(vehicles={"held_s": 0.0}).vehicles, clock)
    memory.put(VIN, ENTRY, memory.removals)

    assert memory.find(VIN) is None
    assert len(memory) == 0
