"""Requests on kept periods: equal answers, few chunks, and damaged ones."""

import random
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pytest
from structlog.typing import EventDict
from yarl import URL

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.usage.periods.handlers import KEPT
from service.usage.periods.reading.whole_periods import WholePeriods
from tests.conftest import Client, message, report
from tests.metric_samples import value
from tests.usage.periods.conftest import Keep, alter_chunks

COUNT: Final = 12_000
PERIOD: Final = "2024-04-01"


def listed(count: int = COUNT, seed: int = 7) -> list[dict[str, object]]:
    """Return a month of messages with ids in order, offsets and reports."""
    chosen = random.Random(seed)
    return [_message(chosen, each, count) for each in range(count)]


def _message(chosen: random.Random, number: int, count: int) -> dict[str, object]:
    second = number * 28 * 86_400 // count
    day, rest = divmod(second, 86_400)
    at = f"2024-04-{1 + day:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    one = message(number, "word " * chosen.randrange(1, 9), timestamp=f"{at}+00:00")
    return {**one, "report_id": chosen.choice([7, 8])} if number % 5 == 0 else one


@pytest.fixture
async def kept(in_file: Client, keep: Keep, sandbox: RunningSandbox) -> Client:
    """Return a service that has kept a month of several chunks."""
    sandbox.sandbox.set_report(7, report(7, "Tenants", 79))
    sandbox.sandbox.set_report(8, report(8, "Owners", 12.5))
    await keep(in_file, listed())
    return in_file


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the periods that were loaded as a whole, one entry for each time."""
    found = []
    original = WholePeriods.snapshot

    async def snapshot(self: WholePeriods, period: Any, slot: Any, **texts: Any) -> Any:
        found.append(period.period)
        return await original(self, period, slot, **texts)

    monkeypatch.setattr(WholePeriods, "snapshot", snapshot)
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/usage?limit=100",
        "/usage?limit=100&from=2024-04-05",
        "/usage?limit=100&from=2024-04-05T03:02:01.5Z&to=2024-04-05T03:30:00Z",
        "/usage?limit=1000&to=2024-04-01T05:00:00Z",
        "/usage?limit=1000&from=2024-04-28T23:00:00Z",
        "/usage?limit=5&from=2030-01-01",
        "/usage/0",
        f"/usage/{COUNT - 1}",
        "/usage/5000",
        "/usage/daily",
        "/usage/daily?tz=Europe/London",
        "/usage/daily?tz=Asia/Kathmandu",
        "/usage/daily?tz=America/St_Johns",
        "/usage/daily?tz=Pacific/Chatham",
        "/usage/reports",
    ],
)
async def test_few_chunks_answer_as_the_current_period(
    kept: Client, loads: list[str], path: str
) -> None:
    """Bodies are equal byte by byte, and no period is loaded as a whole."""
    of_period = await kept.get(_of_period(path))
    current = await kept.get(path)
    assert of_period.status == 200
    assert await of_period.read() == await current.read()
    assert not loads


async def test_cursors_of_a_range_are_those_of_the_whole_period(
    kept: Client, loads: list[str]
) -> None:
    """The sum of the messages that precede the page begins with the range."""
    path = f"/usage?limit=900&from=2024-04-08&period={PERIOD}"
    link = (await kept.get(path)).links["next"]["url"]
    assert not loads
    app = kept.app
    assert app is not None
    app[KEPT].chunks.outline = _no_outline  # type: ignore[assignment, method-assign]
    whole = await kept.get(path)
    assert whole.links["next"]["url"] == link
    assert loads


@pytest.mark.parametrize("media_type", ["text/csv", "application/x-ndjson"])
async def test_pages_have_all_formats(
    kept: Client, loads: list[str], media_type: str
) -> None:
    """A page in each format is equal to that of the current period."""
    headers = {"Accept": media_type}
    of_period = await kept.get(f"/usage?limit=9&period={PERIOD}", headers=headers)
    current = await kept.get("/usage?limit=9", headers=headers)
    assert await of_period.read() == await current.read()
    assert not loads


@pytest.mark.parametrize(
    "bounds, first, last",
    [("", 0, COUNT), ("&from=2024-04-08&to=2024-04-15", COUNT // 4, COUNT // 2)],
    ids=["period", "week"],
)
async def test_pages_follow_each_other_over_chunks(
    kept: Client, loads: list[str], bounds: str, first: int, last: int
) -> None:
    """All pages together are the period, and none is read as a whole."""
    found: list[int] = []
    path: URL | None = URL(f"/usage?limit=997&period={PERIOD}{bounds}")
    while path is not None:
        answer = await kept.get(path)
        found += [each["message_id"] for each in (await answer.json())["usage"]]
        link = answer.links.get("next")
        path = URL(str(link["url"])).relative() if link else None
    assert found == list(range(first, last))
    assert not loads


def _of_period(path: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}period={PERIOD}"


async def test_cursors_are_those_of_the_whole_period(
    kept: Client, loads: list[str]
) -> None:
    """Few chunks and the whole period make the same cursors, and accept them."""
    few = await kept.get(f"/usage?limit=900&period={PERIOD}")
    app = kept.app
    assert app is not None
    chunks = app[KEPT].chunks
    link = str(few.links["next"]["url"])
    path = URL(link).relative()
    second = await kept.get(path)
    chunks.outline = _no_outline  # type: ignore[assignment, method-assign]
    whole = await kept.get(f"/usage?limit=900&period={PERIOD}")
    assert str(whole.links["next"]["url"]) == link
    assert await (await kept.get(path)).read() == await second.read()
    assert loads


async def _no_outline(_period: object) -> None:
    """Return None, as for a period that was kept without an outline."""


@pytest.mark.parametrize(
    "change, status",
    [("append", 200), ("remove the last", 410), ("insert before", 410)],
)
async def test_a_cursor_continues_in_the_next_revision(
    kept: Client, keep: Keep, change: str, status: int
) -> None:
    """Messages that are added behind the page leave the cursor valid."""
    few = await kept.get(f"/usage?limit=900&period={PERIOD}")
    path = URL(str(few.links["next"]["url"])).relative()
    messages = listed()
    added = message(COUNT, "new", timestamp="2024-04-29")
    revised = {
        "append": [*messages, added],
        "remove the last": [*messages[:899], *messages[900:]],
        "insert before": [*messages[:5], added, *messages[5:]],
    }
    await keep(kept, revised[change])
    answer = await kept.get(path)
    assert answer.status == status
    if status == 200:
        assert (await answer.json())["usage"][0]["message_id"] == 900


@pytest.mark.parametrize(
    "path, status",
    [
        ("/usage/99999999", 404),
        ("/usage/-1", 404),
        ("/usage?limit=100001", 400),
        ("/usage/daily?tz=Mars/Olympus", 400),
        ("/usage?limit=5&sort=x", 400),
        ("/usage?limit=5&to=2024-03-01", 404),
        ("/usage?limit=5&to=2024-04-01T00:00:00Z", 404),
    ],
)
async def test_bad_queries_are_refused_as_on_the_current_period(
    kept: Client, path: str, status: int
) -> None:
    """The problem of a kept period is that of the current one."""
    of_period, current = await kept.get(_of_period(path)), await kept.get(path)
    assert (of_period.status, current.status) == (status, status)
    assert (await of_period.json())["code"] == (await current.json())["code"]


@pytest.mark.parametrize(
    "name",
    [
        "%00",
        "../../etc/passwd",
        "'; DROP TABLE usage_periods",
        "2024-04-01%20",
        "\uff05",
    ],
)
async def test_hostile_ids_of_periods_are_not_found(keeping: Client, name: str) -> None:
    """They are compared as text, and nothing else."""
    answer = await keeping.get(URL("/usage?limit=1") % {"period": unquote(name)})
    assert (answer.status, (await answer.json())["code"]) == (404, "period_not_kept")


async def test_messages_in_any_order_are_answered_too(
    in_file: Client, keep: Keep
) -> None:
    """Ids and times that say nothing about chunks make pages slower, not wrong."""
    messages = listed()
    random.Random(3).shuffle(messages)
    await keep(in_file, messages)
    for path in ("/usage?limit=100", "/usage/17", "/usage/daily?tz=Asia/Kolkata"):
        of_period, current = (
            await in_file.get(_of_period(path)),
            await in_file.get(path),
        )
        assert await of_period.read() == await current.read()


async def test_whole_periods_are_answered_by_a_child_process(
    kept: Client, loads: list[str]
) -> None:
    """Sorting needs all messages; the answer is that of the current period."""
    path = "/usage?limit=100&sort=credits_used:desc"
    of_period, current = await kept.get(_of_period(path)), await kept.get(path)
    assert await of_period.read() == await current.read()
    assert loads == [PERIOD]


async def test_a_page_of_a_replaced_revision_is_that_of_the_next_one(
    kept: Client, keep: Keep
) -> None:
    """The chunks of the revision are gone when they are read."""
    app = kept.app
    assert app is not None
    reader = app[KEPT]
    first = await reader.find(PERIOD)
    await keep(kept, [message(1, "x", timestamp="2024-04-01"), *listed()[1:]])
    found = [first]

    async def find(name: str) -> Any:
        return found.pop() if found else await reader.store.find(name)

    reader.find = find  # type: ignore[method-assign]
    answer = await kept.get(f"/usage?limit=1&period={PERIOD}")
    assert answer.status == 200
    assert answer.headers["Usage-Revision"] == "2"


DAMAGES: Final = {
    "cut": lambda content: content[:-9],
    "no chunk": lambda _: b"nonsense",
    "other chunk": lambda content: zlib.compress(zlib.decompress(content)[:-1] + b"x"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damaged_chunks_are_named(
    keeping: Client,
    keep: Keep,
    storage: StorageSettings,
    log_entries: list[EventDict],
    damage: Any,
) -> None:
    """The problem has a code of its own; one log line names the chunk."""
    before = value("copilot_usage_period_damaged_total")
    await keep(keeping, listed(9))
    await alter_chunks(storage, damage)
    for path in ("/usage?limit=1", "/usage?limit=1&sort=message_id"):
        answer = await keeping.get(_of_period(path))
        assert (answer.status, (await answer.json())["code"]) == (500, "period_damaged")
    entries = [each for each in log_entries if each["event"] == "usage.period_damaged"]
    assert len(entries) == 1
    assert "chunk" in entries[0]["reason"]
    assert value("copilot_usage_period_damaged_total") == before + 2


async def test_both_databases_give_the_same_answers(
    keeping: Client, keep: Keep, sandbox: RunningSandbox
) -> None:
    """Pages, ranges, sums, single messages and sorted pages of several chunks."""
    sandbox.sandbox.set_report(7, report(7, "Tenants", 79))
    sandbox.sandbox.set_report(8, None)
    await keep(keeping, listed())
    for path in (
        "/usage?limit=100&from=2024-04-05&to=2024-04-20",
        "/usage?limit=100&sort=credits_used:desc",
        "/usage/5000",
        "/usage/daily?tz=Europe/London",
        "/usage/reports",
    ):
        of_period, current = (
            await keeping.get(_of_period(path)),
            await keeping.get(path),
        )
        assert of_period.status == 200
        assert await of_period.read() == await current.read()


async def test_a_plan_of_a_newer_version_is_unknown(
    in_file: Client, keep: Keep, tmp_path: Path
) -> None:
    """The period is listed, and its messages need that version."""
    await keep(in_file, listed(9))
    with closing(sqlite3.connect(tmp_path / "kept.db")) as connection, connection:
        connection.execute("UPDATE usage_periods SET plan = 'text-rules/9'")
    for path in ("/usage", "/usage/daily", "/usage/export"):
        answer = await in_file.get(_of_period(path))
        assert (answer.status, (await answer.json())["code"]) == (400, "unknown_plan")
    assert (await in_file.get("/usage/periods")).status == 200


async def test_a_damaged_outline_is_named(kept: Client, tmp_path: Path) -> None:
    """Requests that need only chunks are still answered."""
    with closing(sqlite3.connect(tmp_path / "kept.db")) as connection, connection:
        connection.execute("UPDATE usage_outlines SET content = x'00'")
    answer = await kept.get(_of_period("/usage/daily"))
    assert (answer.status, (await answer.json())["code"]) == (500, "period_damaged")
    assert (await kept.get(_of_period("/usage"))).status == 200


@pytest.mark.parametrize("path", ["/usage?limit=1", "/usage"])
async def test_a_closed_period_without_a_chunk_is_damaged(
    kept: Client, keep: Keep, tmp_path: Path, path: str
) -> None:
    """No other revision can have replaced it."""
    await keep(kept, [message(COUNT, "new", timestamp="2024-05-29")])
    with closing(sqlite3.connect(tmp_path / "kept.db")) as connection, connection:
        connection.execute("DELETE FROM usage_chunks WHERE period_number = 1")
    answer = await kept.get(_of_period(path))
    assert (answer.status, (await answer.json())["code"]) == (500, "period_damaged")
