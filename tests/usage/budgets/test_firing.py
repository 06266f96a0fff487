"""Firing: each threshold once per budget and period, from fresh figures only."""

import asyncio

from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from tests.conftest import Client, MakeClient, always
from tests.usage.budgets.conftest import (
    Receiver,
    Until,
    budgeting_client,
    deliveries,
    messages,
    put,
    read,
    until_state,
)
from tests.usage.periods.conftest import Keep


async def test_a_firing_has_the_figures_of_its_revision(
    budgeting: Client, keep: Keep, receiver: Receiver
) -> None:
    """The library of receivers accepts its signature."""
    created = await put(budgeting, thresholds=[50], webhook={"url": receiver.url})
    await keep(budgeting, messages(6))
    await until_state(budgeting, "delivered")
    (received,) = receiver.received
    payload = received.verified(created["webhook"]["secret"])
    assert payload["type"] == "budget.threshold_reached"
    assert payload["data"].pop("as_of") < payload["timestamp"]
    assert payload["data"] == {
        "budget": "office",
        "period": "2024-04-29",
        "revision": 1,
        "kind": "used",
        "threshold": 50,
        "credits": 10.0,
        "credits_used": 6.0,
        "share": 0.6,
    }


async def test_a_revision_that_jumps_fires_all_it_has_reached(
    budgeting: Client, keep: Keep
) -> None:
    """Each threshold has a firing of its own; one is reached exactly."""
    await put(budgeting, thresholds=[50, 80, 100])
    await keep(budgeting, messages(4))
    await keep(budgeting, messages(8))
    fired = (await read(budgeting))["fired"]
    assert [each["threshold"] for each in fired] == [50, 80]


async def test_credits_that_fall_and_rise_fire_once(
    budgeting: Client, keep: Keep
) -> None:
    """The threshold has fired in this period already."""
    await put(budgeting, thresholds=[50])
    for number in (5, 4, 6, 3, 7):
        await keep(budgeting, messages(number))
    assert len(await until_state(budgeting, "logged")) == 1


async def test_a_new_period_fires_again(budgeting: Client, keep: Keep) -> None:
    """A threshold fires once per period."""
    await put(budgeting, thresholds=[50])
    await keep(budgeting, messages(5))
    await keep(budgeting, messages(5, "2024-05-30"))
    listed = await until_state(budgeting, "logged", 2)
    assert {each["period"] for each in listed} == {"2024-04-29", "2024-05-30"}
    (fired,) = (await read(budgeting))["fired"]
    assert fired["threshold"] == 50


async def test_a_new_budget_fires_at_the_next_snapshot_that_changes_nothing(
    budgeting: Client, keep: Keep, until: Until
) -> None:
    """Its figures are those of a fresh fetch, and not what was kept before."""
    await keep(budgeting, messages(9))
    await put(budgeting, thresholds=[50])
    assert await deliveries(budgeting) == []
    assert (await budgeting.get("/usage")).status == 200
    await until_state(budgeting, "logged")


async def test_changes_of_a_budget_fire_only_what_has_not_fired(
    budgeting: Client, keep: Keep
) -> None:
    """More credits, fewer credits and other thresholds repeat no firing."""
    await put(budgeting, thresholds=[50])
    await keep(budgeting, messages(6))
    await put(budgeting, credits=100.0, thresholds=[50])
    await keep(budgeting, messages(7))
    await put(budgeting, credits=10.0, thresholds=[70, 50])
    await keep(budgeting, messages(8))
    listed = await until_state(budgeting, "logged", 2)
    assert [each["threshold"] for each in listed] == [70, 50]


async def test_a_budget_that_is_created_again_fires_again(
    budgeting: Client, keep: Keep
) -> None:
    """It is another budget, without the log of the former one."""
    await put(budgeting, thresholds=[50])
    await keep(budgeting, messages(6))
    (former,) = await until_state(budgeting, "logged")
    assert (await budgeting.delete("/usage/budgets/office")).status == 204
    await put(budgeting, thresholds=[50])
    await keep(budgeting, messages(7))
    (fired,) = await until_state(budgeting, "logged")
    assert fired["id"] != former["id"]


async def test_other_plans_and_stale_answers_fire_nothing(
    budgeting: Client, keep: Keep, sandbox: RunningSandbox
) -> None:
    """A what-if price is none of the period, and a failed refresh publishes nothing."""
    await put(budgeting, credits=5.0, thresholds=[100])
    await keep(budgeting, messages(4))
    answer = await budgeting.get("/usage?plan=token-estimate")
    assert answer.status == 200
    sandbox.sandbox.set_messages(messages(8))
    sandbox.sandbox.faults = always("server_error")
    assert (await budgeting.get("/usage")).status != 200
    assert await deliveries(budgeting) == []


async def test_without_a_webhook_it_is_a_log_event(
    budgeting: Client, keep: Keep, log_entries: list[EventDict]
) -> None:
    """It has the budget, the period and the threshold."""
    await put(budgeting, thresholds=[50])
    await keep(budgeting, messages(5))
    (delivery,) = await until_state(budgeting, "logged")
    (entry,) = [
        each for each in log_entries if each["event"] == "budget.threshold_reached"
    ]
    assert entry == {
        "event": "budget.threshold_reached",
        "log_level": "warning",
        "budget": "office",
        "period": "2024-04-29",
        "kind": "used",
        "threshold": 50,
        "delivery": delivery["id"],
        "webhook": False,
    }


async def test_processes_that_fetch_at_once_fire_each_threshold_once(
    client: MakeClient,
    storage: StorageSettings,
    sandbox: RunningSandbox,
    receiver: Receiver,
) -> None:
    """Four processes keep the same period, and deliver from the same outbox."""
    services = [await budgeting_client(client, storage) for _ in range(4)]
    await put(services[0], thresholds=[20, 50, 90], webhook={"url": receiver.url})
    for number in (1, 3, 6, 9, 12):
        sandbox.sandbox.set_messages(messages(number))
        await asyncio.gather(*(each.get("/usage") for each in services))
    await until_state(services[0], "delivered", 3)
    listed = await deliveries(services[1])
    assert sorted(each["threshold"] for each in listed) == [20, 50, 90]
    assert {each.id for each in receiver.received} == {each["id"] for each in listed}
