"""Correction of the timestamps of senders whose clocks are wrong."""

import json
from collections.abc import Sequence
from typing import Any, Final

import pytest
from multidict import CIMultiDict

from service.events.clock_skew import SENT_AT, Clocks, corrected
from service.events.model import Event
from service.events.parsing import EventParser
from service.instants import US_PER_S, format_instant, now_us, read_instant
from service.settings import EventsSettings
from tests.conftest import Client, MakeSettings
from tests.events.conftest import Caller, Json, ask, event, on_sqlite

NEAR_US: Final = 60 * US_PER_S
"""More than a request takes, also on a slow machine."""


@pytest.fixture
def limits(settings: MakeSettings) -> EventsSettings:
    """The settings of events."""
    return settings().events


async def send_at(client: Client, ahead_s: float, *events: Json) -> Json:
    """Send events by a clock that is ahead of the service's; return the receipt."""
    headers = {SENT_AT: format_instant(now_us() + int(ahead_s * US_PER_S))}
    async with client.post("/events", json=list(events), headers=headers) as answer:
        assert answer.status == 202, await answer.text()
        receipt: Json = await answer.json()
        return receipt


def by_clock(ahead_s: float) -> str:
    """Return the time of a clock that is ahead of the service's."""
    return format_instant(now_us() + int(ahead_s * US_PER_S))


@pytest.mark.parametrize("ahead_s", [61, 300, 80_000, -61, -300, -80_000])
async def test_a_wrong_clock_is_corrected(caller: Caller, ahead_s: float) -> None:
    """Events of a clock that is wrong get the right time, and keep the sent one."""
    client = await caller()
    sent = by_clock(ahead_s)

    receipt = await send_at(client, ahead_s, event(id="a", timestamp=sent))

    assert receipt["accepted"] == 1, receipt
    (found,) = (await ask(client, "/events"))["events"]
    assert found["sent_timestamp"] == sent
    assert abs(read_instant(found["timestamp"]) - now_us()) < 60 * US_PER_S
    session = await ask(client, f"/sessions/{found['session_id']}")
    assert session["first"] == session["last"] == found["timestamp"]


async def test_a_right_clock_corrects_nothing(caller: Caller) -> None:
    """The time that a request takes is no skew: the event is returned as sent."""
    client = await caller()
    sent = event(id="a", timestamp=by_clock(0))

    await send_at(client, 0, sent)

    (found,) = (await ask(client, "/events"))["events"]
    assert {name: found[name] for name in sent} == sent
    assert "sent_timestamp" not in found


async def test_a_repeated_event_without_an_id_is_one(caller: Caller) -> None:
    """Each attempt measures another skew, or none; the content is the same."""
    client = await caller()
    sent = event(timestamp=by_clock(-100))

    first = await send_at(client, -100, sent)
    again = [await send_at(client, ahead_s, sent) for ahead_s in (-101, -90, 0, -6)]
    async with client.post("/events", json=sent) as answer:
        again.append(await answer.json())
    both = await send_at(client, -95, sent, sent)

    assert first["accepted"] == 1
    assert [each["duplicates"] for each in again] == [1] * 5
    assert both["duplicates"] == 2
    assert len((await ask(client, "/events"))["events"]) == 1


async def test_an_uncorrected_event_is_found_by_a_corrected_one(caller: Caller) -> None:
    """It makes no difference which of the attempts states the sender's clock."""
    client = await caller()
    sent = event(timestamp=by_clock(-100))

    async with client.post("/events", json=sent) as answer:
        assert (await answer.json())["accepted"] == 1

    assert (await send_at(client, -100, sent))["duplicates"] == 1


async def test_another_time_under_an_id_is_a_conflict(caller: Caller) -> None:
    """The sent times count, even if two of them are corrected to the same time."""
    client = await caller()
    await send_at(client, 100, event(id="a", timestamp=by_clock(100)))

    receipt = await send_at(client, 200, event(id="a", timestamp=by_clock(200)))

    assert receipt["results"][0]["status"] == "conflict"


