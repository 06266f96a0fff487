"""The log entries of a refresh."""

import pytest
from structlog.typing import EventDict

from service.sandbox.server import RunningSandbox
from tests.conftest import (
    MakeClient,
    message,
)
from tests.observability.conftest import get

MESSAGES = "/messages/current-period"


def step(message_id: int, name: str, amount: float, total: float) -> EventDict:
    return {
        "event": "credits.step",
        "plan": "token-estimate/1",
        "message_id": message_id,
        "step": name,
        "credits": amount,
        "total": total,
    }


def rated(message_id: int, source: str, used: float, **more: object) -> EventDict:
    return {
        "event": "credits.rated",
        "message_id": message_id,
        "source": source,
        "credits_used": used,
        **more,
    }


def tried(path: str, status: int) -> EventDict:
    return {
        "event": "upstream.request",
        "url.path": path,
        "http.response.status_code": status,
        "http.request.resend_count": 0,
    }


def report_entry(event: str, report_id: str, attempts: int) -> EventDict:
    return {
        "event": event,
        "report_id": report_id,
        "attempts": attempts,
        "cached": False,
    }


PLAN = "token-estimate/1"
REFRESH: list[EventDict] = [
    {"event": "usage.refresh.started", "plan": PLAN},
    tried(MESSAGES, 200),
    report_entry("report.invalid_id", "null", 0),
    tried("/reports/7", 200),
    report_entry("report.resolved", "7", 1),
    tried("/reports/x%20y", 404),
    report_entry("report.missing", "x y", 1),
    step(1, "report", 61.0, 61.0),
    rated(1, "report", 61.0, report_id="7"),
    step(2, "tokens", 2.0, 2.0),
    step(2, "minimum", 0.0, 2.0),
    rated(2, "text", 2.0),
    step(3, "tokens", 0.4, 0.4),
    step(3, "minimum", 0.6, 1.0),
    rated(3, "text", 1.0),
    step(4, "tokens", 0.4, 0.4),
    step(4, "minimum", 0.6, 1.0),
    rated(4, "text", 1.0),
    {
        "event": "usage.refresh.finished",
        "plan": PLAN,
        "messages": 4,
        "reports": 2,
        "missing_reports": 1,
        "credits_total": 65.0,
        "reused": 0,
    },
    {
        "event": "http.request",
        "http.request.method": "GET",
        "http.route": "/usage",
        "url.path": "/usage",
        "http.response.status_code": 200,
        "cache": "miss",
    },
]
MEASURED = {
    "upstream.request": {"duration_s"},
    "usage.refresh.finished": {"duration_s"},
    "http.request": {"duration_s", "http.response.body.size"},
}


async def test_a_refresh_entry_by_entry(
    client: MakeClient, period: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """Every entry of a small refresh, in order, with the request id."""
    service = await client(
        usage={"plan": "token-estimate"}, upstream={"concurrency": 1}
    )

    await get(service)

    ids = [(each.pop("refresh_id"), each.pop("revision")) for each in log_entries]
    assert len(set(ids)) == 1
    for entry in log_entries:
        assert entry.pop("request_id") == "some-id"
        assert entry.pop("log_level") == "info"
        for measured in MEASURED.get(entry["event"], ()):
            assert entry.pop(measured) > 0
    assert log_entries == REFRESH


async def test_only_new_prices_are_logged(
    client: MakeClient, period: RunningSandbox, log_entries: list[EventDict]
) -> None:
    """The second refresh counts its messages as reused; a new one is logged."""
    service = await client()
    await get(service)
    mark = len(log_entries)
    await get(service, "/usage/daily")
    again = log_entries[mark:]
    texts = ["What is the rent?", "Is it due?"]
    period.sandbox.set_messages([message(n, t) for n, t in enumerate(texts, 2)])
    mark = len(log_entries)
    await get(service)

    assert not [e for e in again if e["event"].startswith("credits.")]
    assert [e["reused"] for e in again if "reused" in e] == [4]
    later = log_entries[mark:]
    priced = [e["message_id"] for e in later if e["event"] == "credits.rated"]
    assert priced == [3]
    assert [e["reused"] for e in later if "reused" in e] == [1]


@pytest.mark.parametrize(
    "limit, logged, omitted", [(0, [], [4]), (1, [1], [3]), (4, [1, 2, 3, 4], [])]
)
@pytest.mark.usefixtures("period")
async def test_steps_are_logged_up_to_the_maximum(
    client: MakeClient,
    log_entries: list[EventDict],
    limit: int,
    logged: list[int],
    omitted: list[int],
) -> None:
    """Beyond `steps_per_refresh` messages, the log has a count of the others."""
    await get(await client(logging={"steps_per_refresh": limit}))

    by_event: dict[str, list[EventDict]] = {}
    for entry in log_entries:
        by_event.setdefault(entry["event"], []).append(entry)
    rated_ids = [e["message_id"] for e in by_event.get("credits.rated", [])]
    stepped = dict.fromkeys(e["message_id"] for e in by_event.get("credits.step", []))
    assert rated_ids == list(stepped) == logged
    counts = [e["messages"] for e in by_event.get("credits.steps_omitted", [])]
    assert counts == omitted
