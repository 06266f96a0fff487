"""Calendar months: two may be open, and what comes too late is an adjustment."""

import functools
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final, NoReturn

import pytest
from structlog.typing import EventDict

from service.instants import US_PER_S, now_us, read_instant
from service.keys.store import add_key
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.storage.database import Database, open_database
from service.upstream.client import open_client
from service.upstream.errors import UpstreamError
from service.usage.handlers import SNAPSHOTS
from service.usage.periods.calendar import Schedule
from service.usage.periods.keeping import closing
from service.usage.periods.keeping import tasks as keeping
from service.usage.periods.keeping.months import Months
from service.usage.periods.observer import UnobservedPeriods
from service.usage.periods.store import PeriodStore
from service.usage.snapshots.spans import Span
from service.usage.sources import PATH, UpstreamMessages
from tests.conftest import Client, MakeClient, MakeSettings, always, message, report
from tests.usage.periods.conftest import (
    alter_chunks,
    changes_of,
    contents_of,
    keeping_client,
    periods_of,
)

APRIL: Final = [
    message(1, "Who?", timestamp="2024-04-03T02:00:00Z"),
    message(2, "When?", timestamp="2024-04-30T23:59:59Z"),
]
MAY: Final = [message(3, "Where?", timestamp="2024-05-01T00:00:00Z")]
LATE: Final = message(4, "Late?", timestamp="2024-04-30T12:00:00Z")

YEARS_S: Final = 1e9

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Now:
    """The time of the calendar, which a test moves."""

    def __init__(self) -> None:
        self.instant = read_instant("2024-04-20")

    def __call__(self) -> int:
        return self.instant

    def move(self, text: str) -> None:
        """Let it be another time."""
        self.instant = read_instant(text)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    """The time of the calendars of services that start from now on."""
    now = Now()
    schedule = functools.partial(Schedule, clock=now)
    monkeypatch.setattr("service.app.Schedule", schedule)
    monkeypatch.setattr(
        keeping, "Closing", functools.partial(closing.Closing, clock=now)
    )
    monkeypatch.setattr(closing, "EVERY_S", 0.02)
    monkeypatch.setattr(closing, "CLOSED_EVERY_S", 0.0)
    return now


@pytest.fixture
async def monthly(storage: StorageSettings, client: MakeClient, now: Now) -> Client:
    """A service whose periods are calendar months."""
    return await client(
        storage={"url": storage.url},
        periods={"enabled": True, "boundary": "calendar"},
        cache={"confirm_shrink_s": 0.0},
    )


class Steps:
    """Lets a service refresh, and waits for what it does with the snapshot."""

    def __init__(
        self, sandbox: RunningSandbox, entries: list[EventDict], until: Until
    ) -> None:
        self.sandbox = sandbox.sandbox
        self._entries = entries
        self._until = until

    async def refresh(self, service: Client, *messages: dict[str, object]) -> list[int]:
        """Return the ids of the messages that `/usage` lists."""
        self.sandbox.set_messages(messages)
        answer = await service.get("/usage")
        return [each["message_id"] for each in (await answer.json())["usage"]]

    async def logged(self, event: str, **values: object) -> EventDict:
        """Wait for a log entry."""

        def found() -> list[EventDict]:
            return [
                each
                for each in self._entries
                if each["event"] == event and values.items() <= each.items()
            ]

        await self._until(lambda: bool(found()))
        return found()[-1]


@pytest.fixture
def steps(sandbox: RunningSandbox, log_entries: list[EventDict], until: Until) -> Steps:
    return Steps(sandbox, log_entries, until)


async def test_a_month_closes_after_its_grace(
    monthly: Client, now: Now, steps: Steps
) -> None:
    """Late messages belong to it until then, and are adjustments of it afterwards."""
    assert await steps.refresh(monthly, *APRIL) == [1, 2]
    await steps.logged("usage.period_opened", period="2024-04-01")

    now.move("2024-05-01T00:00:10")
    assert await steps.refresh(monthly, *APRIL, LATE, *MAY) == [3]
    await steps.logged("usage.period_opened", period="2024-05-01")
    await steps.logged("usage.period_kept", period="2024-04-01", changes=1)
    assert [each["status"] for each in await periods_of(monthly)] == ["open", "open"]

    now.move("2024-05-04T00:00:01")
    await steps.logged("usage.period_closed", period="2024-04-01", messages=3)
    closed = await monthly.get("/usage?period=2024-04-01")
    assert closed.headers["Usage-Period"] == "2024-04-01/2024-04-30"
    rows = await closed.read()

    too_late = message(5, "Too late?", timestamp="2024-04-29T12:00:00Z")
    await steps.refresh(monthly, *APRIL, LATE, too_late, *MAY)
    await steps.logged("usage.period_adjusted", period="2024-04-01", messages=1)
    await assert_adjusted(monthly, rows)


