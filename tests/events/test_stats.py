"""Counts that add up: every hour of a range, and the values that are not listed."""

from typing import Any, Final

import pytest

from service.events.count_statements import MAX_HOURS
from tests.events.conftest import Caller, ask, at, event, send

HOURS: Final = {"by": "hour", "zeros": "true"}


async def test_listed_and_other_values_sum_to_the_total(caller: Caller) -> None:
    """`other` counts the values beyond the limit, within any range and filter."""
    client = await caller()
    day = "2024-05-01T"
    await send(
        client,
        *(
            at(f"{number}", name=f"n{number % 4}", category=f"c{number % 3}",
               timestamp=f"{day}{number % 24:02}:30:00Z")
            for number in range(30)
        ),
    )  # fmt: skip
    for by in ("name", "category"):
        for more in (
            {},
            {"from": f"{day}01:00:00Z"},
            {"from": f"{day}01:30:00Z", "to": f"{day}05:30:00.000001Z"},
            {"from": f"{day}01:10:00Z", "to": f"{day}01:50:00Z"},
            {"from": f"{day}01:30:00.000001Z", "to": f"{day}02:00:00Z"},
            {"from": f"{day}05:00:00Z", "to": f"{day}04:30:00Z"},
            {"category": "c1", "to": f"{day}12:31:00Z"},
        ):
            whole = await ask(client, "/events/stats", by=by, **more)
            assert whole["other"] == 0
            events = (await ask(client, "/events", **more))["events"]
            total = len(events)
            assert sum(each["events"] for each in whole["counts"]) == total, more
            first = await ask(client, "/events/stats", by=by, limit=1, **more)
            assert first["counts"] == whole["counts"][:1]
            listed = sum(each["events"] for each in first["counts"])
            assert listed + first["other"] == total


async def test_a_name_that_looks_like_the_others_is_counted(caller: Caller) -> None:
    """No name is mistaken for the sum of the names that are not listed."""
    client = await caller()
    await send(client, event(name="(other)"), event(name="other", id="b"))

    stats = await ask(client, "/events/stats", by="name")

    assert stats["other"] == 0
    assert [each["value"] for each in stats["counts"]] == ["(other)", "other"]


def hours_of(stats: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the hours and their numbers."""
    return [(each["value"][:13], each["events"]) for each in stats["counts"]]


async def test_every_hour_of_a_range_is_listed(caller: Caller) -> None:
    """With zeros, hours without events too; the longest range has 400 days."""
    client = await caller()
    await send(client, event(timestamp="2024-02-29T12:59:59.999999Z"))
    longest = {"from": "2024-01-01", "to": "2025-02-04T00:00:00Z"}

    stats = await ask(client, "/events/stats", **HOURS, **longest)

    found = hours_of(stats)
    assert len(found) == len(set(found)) == MAX_HOURS
    assert (found[0], found[-1]) == (("2024-01-01T00", 0), ("2025-02-03T23", 0))
    assert dict(found)["2024-02-29T12"] == sum(dict(found).values()) == 1
    some = await ask(client, "/events/stats", by="hour", **longest)
    assert hours_of(some) == [("2024-02-29T12", 1)]


@pytest.mark.parametrize(
    "parameters",
    [
        {"by": "hour", "from": "2024-01-01", "to": "2025-02-04T00:00:00.000001Z"},
        {"by": "hour", "from": "0001-01-01", "to": "9999-12-31"},
        {**HOURS, "from": "2024-01-01"},
        {**HOURS, "to": "9999-12-31"},
        {**HOURS},
    ],
)
async def test_a_longer_range_is_refused(
    caller: Caller, parameters: dict[str, str]
) -> None:
    """More than 400 days get 400 instead of a part of the hours."""
    client = await caller()
    await send(client, event(timestamp="2021-01-01T00:00:00Z"))

    async with client.get("/events/stats", params=parameters) as answer:
        assert answer.status == 400
        problem = await answer.json()
    assert problem["code"] == "invalid_parameter"
    assert problem["detail"].startswith("from: expected at most 400 days")
