"""Collecting: a body in, a receipt out; and failed events once more, when mended."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import EventDict

from service.events.collector import Collector, open_collector
from service.events.errors import (
    FailedEventNotFound,
    NotJson,
    ReplayRefused,
    TooManyEvents,
)
from service.events.questions import Filter
from service.settings import SettingsError
from service.storage.database import Database
from tests.conftest import MakeSettings
from tests.events.conftest import event

Open = Callable[..., AbstractAsyncContextManager[Collector]]
JSON = "application/json"
WANTED = Filter("shop")


@pytest.fixture
def opened(database: Database, settings: MakeSettings) -> Open:
    """A factory of collectors; `types` are schemas by category and name."""

    @asynccontextmanager
    async def collecting(**events: Any) -> AsyncIterator[Collector]:
        given = settings(events=events).events
        async with open_collector(given, database) as collector:
            yield collector

    return collecting


def write_type(folder: Path, required: list[str]) -> None:
    """Write the schema of a/b anew."""
    file = folder / "a" / "b.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"required": required}))


def body(*said: Any) -> bytes:
    """A request's body with these events."""
    return json.dumps(said).encode()


async def test_a_body_is_collected(opened: Open, log_entries: list[EventDict]) -> None:
    """What it held is stored, and one line says how much of it was what."""
    async with opened() as collector:
        sent = body(event(id="a"), event(id="a"), event(id="b", name=""), 5)
        receipt = await collector.collect(sent, JSON, "shop")
        page = await collector.questions.events(WANTED, 9)
        failed = await collector.questions.failed(WANTED, 9)

    assert [each.status for each in receipt.results] == [
        *("accepted", "duplicate", "failed", "failed")
    ]
    assert [each.id for each in page.items] == ["a"]
    assert [bytes(each.event) for each in failed.items] == [
        body(event(id="b", name=""))[1:-1],
        b"5",
    ]
    (entry,) = [each for each in log_entries if each["event"] == "events.received"]
    assert entry == {
        "event": "events.received",
        "log_level": "info",
        "application": "shop",
        "accepted": 1,
        "duplicates": 1,
        "failed": 2,
    }


@pytest.mark.parametrize(
    "sent, failure", [(b"[", NotJson), (body(*[event()] * 3), TooManyEvents)]
)
async def test_a_bad_body_stores_nothing(
    opened: Open, sent: bytes, failure: type[Exception]
) -> None:
    """It holds no events that could be kept, not even as failed ones."""
    async with opened(max_events=2) as collector:
        with pytest.raises(failure):
            await collector.collect(sent, JSON, "shop")

        assert (await collector.questions.events(WANTED, 9)).items == []
        assert (await collector.questions.failed(WANTED, 9)).items == []


async def test_a_mended_schema_lets_an_event_in(
    opened: Open, tmp_path: Path, log_entries: list[EventDict]
) -> None:
    """It fails as long as its schema refuses it; then it is accepted, once."""
    write_type(tmp_path, ["missing"])
    sent = event(category="a", name="b", id="1")
    async with opened(types_folder=str(tmp_path)) as collector:
        await collector.collect(body(sent), JSON, "shop")
        (failed,) = (await collector.questions.failed(WANTED, 9)).items
        with pytest.raises(ReplayRefused, match='/data: "missing" is a required'):
            await collector.replay("shop", failed.id)

    write_type(tmp_path, [])
    async with opened(types_folder=str(tmp_path)) as collector:
        with pytest.raises(FailedEventNotFound):
            await collector.replay("other", failed.id)
        result = await collector.replay("shop", failed.id)
        with pytest.raises(FailedEventNotFound):
            await collector.replay("shop", failed.id)
        (stored,) = (await collector.questions.events(WANTED, 9)).items

    assert (result.id, result.status) == ("1", "accepted")
    assert stored.id == "1"
    assert json.loads(bytes(stored.data)) == sent["data"]
    (entry,) = [each for each in log_entries if each["event"] == "events.replayed"]
    assert (entry["failed_id"], entry["status"]) == (failed.id, "accepted")


async def test_types_are_checked_before_anything_is_taken(
    opened: Open, tmp_path: Path
) -> None:
    """A folder that is not there keeps the service from starting."""
    with pytest.raises(SettingsError, match=r"events\.types_folder"):
        async with opened(types_folder=str(tmp_path / "none")):
            pytest.fail("it has begun")
