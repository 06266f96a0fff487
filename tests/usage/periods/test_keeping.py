"""Kept periods: revisions, closed statements, and what changed in them."""

import random
from typing import Any, Final, NamedTuple

import pytest
from structlog.typing import EventDict
from yarl import URL

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from tests.conftest import Client, MakeClient, message, report
from tests.usage.periods.conftest import (
    Keep,
    Messages,
    changes_of,
    keeping_client,
    kept,
    periods_of,
)

APRIL: Final = [
    message(1, "Who?", timestamp="2024-04-29T02:08:29Z"),
    message(2, "When?", timestamp="2024-04-30T03:08:29+01:00"),
]
MAY: Final = [message(3, "Where?", timestamp="2024-05-29T02:08:29Z")]
PATHS: Final = (
    "/usage",
    "/usage/daily",
    "/usage/reports",
    "/usage/1",
    "/usage?limit=1",
)


async def test_a_first_snapshot_opens_a_period(in_file: Client, keep: Keep) -> None:
    """The id is the date of the first message."""
    await keep(in_file, APRIL)
    (period,) = await periods_of(in_file)
    assert {key: period[key] for key in ("period", "status", "revision")} == {
        "period": "2024-04-29",
        "status": "open",
        "revision": 1,
    }
    assert (period["from"], period["messages"]) == ("2024-04-29T02:08:29.000000Z", 2)


@pytest.mark.parametrize("path", PATHS)
async def test_a_kept_period_answers_as_the_current_one(
    in_file: Client, keep: Keep, path: str
) -> None:
    """The bodies are equal, byte by byte."""
    await keep(in_file, APRIL)
    current = await in_file.get(path)
    mark = "&" if "?" in path else "?"
    of_period = await in_file.get(f"{path}{mark}period=2024-04-29")
    assert of_period.status == 200
    assert await of_period.read() == await current.read()
    assert of_period.headers["Usage-Period"] == "2024-04-29/.."
    assert of_period.headers["Usage-Revision"] == "1"


async def test_later_messages_without_a_common_one_close_the_period(
    keeping: Client, keep: Keep
) -> None:
    """The closed period is immutable for caches, and still answers."""
    await keep(keeping, APRIL)
    await keep(keeping, MAY)
    may, april = await periods_of(keeping)
    assert (may["period"], may["status"]) == ("2024-05-29", "open")
    assert (april["period"], april["status"]) == ("2024-04-29", "closed")
    answer = await keeping.get("/usage?period=2024-04-29")
    assert [item["message_id"] for item in (await answer.json())["usage"]] == [1, 2]
    assert answer.headers["Usage-Period"] == "2024-04-29/2024-04-30"
    assert answer.headers["Cache-Control"] == "max-age=31536000, immutable"


async def test_two_periods_that_begin_on_one_day_have_two_ids(
    in_file: Client, keep: Keep
) -> None:
    """The second one has a number."""
    await keep(in_file, [message(1, timestamp="2024-04-29T01:00:00Z")])
    await keep(in_file, [message(2, timestamp="2024-04-29T02:00:00Z")])
    await keep(in_file, [message(3, timestamp="2024-04-29T03:00:00Z")])
    names = [each["period"] for each in await periods_of(in_file)]
    assert names == ["2024-04-29-3", "2024-04-29-2", "2024-04-29"]


async def test_an_old_period_that_returns_changes_nothing(
    in_file: Client, keep: Keep, log_entries: list[EventDict]
) -> None:
    """Its messages are no later than those of the open period, so it is doubtful."""
    await keep(in_file, APRIL)
    await keep(in_file, MAY)
    before = await periods_of(in_file)
    await keep(in_file, APRIL)
    assert kept(log_entries)[-1]["event"] == "usage.period_doubtful"
    assert await periods_of(in_file) == before


