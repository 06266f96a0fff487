"""A view answers everything from one snapshot under one plan."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from service.settings import load
from service.usage.encodings import REVISION_HEADER, Answer, answer_headers
from service.usage.freshness import Policy
from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE, Plan
from service.usage.reports import Resolved
from service.usage.snapshots.build import ResolvedReports
from service.usage.snapshots.errors import MessageNotFound
from service.usage.snapshots.formats import FORMATS, JSON, NDJSON
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.snapshot import Snapshot
from service.usage.snapshots.store import Logging, SnapshotStore
from service.usage.snapshots.worker import InlineWorker, ProcessWorker, Worker
from service.usage.view import View
from tests.reference import body_of, message

POLICY: Final = Policy.of(load().settings.cache)
MESSAGES: Final = [message(n, "rent " * n) for n in range(1, 9)]


async def view_in(
    worker: Worker, number: int, messages: list[dict[str, Any]], plan: Plan = TEXT_RULES
) -> View:
    """Build a snapshot in a worker, price it under a plan, and return the view."""
    await worker.load(number, bytearray(body_of(messages)), None)
    none, logging = ResolvedReports((), ()), Logging("a1", 0)
    default = TEXT_RULES.id
    built = await worker.compute(
        SnapshotStore.build, number, None, none, logging, plan=default
    )
    priced = await worker.query(SnapshotStore.price, number, plan.id, logging)
    body = await worker.answer(number, default, JSON)
    snapshot = Snapshot(
        number=number,
        revision=f"r{number}",
        refresh_id="a1",
        etag=None,
        digest="",
        reports=Resolved({}, set()),
        plan=TEXT_RULES,
        summary=built.summary,
        answer=await Answer.of(body, JSON, answer_headers(built.summary, "r")),
        worker=worker,
        has_texts=True,
    )
    return View(snapshot, plan, priced.summary, POLICY.judge(0.0))


@pytest.fixture(params=[InlineWorker, ProcessWorker])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    worker: Worker = request.param()
    yield worker
    await worker.close()


async def everything_of(view: View) -> list[object]:
    answers = [await view.answer(media_type) for media_type in FORMATS]
    return [
        *(bytes(answer.body) for answer in answers),
        await view.extract(JSON, Selection(limit=2)),
        await view.explain(3),
        await view.daily(None),
        await view.daily("Asia/Kathmandu"),
        await view.by_report(),
        view.headers,
    ]


async def test_view_answers_from_its_own_snapshot(worker: Worker) -> None:
    """A later snapshot changes nothing for a request that has begun."""
    old = await view_in(worker, 1, MESSAGES)
    before = await everything_of(old)
    new = await view_in(worker, 2, [each | {"text": "x" * 101} for each in MESSAGES])

    assert await everything_of(old) == before
    after = await everything_of(new)
    assert all(one != other for one, other in zip(before, after, strict=True))


async def test_answers_of_a_view_agree(worker: Worker) -> None:
    """The sums of the list, the days and the reports are the summary's."""
    for number, plan in enumerate((TEXT_RULES, TOKEN_ESTIMATE), start=1):
        view = await view_in(worker, number, MESSAGES, plan)
        listed = msgspec.json.decode((await view.answer(JSON)).body)["usage"]
        days = msgspec.json.decode(await view.daily(None))["days"]
        text = msgspec.json.decode(await view.by_report())["text"]
        sums = [sum(each["credits_used"] for each in rows) for rows in (listed, days)]
        total = view.summary.credits_total
        assert [round(each, 2) for each in (*sums, text["credits_used"])] == [total] * 3


async def test_headers_name_plan_and_revision(worker: Worker) -> None:
    """Every answer says which snapshot it belongs to."""
    view = await view_in(worker, 7, MESSAGES, TOKEN_ESTIMATE)
    assert view.headers == {"Usage-Plan": "token-estimate/1", REVISION_HEADER: "r7"}
    assert (await view.answer(NDJSON)).headers == view.headers


async def test_derived_answers_are_computed_once(worker: Worker) -> None:
    """The default answer is the snapshot's own; others are kept with it."""
    view = await view_in(worker, 1, MESSAGES)
    assert await view.answer(JSON) is view.snapshot.answer
    first, second = await asyncio.gather(view.answer(NDJSON), view.answer(NDJSON))
    assert first is second is await view.answer(NDJSON)
    assert await view.daily("Europe/London") is await view.daily("Europe/London")
    assert await view.by_report() is await view.by_report()


async def test_message_that_is_not_in_the_snapshot(worker: Worker) -> None:
    """The error of the worker reaches the request."""
    view = await view_in(worker, 1, MESSAGES)
    with pytest.raises(MessageNotFound):
        await view.explain(99)
