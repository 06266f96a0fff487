"""Usage from collected events, end to end over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import ClientSession
from pytest_aiohttp.plugin import AiohttpClient
from sqlalchemy import text
from structlog.typing import EventDict

from service.app import create_app
from service.events.collected_messages import month_of
from service.instants import US_PER_S, now_us
from service.keys.store import add_key
from service.sandbox.options import SandboxOptions
from service.sandbox.periods import generate_period
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import open_database
from tests.clock import Clock
from tests.conftest import (
    Client,
    MakeClient,
    MakeSettings,
    message,
    report,
    storage_at,
)
from tests.running import running

TTL_S: Final = 60
STALE_S: Final = 600

Billed = Callable[..., Awaitable[Client]]


@pytest.fixture
def billed(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    storage: StorageSettings,
    aiohttp_client: AiohttpClient,
) -> Billed:
    """A factory of clients, with a key, of a service that prices what it collects."""

    async def make(
        events: dict[str, Any] | None = None, **sections: dict[str, Any]
    ) -> Client:
        async with open_database(storage) as database:
            key = await add_key(database, "shop")
        chosen = settings(
            upstream={"base_url": sandbox.url},
            usage={"source": "events"},
            events={"enabled": True, **(events or {})},
            storage={"url": storage.url},
            **sections,
        )
        headers = {"Authorization": f"Bearer {key}"}
        return await aiohttp_client(create_app(chosen), headers=headers)

    return make


def this_month(place: float) -> str:
    """A moment of this month that is over: 0 is its first, 1 is now."""
    now = now_us()
    start = month_of(now).start
    moment = datetime.fromtimestamp((start + int(place * (now - start))) / 1e6, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_event(sent: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """Return the event of a message."""
    return {
        "session_id": f"session {number % 3}",
        "category": "copilot",
        "name": "message",
        "data": {name: sent[name] for name in ("text", "report_id") if name in sent},
        "timestamp": sent["timestamp"],
        "id": f"{sent['id']}",
    }


async def send(client: Client, *messages: dict[str, Any]) -> None:
    """Send messages as events; each is accepted."""
    for at in range(0, len(messages), 1_000):
        batch = enumerate(messages[at : at + 1_000])
        sent = [as_event(each, number) for number, each in batch]
        receipt = await (await client.post("/events", json=sent)).json()
        assert receipt["accepted"] == len(sent)


async def usage(client: Client, path: str = "/usage") -> list[dict[str, Any]]:
    """The items of usage, without their ids."""
    response = await client.get(path)
    assert response.status == 200
    items: list[dict[str, Any]] = (await response.json())["usage"]
    return [{**item, "message_id": None} for item in items]


def asked(message_text: str, message_id: int = 1, **more: Any) -> dict[str, Any]:
    """A message of now."""
    return {**message(message_id, message_text, **more), "timestamp": this_month(1)}


async def test_events_cost_what_messages_do(
    client: MakeClient, billed: Billed, sandbox: RunningSandbox
) -> None:
    """The same messages have the same usage, whether fetched or collected."""
    period = generate_period(SandboxOptions(messages=600, reports=40))
    messages = [
        each
        for each in msgspec.json.decode(period.messages_body)["messages"]
        # The shipped type refuses what can be no report's id.
        if type(each.get("report_id", 0)) in {int, str}
    ]
    for number, each in enumerate(messages):
        each["timestamp"] = this_month(number / len(messages))
    sandbox.sandbox.set_messages(messages)
    for key, body in period.reports.items():
        sandbox.sandbox.set_report(key, msgspec.json.decode(body))
    fetching, collecting = await client(), await billed()
    await send(collecting, *messages)

    for path in ("/usage", "/usage?plan=token-estimate", "/usage?sort=timestamp:desc"):
        assert await usage(collecting, path) == await usage(fetching, path)
    for path in ("/usage/daily", "/usage/reports"):
        answers = [await each.get(path) for each in (collecting, fetching)]
        collected, fetched = [await answer.read() for answer in answers]
        assert collected == fetched


async def test_a_month_without_messages(billed: Billed) -> None:
    """It is an empty period, and upstream is not asked for one."""
    client = await billed()

    assert await (await client.get("/usage")).read() == b'{"usage":[]}'


async def test_upstream_is_asked_for_reports_alone(
    billed: Billed, sandbox: RunningSandbox
) -> None:
    """Each once, whether its id is a number or a text."""
    sandbox.sandbox.set_report(7, report(7, "Lease Report", 61))
    client = await billed()
    await send(
        client,
        *(asked("ignored", number, report_id=7) for number in range(3)),
        asked("ignored", 8, report_id="7"),
        asked("ignored", 9, report_id="a/b"),
    )

    items = await usage(client)

    assert [item.get("report_name") for item in items] == ["Lease Report"] * 4 + [None]
    assert sandbox.sandbox.calls == {"/reports/7": 1, "/reports/a%2Fb": 1}


async def test_late_and_repeated_events(billed: Billed) -> None:
    """A late one takes its place in time; one that is sent twice costs once."""
    client = await billed()
    await send(client, asked("Rent?", 2))
    before = await usage(client)
    late = {**message(1, "Deposit?"), "timestamp": this_month(0)}
    await send(client, late)
    await client.post("/events", json=[as_event(late), as_event(late)])

    after = await usage(client)

    assert after[1:] == before
    assert [item["timestamp"] for item in after[:1]] == [late["timestamp"]]


async def test_a_message_can_be_asked_for(billed: Billed) -> None:
    """By the id that usage tells; it explains the price as ever."""
    client = await billed()
    await send(client, asked("Are there any restrictions?"))
    (item,) = (await (await client.get("/usage")).json())["usage"]

    explained = await (await client.get(f"/usage/{item['message_id']}")).json()

    assert explained["credits_used"] == item["credits_used"]
    assert explained["source"] == "text"
    assert item["message_id"] <= now_us() + US_PER_S


async def test_new_messages_are_listed_after_the_ttl(
    billed: Billed, clock: Clock, log_entries: list[EventDict]
) -> None:
    """New messages show after `cache.ttl_s`; without any, nothing is read again."""
    client = await billed(cache={"ttl_s": TTL_S})
    await send(client, asked("Rent?", 1))
    numbers = [len(await usage(client))]
    await send(client, asked("Deposit?", 2))
    numbers.append(len(await usage(client)))
    for _ in range(2):
        clock.pass_s(TTL_S)
        numbers.append(len(await usage(client)))

    refreshed = [
        (each["messages"], each["reused"])
        for each in log_entries
        if each["event"] == "usage.refresh.finished"
    ]
    assert numbers == [1, 1, 2, 2]
    assert refreshed == [(1, 0), (2, 1), (2, 2)]


# --- what goes wrong ----------------------------------------------------------------


async def problem_of(client: Client) -> tuple[int, str]:
    """The status and code of a refusal to answer."""
    response = await client.get("/usage")
    problem = await response.json(content_type="application/problem+json")
    return response.status, problem["code"]


async def rename(storage: StorageSettings, before: str, after: str) -> None:
    """Take a table away, or give it back."""
    async with open_database(storage) as database, database.writing() as connection:
        await connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))


async def test_the_database_fails(
    billed: Billed, storage: StorageSettings, clock: Clock
) -> None:
    """An old answer covers it as long as it may; then 503; it recovers by itself."""
    never = {"pause_after_failure_s": 0.0}
    client = await billed(cache={"ttl_s": TTL_S, "stale_if_error_s": STALE_S, **never})
    await send(client, asked("Rent?"))
    before = await usage(client)
    await rename(storage, "events", "gone")
    clock.pass_s(TTL_S + 1)
    assert await usage(client) == before
    clock.pass_s(STALE_S)
    assert await problem_of(client) == (503, "messages_unavailable")
    await rename(storage, "gone", "events")

    assert await usage(client) == before


async def test_an_event_that_is_no_message(
    billed: Billed, tmp_path: Path, log_entries: list[EventDict]
) -> None:
    """Let in by other types than the shipped, it fails the refresh, by its name."""
    folder = tmp_path / "types"
    folder.mkdir()
    client = await billed(events={"types_folder": f"{folder}"})
    await send(client, asked("Rent?", 1))
    await client.post("/events", json={**as_event(asked("", 2)), "data": {"txt": "?"}})

    assert await problem_of(client) == (503, "messages_unavailable")
    (failed,) = [
        each for each in log_entries if each["event"] == "usage.refresh.failed"
    ]
    assert failed["error.type"] == "MessagesUnavailable"
    assert failed["reason"] == "the event '2' is no message: it has no text"


# --- beside it ----------------------------------------------------------------------


async def test_the_sandbox_prices_events(tmp_path: Path) -> None:
    """`serve --sandbox` collects messages, and prices them by the sandbox's reports."""
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/events.db")
    async with open_database(storage) as database:
        key = await add_key(database, "shop")
    settings = {
        "usage__source": "events",
        "events__enabled": True,
        "storage__url": storage.url,
    }
    known = generate_period(SandboxOptions()).reports
    sent = [
        as_event(asked("Rent?", 1)),
        as_event(asked("ignored", 2, report_id=next(iter(known)))),
    ]
    starting = running(tmp_path / "log", **settings)
    service = await asyncio.to_thread(starting.__enter__)
    try:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{service.port}"
        async with ClientSession(url, headers=headers) as session:
            receipt = await (await session.post("/events", json=sent)).json()
            items = (await (await session.get("/usage")).json())["usage"]
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)

    assert receipt["accepted"] == 2
    assert ["report_name" in item for item in items] == [False, True]