async def test_an_empty_period_closes_nothing(
    in_file: Client, keep: Keep, sandbox: RunningSandbox
) -> None:
    """Upstream may have lost the messages for a moment."""
    await keep(in_file, APRIL)
    sandbox.sandbox.set_messages([])
    assert (await in_file.get("/usage")).status == 200
    await keep(in_file, [*APRIL, message(4, timestamp="2024-05-01")])
    (period,) = await periods_of(in_file)
    assert (period["revision"], period["messages"]) == (2, 3)


class Step(NamedTuple):
    """The second of two snapshots, and the changes that it has."""

    before: Messages
    after: Messages
    changes: list[tuple[str, int]]


OTHER_TEXT: Final = {**APRIL[1], "text": "Some other words"}
OTHER_TIME: Final = {**APRIL[1], "timestamp": "2024-05-01"}
WITH_REPORT: Final = {**APRIL[0], "report_id": 7}
STEPS: Final = {
    "added": Step(APRIL[:1], APRIL, [("added", 2)]),
    "removed": Step(APRIL, APRIL[:1], [("removed", 2)]),
    "text": Step(APRIL, [APRIL[0], OTHER_TEXT], [("text_changed", 2)]),
    "time": Step(APRIL, [APRIL[0], OTHER_TIME], [("added", 2), ("removed", 2)]),
    "report": Step(APRIL, [WITH_REPORT, APRIL[1]], [("report_changed", 1)]),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_changes_have_kinds(
    in_file: Client, keep: Keep, sandbox: RunningSandbox, step: Step
) -> None:
    """The credits of all changes are the difference of the totals."""
    sandbox.sandbox.set_report(7, report(7, "Tenants", 79))
    await keep(in_file, step.before)
    await keep(in_file, step.after)
    answer = await changes_of(in_file, "since=1")
    found = [(each["kind"], each["message_id"]) for each in answer["changes"]]
    assert sorted(found) == sorted(step.changes)
    assert_sums(answer)


Report = dict[str, object] | None
TENANTS: Final = report(7, "Tenants", 79)


@pytest.mark.parametrize(
    "reports, kind",
    [
        ((None, TENANTS), "report_found"),
        ((TENANTS, None), "report_missing"),
        ((TENANTS, report(7, "Tenants", 80)), "report_changed"),
        ((TENANTS, report(7, "Owners", 79)), "report_changed"),
    ],
    ids=["found", "missing", "cost", "name"],
)
async def test_changes_of_a_report_have_kinds(
    in_file: Client,
    keep: Keep,
    sandbox: RunningSandbox,
    reports: tuple[Report, Report],
    kind: str,
) -> None:
    """Messages are the same, and their reports are not."""
    for each in reports:
        sandbox.sandbox.set_report(7, each)
        await keep(in_file, [WITH_REPORT])
    answer = await changes_of(in_file, "since=1")
    assert [each["kind"] for each in answer["changes"]] == [kind]
    assert_sums(answer)


async def test_random_histories_are_kept_exactly(keeping: Client, keep: Keep) -> None:
    """Each revision answers as the snapshot did, and all changes add up."""
    chosen = random.Random(19)
    messages: Messages = [_random_message(chosen, each) for each in range(40)]
    for _ in range(12):
        await keep(keeping, messages)
        current = await (await keeping.get("/usage")).read()
        of_period = await keeping.get("/usage?period=2024-04-01")
        assert await of_period.read() == current
        messages = _mutated(chosen, messages)
    answer = await changes_of(keeping, "limit=4096")
    assert_sums(answer)
    assert answer["credits_before"] == 0


def _random_message(chosen: random.Random, number: int) -> dict[str, object]:
    at = f"2024-04-{1 + number % 28:02}T00:00:00Z"
    return message(number, "word " * chosen.randrange(1, 9), timestamp=at)


def _mutated(chosen: random.Random, messages: Messages) -> Messages:
    """Return the messages with some removed, changed, moved and added."""
    others = [each for each in messages[1:] if chosen.random() > 0.1]
    texts = [
        {**each, "text": "other"} if chosen.random() < 0.1 else each for each in others
    ]
    added = _random_message(chosen, 100 + chosen.randrange(10_000))
    at = chosen.randrange(len(texts) + 1)
    # The first one stays, which names the period.
    return [messages[0], *texts[:at], added, *texts[at:]]


def assert_sums(answer: dict[str, Any]) -> None:
    """Assert that the changes explain the difference of the totals."""
    sums = sum(
        each["credits_after"] - each["credits_before"] for each in answer["changes"]
    )
    difference = answer["credits_after"] - answer["credits_before"]
    assert round(sums, 2) == round(difference, 2)


async def test_changes_are_paged(in_file: Client, keep: Keep) -> None:
    """Pages follow each other without gaps, over revisions too."""
    await keep(in_file, APRIL)
    await keep(in_file, [*APRIL, message(5, timestamp="2024-05-01")])
    found, path = [], URL("/usage/changes?limit=1")
    while path:
        answer = await in_file.get(path)
        found += [each["message_id"] for each in (await answer.json())["changes"]]
        link = answer.links.get("next")
        path = URL(str(link["url"])).relative() if link else URL()
    assert found == [1, 2, 5]


async def test_two_services_keep_one_period_once(
    keeping: Client, keep: Keep, client: MakeClient, storage: StorageSettings
) -> None:
    """The second one finds what the first one has kept, and adds what is new."""
    await keep(keeping, APRIL)
    other = await keeping_client(client, storage)
    await keep(other, [*APRIL, message(5, timestamp="2024-05-01")])
    (period,) = await periods_of(keeping)
    assert (period["revision"], period["messages"]) == (2, 3)
    assert [each["message_id"] for each in (await changes_of(other))["changes"]] == [
        1,
        2,
        5,
    ]


@pytest.mark.parametrize(
    "path, status, code",
    [
        ("/usage?period=2024-03-01", 404, "period_not_kept"),
        ("/usage/daily?period=x", 404, "period_not_kept"),
        ("/usage/changes?period=2024-03-01", 404, "period_not_kept"),
        ("/usage?period=2024-04-29&plan=token-estimate", 409, "texts_not_kept"),
        ("/usage?period=2024-04-29&plan=none", 400, "unknown_plan"),
        ("/usage/changes?since=yesterday", 400, "invalid_parameter"),
        ("/usage/periods?cursor=x", 400, "invalid_parameter"),
        (f"/usage?period={'x' * 41}", 400, "invalid_parameter"),
    ],
)
async def test_bad_requests_get_clear_errors(
    in_file: Client, keep: Keep, path: str, status: int, code: str
) -> None:
    """The problem names what is wrong."""
    await keep(in_file, APRIL)
    answer = await in_file.get(path)
    assert (answer.status, (await answer.json())["code"]) == (status, code)


async def test_without_keeping_no_period_is_kept(client: MakeClient) -> None:
    """The parameter exists, and names the reason."""
    service = await client()
    answer = await service.get("/usage?period=2024-04-29")
    assert (answer.status, (await answer.json())["code"]) == (404, "period_not_kept")


async def test_a_list_that_repeats_its_messages_is_kept_exactly(
    in_file: Client, keep: Keep
) -> None:
    """Some of its chunks are equal; all messages and changes count twice."""
    messages: Messages = [
        message(each, "x", timestamp=f"2024-04-{1 + each * 28 // 30_000:02}")
        for each in range(30_000)
    ]
    await keep(in_file, messages)
    await keep(in_file, [*messages, *messages])
    (period,) = await periods_of(in_file)
    assert period["messages"] == 60_000
    answer = await changes_of(in_file, "limit=4096&since=1")
    assert answer["credits_after"] == 2 * answer["credits_before"]
    path, added = "/usage/changes?limit=4096&since=1", 0
    while path:
        found = await in_file.get(path)
        added += len((await found.json())["changes"])
        link = found.links.get("next")
        path = str(URL(str(link["url"])).relative()) if link else ""
    assert added == 30_000
    for query in ("limit=100", "limit=1&sort=message_id:desc"):
        current = await in_file.get(f"/usage?{query}")
        of_period = await in_file.get(f"/usage?{query}&period={period['period']}")
        assert await of_period.read() == await current.read()