@pytest.mark.parametrize("plan", ["", "&plan=token-estimate"], ids=["default", "other"])
async def test_a_month_begins_on_the_same_date_under_each_plan(
    storage: StorageSettings, client: MakeClient, now: Now, steps: Steps, plan: str
) -> None:
    """It is that of the calendar, and not that of the first message."""
    periods = {"boundary": "calendar", "keep_texts": True}
    service = await keeping_client(client, storage, **periods)
    await steps.refresh(service, *APRIL)
    await steps.logged("usage.period_opened", period="2024-04-01")

    for path in ("/usage?limit=1", "/usage?", "/usage/daily?", "/usage/export?"):
        for period in ("", "&period=2024-04-01"):
            answer = await service.get(f"{path}{period}{plan}")
            assert answer.status == 200
            assert answer.headers["Usage-Period"] == "2024-04-01/.."


async def test_an_empty_month_follows_an_empty_one(
    monthly: Client, now: Now, steps: Steps
) -> None:
    """The body is the same, but the snapshot is that of another month."""
    for begins_on in ("2024-04-01", "2024-05-01"):
        now.move(f"{begins_on}T00:00:10")
        assert await steps.refresh(monthly) == []
        assert monthly.app is not None
        cached = monthly.app[SNAPSHOTS].current
        assert cached is not None
        assert cached.snapshot.span is not None
        assert cached.snapshot.span.begins_on == begins_on


async def assert_adjusted(monthly: Client, rows: bytes) -> None:
    """The closed rows are the same bytes, and the adjustment explains the rest."""
    _, april = await periods_of(monthly)
    assert april["adjustments"] > 0
    answer = await monthly.get("/usage?period=2024-04-01")
    assert await answer.read() == rows
    changes = await changes_of(monthly, "period=2024-04-01&since=2")
    (change,) = changes["changes"]
    assert (change["kind"], change["message_id"]) == ("adjustment", 5)
    assert changes["credits_after"] == april["credits_used"] + april["adjustments"]
    assert change["revision"] == april["revision"] == 3
    nothing = await changes_of(monthly, "period=2024-04-01&since=3")
    assert nothing["credits_before"] == changes["credits_after"]


@pytest.fixture
async def closed_months(
    monthly: Client, now: Now, steps: Steps
) -> list[dict[str, Any]]:
    """The closed months April and May, the newest first."""
    assert await steps.refresh(monthly, *APRIL) == [1, 2]
    await steps.logged("usage.period_opened", period="2024-04-01")
    now.move("2024-05-01T00:00:10")
    assert await steps.refresh(monthly, *APRIL, *MAY) == [3]
    await steps.logged("usage.period_opened", period="2024-05-01")
    now.move("2024-06-05")
    await steps.refresh(monthly, *APRIL, *MAY)
    for period in ("2024-04-01", "2024-05-01"):
        await steps.logged("usage.period_closed", period=period)
    return await periods_of(monthly)


async def test_a_damaged_month_holds_up_no_other(
    closed_months: list[dict[str, Any]],
    monthly: Client,
    storage: StorageSettings,
    steps: Steps,
) -> None:
    """Late messages of April are kept although a chunk of May is damaged."""
    assert [each["period"] for each in closed_months] == ["2024-05-01", "2024-04-01"]
    await alter_chunks(storage, lambda _: b"damaged", number=2)
    also_late = message(5, "Too late?", timestamp="2024-05-29T12:00:00Z")
    await steps.refresh(monthly, *APRIL, LATE, *MAY, also_late)
    await steps.logged("usage.period_adjusted", period="2024-04-01", messages=1)
    failed = await steps.logged("usage.closing_failed")
    assert "is missing or damaged" in failed["reason"]


async def test_an_adjustment_removes_leftovers(
    closed_months: list[dict[str, Any]],
    monthly: Client,
    storage: StorageSettings,
    steps: Steps,
) -> None:
    """A chunk that a killed process stored for a closed month does not stay."""
    async with open_database(storage) as database:
        left = [(b"left by a killed", b"")]
        await PeriodStore(database).add_chunks(1, left)
    await steps.refresh(monthly, *APRIL, LATE, *MAY)
    await steps.logged("usage.period_adjusted", period="2024-04-01", messages=1)
    assert b"" not in await contents_of(storage)