async def test_a_replayed_event_keeps_the_correction(caller: Caller) -> None:
    """A failed event is corrected by the clock of its request, also when replayed."""
    strict = await caller(unknown_types="fail")
    sent = event(id="a", name="new", timestamp=by_clock(200))

    await send_at(strict, 200, sent)

    (failed,) = (await ask(strict, "/events/failed"))["failed"]
    assert failed["event"] == sent
    client = await caller()
    async with client.post(f"/events/failed/{failed['id']}/replay") as answer:
        assert (await answer.json())["status"] == "accepted"
    (found,) = (await ask(client, "/events"))["events"]
    assert found["timestamp"] == failed["corrected_timestamp"]
    assert found["sent_timestamp"] == sent["timestamp"]
    shift = read_instant(sent["timestamp"]) - read_instant(found["timestamp"])
    assert abs(shift - 200 * US_PER_S) < NEAR_US


@pytest.mark.parametrize(
    "stated, skew_s",
    [
        ([], 0),
        (["1970-01-01T00:00:00Z"], 1_000),
        (["1970-01-01T00:16:41Z"], 0),
        (["1970-01-01T00:16:38Z"], 0),
        (["1970-01-01T00:15:40Z"], 60),
        (["1970-01-01 00:17:40"], -60),
        (["1970-01-01T01:17:40+01:00"], -60),
        (["1970-01-01T00:17:40Z"] * 2, -60),
        (["1970-01-01T00:17:40Z", "1970-01-01T00:18:40Z"], 0),
        (["1970-01-03T00:00:00Z"], 0),
        (["9999-12-31T23:59:59Z"], 0),
        (["0001-01-01T00:00:00+14:00"], 0),
        (["1.7e9"], 0),
        (["yesterday"], 0),
        ([""], 0),
        (["\ud800"], 0),
    ],
)
def test_a_stated_time(
    limits: EventsSettings, stated: Sequence[str], skew_s: float
) -> None:
    """Only one readable time that is neither near nor absurd corrects a clock."""
    headers = CIMultiDict((SENT_AT, each) for each in stated)
    # The service's clock shows a time 1,000 s after the beginning of 1970.
    clocks = Clocks.of(headers)._replace(arrived_at=1_000 * US_PER_S)

    assert clocks.skew_us(limits) == skew_s * US_PER_S


def test_the_end_of_the_calendar_is_not_corrected(parser: EventParser) -> None:
    """An event whose corrected time does not exist keeps its time."""
    first = event(timestamp="0001-01-01T00:00:00")
    item = parser.parse(json.dumps(first).encode(), "shop")

    assert corrected(item, -60 * US_PER_S) is item


@on_sqlite
@pytest.mark.parametrize("broken", [{"session_id": ""}, {"timestamp": 5}, {"data": 1}])
async def test_a_failed_event_is_kept_as_sent(
    caller: Caller, broken: dict[str, Any]
) -> None:
    """A correction changes nothing of the text of an invalid event."""
    client = await caller()
    sent = event(timestamp=by_clock(100)) | broken

    await send_at(client, 100, sent)

    (failed,) = (await ask(client, "/events/failed"))["failed"]
    assert failed["event"] == sent
    assert ("corrected_timestamp" in failed) == isinstance(sent["timestamp"], str)


@on_sqlite
@pytest.mark.parametrize(
    "timestamp, ahead_s",
    [("9999-12-31T23:59:59Z", -100), ("0001-01-01T00:00:00Z", 100)],
)
async def test_a_failed_event_is_listed_whose_corrected_time_does_not_exist(
    caller: Caller, timestamp: str, ahead_s: float
) -> None:
    """A correction beyond the calendar is not shown, and hides no failed event."""
    client = await caller()
    sent = event(timestamp=timestamp, session_id="")

    await send_at(client, ahead_s, sent)

    (failed,) = (await ask(client, "/events/failed"))["failed"]
    assert failed["event"] == sent
    assert "corrected_timestamp" not in failed


def test_times_are_corrected_in_all_ways_of_a_body(parser: EventParser) -> None:
    """A body that is parsed event by event gets the same times as a whole one."""
    whole = [event(id=each) for each in "ab"]
    broken = [*whole, event(id="")]

    def times(events: list[Json]) -> list[int]:
        body = json.dumps(events).encode()
        parsed = parser.parse_body(body, "application/json", 9, "shop", 60 * US_PER_S)
        return [each.at for each in parsed if isinstance(each, Event)]

    sent = read_instant(whole[0]["timestamp"])
    assert times(whole) == times(broken) == [sent + 60 * US_PER_S] * 2
