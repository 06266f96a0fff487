"""The outbox: claims of several processes, their ends, and clocks that jump."""

import asyncio
from typing import Final

import pytest

from service.instants import US_PER_S, now_us
from service.settings import StorageSettings
from service.storage.database import Database
from service.usage.budgets import outbox
from service.usage.budgets.outbox import LEASE_S, Outbox, Outcome
from service.usage.budgets.tables import DELIVERED, PENDING
from tests.conftest import MakeClient
from tests.usage.budgets.conftest import (
    PERIOD,
    Receiver,
    Until,
    budgeting_client,
    fire_in,
    hang,
    status,
    until_state,
)

YEAR_US: Final = 365 * 86_400 * US_PER_S


def jump(monkeypatch: pytest.MonkeyPatch, us: int) -> None:
    """Let the clock jump by microseconds."""
    monkeypatch.setattr(outbox, "now_us", lambda: now_us() + us)


async def test_one_of_many_processes_claims_a_firing(database: Database) -> None:
    """The others get none, though all have found it."""
    await fire_in(database, thresholds=(10, 20, 30))
    processes = [Outbox(database) for _ in range(4)]
    found = [await each.find_due(()) for each in processes]
    assert [len(each) for each in found] == [3] * 4
    claimed = await asyncio.gather(
        *(each.claim(due) for each, due in zip(processes, found, strict=True))
    )
    ids = [each.id for some in claimed for each in some]
    assert len(ids) == len(set(ids)) == 3


async def test_a_claim_ends_if_its_process_is_killed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process attempts it then, and a late result is not stored."""
    await fire_in(database)
    killed = Outbox(database)
    (claimed,) = await killed.claim(await killed.find_due(()))
    assert await Outbox(database).find_due(()) == []
    jump(monkeypatch, int(LEASE_S * US_PER_S))
    (again,) = await Outbox(database).claim(await Outbox(database).find_due(()))
    assert (again.id, again.attempt) == (claimed.id, 2)
    assert not await killed.finish(claimed, Outcome(DELIVERED, 200))
    assert await Outbox(database).finish(again, Outcome(DELIVERED, 200))
    assert await Outbox(database).find_due(()) == []


async def test_a_released_claim_is_due_at_once_and_does_not_count(
    database: Database,
) -> None:
    """All attempts are left for it."""
    await fire_in(database)
    box = Outbox(database)
    (claimed,) = await box.claim(await box.find_due(()))
    await box.release([claimed])
    (again,) = await Outbox(database).claim(await Outbox(database).find_due(()))
    assert (again.id, again.attempt, again.tries) == (claimed.id, 2, 1)


async def test_a_release_changes_no_result(database: Database) -> None:
    """A claim that has ended, or that another process has now, stays as it is."""
    await fire_in(database)
    box = Outbox(database)
    (claimed,) = await box.claim(await box.find_due(()))
    await box.release([claimed])
    (again,) = await box.claim(await box.find_due(()))
    await box.release([claimed])
    assert await box.find_due(()) == []
    assert await box.finish(again, Outcome(DELIVERED, 200))
    await box.release([again])
    assert await box.find_due(()) == []


async def test_a_service_delivers_what_a_stopped_one_has_begun(
    client: MakeClient,
    storage: StorageSettings,
    database: Database,
    receiver: Receiver,
    until: Until,
) -> None:
    """It does not wait until the lease of the other one ends."""
    await fire_in(database, url=receiver.url)
    receiver.answers = [hang, status(204)]
    stopped = await budgeting_client(client, storage)
    await until(lambda: len(receiver.received) == 1)
    await stopped.close()
    service = await budgeting_client(client, storage)
    (delivery,) = await until_state(service, "delivered")
    assert delivery["attempts"] == 2
    assert len({each.id for each in receiver.received}) == 1


async def test_a_service_delivers_what_a_killed_one_has_claimed(
    client: MakeClient,
    storage: StorageSettings,
    database: Database,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The receiver gets the id of the firing."""
    await fire_in(database, url=receiver.url)
    killed = Outbox(database)
    (claimed,) = await killed.claim(await killed.find_due(()))
    jump(monkeypatch, int(LEASE_S * US_PER_S))
    service = await budgeting_client(client, storage)
    (delivery,) = await until_state(service, "delivered")
    assert delivery["attempts"] == 2
    assert [each.id for each in receiver.received] == [claimed.id]


@pytest.mark.parametrize("jump_us", [-YEAR_US, YEAR_US])
async def test_a_clock_that_jumps_loses_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, jump_us: int
) -> None:
    """A firing that waits, or was claimed, is due soon after a jump in either way."""
    await fire_in(database)
    one = Outbox(database)
    (claimed,) = await one.claim(await one.find_due(()))
    assert await one.finish(claimed, Outcome(PENDING, 500))
    assert await one.find_due(()) == []
    jump(monkeypatch, jump_us)
    (claimed,) = await one.claim(await one.find_due(()))
    assert claimed.attempt == 2
    monkeypatch.undo()
    jump(monkeypatch, -jump_us)
    assert len(await one.find_due(())) == 1


async def test_busy_hosts_hide_no_others(database: Database) -> None:
    """The firings of a busy host are left out; those for the log never are."""
    await fire_in(database, url="https://slow.test/hook")
    assert await Outbox(database).find_due(["slow.test"]) == []
    assert len(await Outbox(database).find_due(["other.test"])) == 1
    await fire_in(database)
    assert len(await Outbox(database).find_due(["slow.test"])) == 1


async def test_a_firing_waits_until_it_is_delivered(database: Database) -> None:
    """Also before its first attempt, for which all processes may be too busy."""
    box = Outbox(database)
    assert await box.oldest_waiting() is None
    await fire_in(database)
    fired = await box.oldest_waiting()
    assert fired is not None
    assert fired <= now_us()
    (claimed,) = await box.claim(await box.find_due(()))
    assert await box.finish(claimed, Outcome(PENDING, 500))
    assert await box.oldest_waiting() == fired


async def test_figures_that_are_published_again_fire_once(database: Database) -> None:
    """The row of a firing is unique."""
    for _ in range(3):
        await fire_in(database)
    assert len(await Outbox(database).of_period(PERIOD.number)) == 1