async def test_the_month_follows_the_clock(
    monthly: Client, now: Now, steps: Steps
) -> None:
    """Messages of later months wait for their month; a new month may be empty."""
    assert await steps.refresh(monthly, *APRIL, *MAY) == [1, 2]
    now.move("2024-05-01")
    assert await steps.refresh(monthly, *APRIL) == []
    answer = await monthly.get("/usage?limit=1")
    assert "Usage-Period" not in answer.headers
    assert await steps.refresh(monthly, *APRIL, *MAY) == [3]
    answer = await monthly.get("/usage")
    assert answer.headers["Usage-Period"] == "2024-05-01/.."


async def test_workers_do_not_read_a_month_that_one_has_just_kept(
    monthly: Client,
    database: Database,
    steps: Steps,
    settings: MakeSettings,
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While late messages come, one of them reads the month in each interval."""
    await steps.refresh(monthly, *APRIL)
    await steps.logged("usage.period_opened", period="2024-04-01")
    months = Months(
        database, UnobservedPeriods(), Schedule(settings()), is_complete=False
    )
    (april,) = await months.revisions.store.open_months(now_us())
    source = NotedReads()
    monkeypatch.setattr(closing, "EVERY_S", 60.0)
    clock = iter([april.fetched_at + 10 * US_PER_S, april.fetched_at + 61 * US_PER_S])
    other = closing.Closing(months, source, YEARS_S, clock.__next__)
    await other.look()
    assert "2024-04-01" not in source.read_months
    await other.look()
    assert "2024-04-01" in source.read_months


class NotedReads(closing.MonthSource):
    """A source that has nothing new, and notes the months that it is asked for."""

    is_complete = False

    def __init__(self) -> None:
        self.read_months: list[str] = []

    async def read(self, span: Span, use: object, *, if_unknown: bool = False) -> bool:
        """Note a month."""
        self.read_months.append(span.begins_on)
        return True


async def test_a_clock_that_jumps_closes_nothing_early(
    monthly: Client, now: Now, steps: Steps
) -> None:
    """The clock of the database must agree that the grace is over."""
    await steps.refresh(monthly, *APRIL)
    await steps.logged("usage.period_opened", period="2024-04-01")
    now.move("2024-04-01")
    ahead = message(9, timestamp="2199-01-02T00:00:00Z")
    now.move("2199-01-03T00:00:00Z")
    assert await steps.refresh(monthly, *APRIL, ahead) == [9]
    await steps.logged("usage.period_opened", period="2199-01-01")
    now.move("2199-03-01T00:00:00Z")
    await steps.logged("usage.period_closed", period="2024-04-01")
    await steps.refresh(monthly, *APRIL, ahead)
    found = {each["period"]: each["status"] for each in await periods_of(monthly)}
    assert found == {"2024-04-01": "closed", "2199-01-01": "open"}


async def test_a_month_whose_first_message_is_late_is_kept(
    monthly: Client, now: Now, steps: Steps
) -> None:
    """It may come after the month, within the grace."""
    now.move("2024-05-02")
    await steps.refresh(monthly, *APRIL, *MAY)
    await steps.logged("usage.period_opened", period="2024-05-01")
    await steps.logged("usage.period_opened", period="2024-04-01")
    changes = await changes_of(monthly)
    assert changes["period"] == "2024-05-01"


async def test_messages_of_an_upstream_that_begins_again_are_not_removed(
    monthly: Client, steps: Steps
) -> None:
    """Its own period may end within a month."""
    await steps.refresh(monthly, APRIL[0])
    await steps.logged("usage.period_opened", period="2024-04-01")
    await steps.refresh(monthly, APRIL[1])
    await steps.logged("usage.period_doubtful", reason="other_messages")
    (april,) = await periods_of(monthly)
    assert (april["revision"], april["messages"]) == (1, 1)


async def test_open_months_end_when_the_upstream_decides_again(
    monthly: Client,
    storage: StorageSettings,
    client: MakeClient,
    now: Now,
    steps: Steps,
) -> None:
    """The last month goes on as the upstream's period; the next period closes all."""
    await steps.refresh(monthly, *APRIL)
    await steps.logged("usage.period_opened", period="2024-04-01")
    now.move("2024-05-02")
    await steps.refresh(monthly, *APRIL, *MAY)
    await steps.logged("usage.period_opened", period="2024-05-01")
    await monthly.close()
    service = await keeping_client(client, storage, boundary="upstream")
    more = message(5, "Why?", timestamp="2024-06-02T00:00:00Z")
    await steps.refresh(service, *MAY, more)
    await steps.logged("usage.period_kept", period="2024-05-01")
    statuses = [each["status"] for each in await periods_of(service)]
    assert statuses == ["open", "open"]
    await steps.refresh(service, message(6, "Now?", timestamp="2024-06-03T00:00:00Z"))
    await steps.logged("usage.period_opened", period="2024-06-03")
    found = {each["period"]: each["status"] for each in await periods_of(service)}
    assert found == {
        "2024-06-03": "open",
        "2024-05-01": "closed",
        "2024-04-01": "closed",
    }


async def test_a_month_that_no_request_follows_is_read_before_it_closes(
    monthly: Client, now: Now, steps: Steps
) -> None:
    """The snapshot in use is of that month, and does not show what came last."""
    await steps.refresh(monthly, *APRIL)
    await steps.logged("usage.period_opened", period="2024-04-01")
    steps.sandbox.set_messages([*APRIL, LATE])
    now.move("2024-05-04T00:00:01")
    closed = await steps.logged("usage.period_closed", period="2024-04-01")
    assert closed["messages"] == 3


def never_called(*_: object, **__: object) -> NoReturn:
    """Fail: the upstream of this test answers with errors only."""
    raise AssertionError


@pytest.mark.parametrize(
    "listed, if_unknown, is_read",
    [(None, False, 0), (None, True, 1), (False, True, 0), (True, False, 1)],
)
async def test_a_month_is_read_where_the_upstream_may_list_it(
    settings: MakeSettings,
    sandbox: RunningSandbox,
    *,
    listed: bool | None,
    is_read: int,
    if_unknown: bool,
) -> None:
    """A service without requests does not know that, and reads only to close it."""
    made = settings(upstream={"base_url": sandbox.url, "attempts": 1})
    calls = sandbox.sandbox.calls
    sandbox.sandbox.faults = always("server_error")
    expected = pytest.raises(UpstreamError) if is_read else nullcontext()
    async with open_client(made.upstream, made.breaker) as client:
        source = closing.MonthSource(
            UpstreamMessages(client), never_called, lambda _: listed
        )
        before = calls[PATH]
        with expected:
            assert await source.read(
                Span(0, 1, "1970-01-01"), never_called, if_unknown=if_unknown
            )
    assert calls[PATH] - before == is_read


async def test_a_degraded_month_waits_for_its_reports(
    storage: StorageSettings, client: MakeClient, now: Now, steps: Steps
) -> None:
    """Provisional prices neither close a month nor change it."""
    service = await client(
        storage={"url": storage.url},
        periods={"enabled": True, "boundary": "calendar"},
        cache={"confirm_shrink_s": 0.0},
        usage={"on_report_error": "text"},
    )
    sandbox = steps.sandbox
    sandbox.set_report(7, report(7, "Tenants", 79))
    await steps.refresh(service, *APRIL)
    await steps.logged("usage.period_opened", period="2024-04-01")
    late = {**LATE, "report_id": 7}
    sandbox.faults = always("server_error", path="/reports")
    # The month may be read as soon as the time is another one.
    sandbox.set_messages([*APRIL, late, *MAY])
    now.move("2024-05-04T00:00:01")
    await steps.refresh(service, *APRIL, late, *MAY)
    assert [each["status"] for each in await periods_of(service)][-1] == "open"
    sandbox.faults = always("server_error", path="/none")
    closed = await steps.logged("usage.period_closed", period="2024-04-01")
    assert closed["messages"] == 3


async def test_collected_events_are_calendar_months(
    storage: StorageSettings, client: MakeClient, now: Now, steps: Steps
) -> None:
    """A late event belongs to its month within the grace, and adjusts it later."""
    async with open_database(storage) as database:
        key = await add_key(database, "shop")
    service = await client(
        storage={"url": storage.url},
        usage={"source": "events"},
        events={"enabled": True},
        periods={"enabled": True},
    )

    async def send(*messages: dict[str, Any]) -> None:
        events = [as_event(each) for each in messages]
        headers = {"Authorization": f"Bearer {key}"}
        answer = await service.post("/events", json=events, headers=headers)
        assert answer.status == 202
        assert (await service.get("/usage")).status == 200

    await send(*APRIL)
    await steps.logged("usage.period_opened", period="2024-04-01")
    now.move("2024-05-02")
    await send(LATE, *MAY)
    await steps.logged("usage.period_opened", period="2024-05-01")
    await steps.logged("usage.period_kept", period="2024-04-01")
    now.move("2024-05-05")
    await steps.logged("usage.period_closed", period="2024-04-01", messages=3)
    await send(message(5, timestamp="2024-04-05T00:00:00Z"))
    await steps.logged("usage.period_adjusted", period="2024-04-01")


def as_event(sent: dict[str, Any]) -> dict[str, Any]:
    return {
        "session_id": "session",
        "category": "copilot",
        "name": "message",
        "data": {"text": sent["text"]},
        "timestamp": sent["timestamp"],
        "id": f"{sent['id']}",
    }
