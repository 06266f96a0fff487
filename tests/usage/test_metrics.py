"""Metrics of refreshes and of the current period."""

import asyncio
from typing import Final

import pytest

from service.sandbox.server import RunningSandbox
from service.usage import metrics
from service.usage.errors import RefreshFailed
from service.usage.handlers import SNAPSHOTS
from tests.conftest import MakeClient, always, message, report
from tests.metric_samples import Read, samples, value
from tests.patience import GIVE_UP_S

REFRESH: Final = "copilot_usage_refresh_duration_seconds"
PLAN: Final = {"usage_plan": "text-rules/1"}


async def test_a_refresh_sets_the_metrics_of_the_period(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """Messages, credits, reports, age and duration describe the fetched period."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(
        [message(1, report_id=7), message(2, "a"), message(3, report_id=8)]
    )
    service = await client(cache={"ttl_s": 60.0, "report_ttl_s": 60.0})

    assert (await service.get("/usage")).status == 200

    assert value("copilot_usage_period_messages", **PLAN) == 3
    assert value("copilot_usage_period_credits", **PLAN) == pytest.approx(61 + 2 + 1)
    assert value("copilot_usage_reports_held") == 2
    assert value("copilot_usage_refreshes_in_progress") == 0
    assert added(f"{REFRESH}_count", outcome="success") == 1
    assert 0 <= value(metrics.AGE) < GIVE_UP_S


async def test_the_age_is_that_of_the_last_answer(
    client: MakeClient, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not grow without answers, and a process that answers nothing has none."""
    sandbox.sandbox.set_messages([message(1)])
    service = await client(cache={"ttl_s": 60.0})
    clock = service.app[SNAPSHOTS].clock
    await service.get("/usage")
    monkeypatch.setattr(service.app[SNAPSHOTS], "clock", lambda: clock() + 40)

    young = value(metrics.AGE)
    await service.get("/usage")
    old = value(metrics.AGE)
    monkeypatch.setattr(metrics, "IDLE_S", -GIVE_UP_S)

    assert 0 <= young < 40 <= old
    assert metrics.AGE not in {each.name for each in samples()}


async def test_a_failed_refresh_is_counted_by_its_error(
    client: MakeClient, sandbox: RunningSandbox, added: Read
) -> None:
    """The outcome is the `error.type` of the log."""
    sandbox.sandbox.faults = always("not_found")

    assert (await (await client()).get("/usage")).status == 503

    assert added(f"{REFRESH}_count", outcome="MessagesUnavailable") == 1
    assert value("copilot_usage_refreshes_in_progress") == 0


async def test_every_end_of_a_refresh_is_counted(added: Read) -> None:
    """An error and a cancellation are outcomes as well."""
    clock = iter([0.0, 2.0, 0.0, 20.0]).__next__
    for error in (RefreshFailed("no"), asyncio.CancelledError()):
        with pytest.raises(type(error)), metrics.refreshing(clock):
            raise error

    assert added(f"{REFRESH}_sum", outcome="RefreshFailed") == 2
    assert added(f"{REFRESH}_sum", outcome="CancelledError") == 20
    assert added("copilot_usage_refreshes_in_progress") == 0
