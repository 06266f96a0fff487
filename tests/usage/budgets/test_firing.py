"""Firing: each threshold once per budget and period, from fresh figures only."""

import asyncio
from datetime import UTC, datetime, timedelta

from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database
from service.usage.periods.statements.sealing import Sealing
from tests.conftest import GIVE_UP_S, Client, MakeClient, always, message
from tests.usage.budgets.conftest import (
    LOOK_AGAIN_S,
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


async def test_what_a_period_has_fired_is_removed_with_it(
    budgeting: Client,
    client: MakeClient,
    storage: StorageSettings,
    database: Database,
    keep: Keep,
) -> None:
    """So the log of deliveries has no more periods than are kept."""
    await put(budgeting, thresholds=[50])
    for day in ("2024-04-29", "2024-05-30", "2024-06-30"):
        await keep(budgeting, messages(5, day))
    await Sealing(database).seal()
    assert len(await deliveries(budgeting)) == 3
    await client(
        storage={"url": storage.url}, periods={"enabled": True, "retention": 1}
    )
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            listed = await deliveries(budgeting)
            if len(listed) < 3:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
    assert [each["period"] for each in listed] == ["2024-06-30", "2024-05-30"]


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


async def test_a_threshold_of_the_forecast_fires_before_the_credits_are_used(
    client: MakeClient,
    storage: StorageSettings,
    sandbox: RunningSandbox,
    receiver: Receiver,
) -> None:
    """Half of a period has used 15 credits of 25: 30 are expected."""
    service = await client(
        storage={"url": storage.url},
        periods={"enabled": True, "length": "P30D"},
        webhooks={"allow_private": True},
    )
    created = await put(
        service,
        credits=25.0,
        thresholds=[100],
        forecast_thresholds=[100, 200],
        webhook={"url": receiver.url},
    )
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [(today - timedelta(days=each)).isoformat() for each in range(14, -1, -1)]
    sandbox.sandbox.set_messages(
        [message(each, "Rent", timestamp=day) for each, day in enumerate(days)]
    )
    for _ in range(2):  # the second one finds the same forecast
        assert (await service.get("/usage")).status == 200
        (delivery,) = await until_state(service, "delivered")
    assert (delivery["kind"], delivery["threshold"]) == ("forecast", 100)
    data = receiver.received[0].verified(created["webhook"]["secret"])["data"]
    assert (data["kind"], data["credits_used"]) == ("forecast", 15.0)
    assert 25 < data["credits_expected"] < 40
    forecast = (await read(service))["forecast"]
    assert forecast["low"] < forecast["expected"] < forecast["high"]


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
