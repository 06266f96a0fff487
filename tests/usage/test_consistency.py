"""Consistency: answers of one snapshot agree with each other at any moment."""

import asyncio
from typing import Any, Final
from unittest.mock import Mock

import pytest

from service.sandbox.options import Faults
from service.sandbox.server import RunningSandbox
from service.usage.handlers import SNAPSHOTS
from service.usage.snapshots import queries
from tests.clock import Clock, LoopTime
from tests.conftest import Client, MakeClient, always, message, report
from tests.patience import GIVE_UP_S
from tests.usage.conftest import Until

TTL_S: Final = 60.0
CACHE: Final = {
    "ttl_s": TTL_S,
    "stale_while_revalidate_s": 1_000.0,
    "stale_if_error_s": 10_000.0,
    "pause_after_failure_s": 0.0,
    "report_ttl_s": 10_000.0,
    "stale_wait_s": GIVE_UP_S,
}
TRY_S: Final = 60.0
ONE_TRY: Final = {"attempts": 1, "timeout_s": TRY_S}
LATE: Final = "2024-05-02T22:30:00Z"
OLD: Final = [message(1, report_id=7), message(2, "rent rent")]
NEW: Final = [
    message(1, report_id=8),
    message(2, "Rent, rent and rent again"),
    message(3, "What is the rent?") | {"timestamp": LATE},
]
PATHS: Final = (
    *("/usage", "/usage/1", "/usage/2", "/usage/daily", "/usage/reports"),
    *("/usage/daily?tz=Asia/Tokyo", "/usage?sort=credits_used:desc", "/usage?limit=1"),
    *("/usage?plan=token-estimate", "/usage/2?plan=token-estimate"),
)


def serve_messages(sandbox: RunningSandbox, messages: list[dict[str, object]]) -> None:
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_report(8, report(8, "Tenant Obligations Report", 79))
    sandbox.sandbox.set_messages(messages)


async def ask(service: Client) -> tuple[set[str], list[Any]]:
    """Return the revisions of answers, and what they are."""
    responses = [await service.get(path) for path in PATHS]
    answers = [await each.json() for each in responses]
    assert {each.status for each in responses} == {200}
    assert_agree(answers)
    return {each.headers["Usage-Revision"] for each in responses}, answers


def assert_agree(answers: list[Any]) -> None:
    """Assert that every endpoint comes to the same figures."""
    usage, first, second, daily, reports, tokyo, by_price, page, other, other_second = (
        answers
    )
    items = {each["message_id"]: each["credits_used"] for each in usage["usage"]}
    total = round(sum(items.values()), 2)
    assert (first["credits_used"], second["credits_used"]) == (items[1], items[2])
    for days in (daily, tokyo):
        assert round(sum(each["credits_used"] for each in days["days"]), 2) == total
        assert sum(each["messages"] for each in days["days"]) == len(items)
    used = [each["credits_used"] for each in (*reports["reports"], reports["text"])]
    assert round(sum(used), 2) == total
    prices = [each["credits_used"] for each in by_price["usage"]]
    assert prices == sorted(items.values(), reverse=True)
    assert page["usage"] == usage["usage"][:1]
    priced = {each["message_id"]: each["credits_used"] for each in other["usage"]}
    assert priced.keys() == items.keys()
    assert other_second["credits_used"] == priced[2]


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
@pytest.mark.parametrize("own_process_bytes", [10**9, 1], ids=["inline", "process"])
async def test_answers_agree_before_while_and_after_a_refresh(
    *,
    client: MakeClient,
    sandbox: RunningSandbox,
    clock: Clock,
    loop_time: LoopTime,
    until: Until,
    own_process_bytes: int,
    end: str,
) -> None:
    """Answers that are derived during a refresh belong to the current snapshot."""
    usage = {"own_process_bytes": own_process_bytes}
    service = await client(cache=CACHE, usage=usage, upstream=ONE_TRY)
    await start_refresh(service, sandbox, clock)
    await until(lambda: sandbox.sandbox.in_flight == 1)  # the messages are loaded

    during = await ask(service)
    refreshing = refresh_of(service)
    if end == "fails":
        await loop_time.pass_s(TRY_S)
    else:
        refreshing.cancel()
    await asyncio.wait([refreshing])
    sandbox.sandbox.faults = always("not_found")
    after = await ask(service)
    sandbox.sandbox.faults = Faults()
    await refresh_again(service, clock)
    renewed = await ask(service)

    assert during == after
    assert (len(during[0]), len(during[1][0]["usage"])) == (1, len(OLD))
    assert (len(renewed[0]), len(renewed[1][0]["usage"])) == (1, len(NEW))
    assert renewed[0] != during[0]


async def start_refresh(service: Client, sandbox: RunningSandbox, clock: Clock) -> None:
    """Let a refresh find new messages, and hang at a report."""
    serve_messages(sandbox, OLD)
    await service.get("/usage")
    serve_messages(sandbox, NEW)
    sandbox.sandbox.faults = always("hang", path="/reports/", times=1)
    clock.pass_s(TTL_S)
    await service.get("/usage")


def refresh_of(service: Client) -> asyncio.Task[None]:
    """Return the refresh that runs; to cancel it is what closing does."""
    assert service.app is not None
    refreshing = service.app[SNAPSHOTS]._refreshing
    assert refreshing is not None
    return refreshing


async def refresh_again(service: Client, clock: Clock) -> None:
    """Let a refresh run to its end."""
    clock.pass_s(CACHE["stale_while_revalidate_s"])
    assert (await service.get("/usage")).status == 200


async def test_time_zones_are_computed_on_demand(
    client: MakeClient,
    sandbox: RunningSandbox,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refresh computes no zone, however many were requested before."""
    zones = [f"Etc/GMT{hours:+d}" for hours in range(-14, 13)]
    computed = Mock(side_effect=queries.daily_usage_of)
    monkeypatch.setattr(queries, "daily_usage_of", computed)
    serve_messages(sandbox, OLD)
    service = await client(cache=CACHE)
    for zone in [*zones, *zones]:
        response = await service.get("/usage/daily", params={"tz": zone})
        assert response.status == 200
    assert computed.call_count == len(zones)
    serve_messages(sandbox, NEW)
    clock.pass_s(TTL_S)

    await refresh_again(service, clock)

    assert computed.call_count == len(zones)
    for _ in range(2):
        days = await (await service.get("/usage/daily?tz=Etc/GMT-3")).json()
        assert sum(each["messages"] for each in days["days"]) == len(NEW)
    assert computed.call_count == len(zones) + 1


async def test_a_wrong_year_makes_no_large_answer(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Beyond ten years only days with messages are listed, and the answer says so."""
    first = message(1, "Hi") | {"timestamp": "0001-01-01"}
    sandbox.sandbox.set_messages([first, message(2, "Hi")])
    service = await client()

    for query in ("", "?tz=Pacific/Kiritimati", "?tz=America/Los_Angeles"):
        response = await service.get(f"/usage/daily{query}")
        body = await response.read()
        answer = await response.json()
        assert len(body) < 1_000
        assert answer["gaps_omitted"] is True
        assert [each["messages"] for each in answer["days"]] == [1, 1]
