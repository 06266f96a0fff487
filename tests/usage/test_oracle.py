"""The oracle: snapshots made in different ways give the same answers, byte by byte.

A history is a period that changes from refresh to refresh: messages are added, changed,
removed, late or duplicated, and reports change, vanish or fail. After each refresh, a
snapshot built from nothing is right by definition. One built on the snapshot before,
and one adopted from packed columns, have to answer like it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from service.app import create_app
from service.sandbox.options import SandboxOptions
from service.sandbox.server import Sandbox, running_sandbox
from service.usage.cache import SnapshotCache
from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE
from service.usage.snapshots.build import ReportPrice, ResolvedReports
from service.usage.snapshots.cursors import MessageCursor
from service.usage.snapshots.errors import TextsMissing
from service.usage.snapshots.formats import FORMATS, JSON
from service.usage.snapshots.logged_prices import LoggedPrice, Priced, PriceLogging
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.store import SnapshotStore
from service.web.parameters import parse_cursor
from tests.clock import Clock
from tests.conftest import Client, MakeSettings
from tests.redis_servers import RedisServer

Message = dict[str, Any]
Outcome = ReportPrice | None | str

FAILED: Final = "failed"
"""In `Refresh.reports`: upstream did not answer, and that is allowed."""
PLAN: Final = TEXT_RULES.id
OTHER_PLAN: Final = TOKEN_ESTIMATE.id
ZONES: Final = (None, "Europe/London", "Asia/Kathmandu")
EVERY_MESSAGE: Final = 1_000_000
MAX_STEPS: Final = 4

SELECTIONS: Final = (
    Selection(limit=2),
    Selection(sort=(("credits_used", True), ("report_name", False)), limit=3),
    Selection(sort=(("timestamp", True), ("message_id", True)), limit=1),
    Selection(sort=(("report_name", True),)),
    Selection(
        since=(1_714_361_103_613_000, 0), until=(1_717_200_000_000_000, 0), limit=2
    ),
)

TEXTS: Final = (
    "",
    "Rent?",
    "rent rent",
    "Level",
    "Tenant’s break option é漢",
    "What are the tenant obligations? " * 4,
)
TIMESTAMPS: Final = (
    "2024-04-29T03:25:03.613Z",
    "2024-04-28T23:30:00+02:00",
    "2024-03-31T01:00:00.000Z",
    "2024-05-31T23:59:59.999999",
    "2023-12-31T18:30:00Z",
)
NO_ID: Final = object()
REPORT_IDS: Final = (NO_ID, 7, "7", 8, "a/b", None, 1.5, "")
REPORT_KEYS: Final = ("7", "8", "a/b")
NAMES: Final = ("Lease Report", "Änderung", "A, B")


class Refresh(NamedTuple):
    """The changes before one refresh, and the way to make the snapshot."""

    edits: list[Callable[[list[Message]], None]]
    reports: Mapping[str, Outcome]
    adopts: bool
    """A process that shares snapshots adopts this one, instead of building it."""
    prices_other_plan: bool
    is_conditional: bool
    """Upstream answers 304 where nothing has changed."""


def as_message(message_id: int, text: str, timestamp: str, report_id: Any) -> Message:
    """Return a message; it names no report for `NO_ID`."""
    message = {"id": message_id, "text": text, "timestamp": timestamp}
    return message if report_id is NO_ID else {**message, "report_id": report_id}


def inserting(message: Message, place: int) -> Callable[[list[Message]], None]:
    """Return an edit that adds a message, mostly at the end as upstream does."""
    return lambda period: period.insert(place, message)


def changing(field: Message, place: int) -> Callable[[list[Message]], None]:
    """Return an edit that changes a field of a message, if there is one."""

    def change(period: list[Message]) -> None:
        if period:
            period[place % len(period)] = {**period[place % len(period)], **field}

    return change


def removing(place: int) -> Callable[[list[Message]], None]:
    """Return an edit that removes a message, if there is one."""

    def remove(period: list[Message]) -> None:
        if period:
            del period[place % len(period)]

    return remove


messages = st.builds(
    as_message,
    st.integers(1, 9),
    st.sampled_from(TEXTS),
    st.sampled_from(TIMESTAMPS),
    st.sampled_from(REPORT_IDS),
)
places = st.integers(0, 9)
fields = st.one_of(
    st.builds(lambda text: {"text": text}, st.sampled_from(TEXTS)),
    st.builds(lambda at: {"timestamp": at}, st.sampled_from(TIMESTAMPS)),
    st.builds(lambda key: {"report_id": key}, st.sampled_from(REPORT_IDS[1:])),
)
edits = st.one_of(
    st.builds(inserting, messages, st.just(99)),
    st.builds(inserting, messages, places),
    st.builds(changing, fields, places),
    st.builds(removing, places),
)
outcomes = st.one_of(
    st.builds(ReportPrice, st.sampled_from(NAMES), st.sampled_from([100, 6_100])),
    st.sampled_from([None, FAILED]),
)
refreshes = st.builds(
    Refresh,
    st.lists(edits, max_size=3),
    st.fixed_dictionaries(dict.fromkeys(REPORT_KEYS, outcomes)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
periods = st.lists(messages, max_size=8)
adopted = Refresh(
    edits=[],
    reports=dict.fromkeys(REPORT_KEYS),
    adopts=True,
    prices_other_plan=False,
    is_conditional=False,
)
histories = st.lists(refreshes, min_size=1, max_size=MAX_STEPS)
unhurried = settings(deadline=None, max_examples=50)
few = settings(
    deadline=None,
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


class Process:
    """The snapshots of one process: each is built on the one before, or adopted."""

    def __init__(self, name: str = "") -> None:
        self._name = name
        self.store = SnapshotStore()
        self.number = 0
        self._body = b""
        self._has_texts = False

    @property
    def refresh_id(self) -> str:
        """The id of the last refresh of this process."""
        return f"{self._name} {self.number}"

    def refresh(self, body: bytes, refresh: Refresh) -> Priced:
        """Load and build the next snapshot, as a refresh does."""
        before = self.number or None
        is_304 = refresh.is_conditional and self._has_texts and body == self._body
        self.number, self._body, self._has_texts = self.number + 1, body, True
        loaded = self.store.load(self.number, None if is_304 else body, before)
        found = [refresh.reports[key] for key in loaded.report_keys]
        priced = self.store.build(
            self.number,
            before,
            ResolvedReports(
                [each if isinstance(each, ReportPrice) else None for each in found],
                [place for place, each in enumerate(found) if each == FAILED],
            ),
            PriceLogging(self.refresh_id, EVERY_MESSAGE),
            plan=PLAN,
        )
        if before is not None:
            self.store.drop(before)
        return priced

    def adopt(self, packed: bytes) -> None:
        """Adopt what another process has packed."""
        self.store.drop(self.number)
        self.number, self._has_texts = self.number + 1, False
        self.store.adopt(self.number, packed)

    def price_other_plan(self) -> None:
        """Price the snapshot under a plan that is not the default one."""
        logging = PriceLogging(f"other plan {self.number}", 0)
        self.store.price(self.number, OTHER_PLAN, logging)

    def answers(self, plan: str = PLAN) -> dict[str, bytes]:
        """Return the bytes of every answer under a plan."""
        return dict(self._answers(plan))

    def _answers(self, plan: str) -> Iterator[tuple[str, bytes]]:
        store, number = self.store, self.number
        yield "summary", repr(store.priced(number, plan).summary).encode()
        yield "by report", store.by_report(number, plan)
        for zone in ZONES:
            yield f"daily {zone}", store.daily(number, plan, zone)
        for media_type in FORMATS:
            yield media_type, bytes(store.answer(number, plan, media_type))
            for selection in SELECTIONS:
                pages = b"\f".join(self._pages(plan, media_type, selection))
                yield f"{media_type} {selection}", pages
        for message_id in self.message_ids():
            explained = store.explain(number, plan, message_id)
            yield f"message {message_id}", explained.body

    def _pages(
        self, plan: str, media_type: str, selection: Selection
    ) -> Iterator[bytes]:
        while True:
            page = self.store.extract(self.number, plan, media_type, selection)
            yield bytes(page.body)
            if page.next is None:
                return
            selection = selection._replace(cursor=page.next)

    def message_ids(self) -> list[int]:
        """Return the id of every message, in upstream's order."""
        body = msgspec.json.decode(bytes(self.store.answer(self.number, PLAN, JSON)))
        return [item["message_id"] for item in body["usage"]]


def bodies_of(
    period: Sequence[Message], history: Sequence[Refresh]
) -> Iterator[tuple[bytes, Refresh]]:
    """Yield upstream's body at each refresh of a history."""
    now = list(period)
    for refresh in history:
        for edit in refresh.edits:
            edit(now)
        yield msgspec.json.encode({"messages": now}), refresh


@given(periods, histories)
@unhurried
def test_snapshots_made_in_any_way_answer_alike(
    period: list[Message], history: list[Refresh]
) -> None:
    """Built on the one before, adopted or built from nothing: the bytes are equal."""
    first, second = Process(), Process()
    for body, refresh in bodies_of(period, history):
        fresh = Process()
        fresh.refresh(body, refresh)
        expected = fresh.answers()

        first.refresh(body, refresh)
        assert first.answers() == expected
        if refresh.adopts:
            second.adopt(first.store.pack(first.number, PLAN))
        else:
            second.refresh(body, refresh)
        assert second.answers() == expected


@given(periods, histories)
@unhurried
def test_every_plan_prices_a_period_alike(
    period: list[Message], history: list[Refresh]
) -> None:
    """Another plan's prices are those from nothing, however long ago it was asked for.

    A process that has adopted a snapshot lacks the texts that would tell them.
    """
    first, second = Process(), Process()
    for body, refresh in bodies_of(period, history):
        first.refresh(body, refresh)
        second.adopt(first.store.pack(first.number, PLAN))
        with pytest.raises(TextsMissing):
            second.price_other_plan()
        if not refresh.prices_other_plan:
            continue

        fresh = Process()
        fresh.refresh(body, refresh)
        second.refresh(body, refresh)
        for process in (fresh, first, second):
            process.price_other_plan()
        assert first.answers(OTHER_PLAN) == fresh.answers(OTHER_PLAN)
        assert second.answers(OTHER_PLAN) == fresh.answers(OTHER_PLAN)


@given(periods, histories)
@example(
    [as_message(1, "", TIMESTAMPS[0], NO_ID)],
    [adopted, adopted._replace(edits=[changing({"text": "Rent?"}, 0)], adopts=False)],
)
@unhurried
def test_an_explanation_names_the_refresh_that_logged_its_steps(
    period: list[Message], history: list[Refresh]
) -> None:
    """Each message leads to one refresh, which logged exactly the explained steps.

    That holds too where one process logged them, and another one adopted them; also
    where a text has changed, but not its price.
    """
    first, second = Process("first"), Process("second")
    logged: dict[tuple[str, int], list[LoggedPrice]] = {}

    def note(process: Process, priced: Priced) -> None:
        for each in priced.logged:
            logged.setdefault((process.refresh_id, each.message_id), []).append(each)

    for body, refresh in bodies_of(period, history):
        note(first, first.refresh(body, refresh))
        if refresh.adopts:
            second.adopt(first.store.pack(first.number, PLAN))
        else:
            note(second, second.refresh(body, refresh))

        for process in (first, second):
            for message_id in process.message_ids():
                explained = process.store.explain(process.number, PLAN, message_id)
                found = msgspec.json.decode(explained.body)
                named = logged[explained.refresh_id, message_id]
                assert (found["source"], found["steps"]) in [
                    (each.source, msgspec.to_builtins(each.steps)) for each in named
                ]


# --- the same over HTTP -------------------------------------------------------------

MESSAGES: Final = "/messages/current-period"
TTL_S: Final = 60.0
CACHE: Final = {
    "ttl_s": TTL_S,
    "stale_while_revalidate_s": 0.0,
    "stale_if_error_s": 0.0,
    "confirm_shrink_s": 0.0,
}
"""Each refresh takes what upstream says; a stale answer is never sent."""
IN_CHILD: Final = {"own_process_bytes": 1}
QUESTIONS: Final = (
    "/usage",
    "/v1/usage?limit=2",
    "/usage?sort=credits_used:desc;report_name:asc&limit=3",
    "/usage?from=2024-04-29&to=2024-06-01",
    "/usage/daily",
    "/usage/daily?tz=Europe/London",
    "/usage/daily?tz=Asia/Kathmandu",
    "/usage/reports",
    "/usage/404",
)
COMPARED_HEADERS: Final = (
    *("Content-Type", "ETag", "Link", "Usage-Plan", "Usage-Period", "Usage-Degraded"),
)


class Services(NamedTuple):
    """Three services of one upstream: two share what they fetch, one is alone."""

    sharing: tuple[Client, Client]
    alone: Client
    sandbox: Sandbox
    clock: Clock


class Answer(NamedTuple):
    """An answer, as far as it has to be the same from each service."""

    status: int
    headers: dict[str, str]
    body: bytes
    revision: str | None


def without_mark(name: str, value: str) -> str:
    """Return a header without the part of a cursor that is a process's own history."""
    found = re.search("cursor=([^&>]+)", value) if name == "Link" else None
    if found is None:
        return value
    cursor = parse_cursor(found[1], MessageCursor)
    assert cursor is not None
    return value.replace(found[1], str(replace(cursor, mark="")))


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis for the services of every example, each with keys of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.kill()


@asynccontextmanager
async def services(
    make: MakeSettings, redis_url: str, usage: dict[str, Any]
) -> AsyncIterator[Services]:
    """Start the services; their time and the time of Redis pass by one clock."""
    clock = Clock()
    usage = {"on_report_error": "text", **usage}
    async with running_sandbox(SandboxOptions(messages=0, reports=0)) as upstream:

        def app_at(url: str) -> Client:
            made = make(
                upstream={"base_url": upstream.url, "attempts": 1},
                usage=usage,
                cache=CACHE | {"redis_url": url},
                vehicles={"enabled": False},
            )
            return TestClient(TestServer(create_app(made)))

        driven = partial(SnapshotCache, clock=clock)
        with (
            patch("service.app.SnapshotCache", driven),
            patch("service.usage.shared_cache.server_time", lambda _: clock()),
        ):
            async with (
                app_at(redis_url) as first,
                app_at(redis_url) as second,
                app_at("") as alone,
            ):
                yield Services((first, second), alone, upstream.sandbox, clock)


async def ask(client: Client, path: str) -> Answer:
    """Send one request, and return what is compared of its answer."""
    async with client.get(path, headers={"X-Request-ID": "oracle"}) as response:
        headers = {
            name: without_mark(name, response.headers[name])
            for name in COMPARED_HEADERS
            if name in response.headers
        }
        body = await response.read()
        return Answer(
            response.status, headers, body, response.headers.get("Usage-Revision")
        )


def serve(sandbox: Sandbox, body: bytes, refresh: Refresh, found: set[str]) -> None:
    """Have upstream answer so; a report that was found before does not fail.

    The process that has found it would use its own copy, and others would not.
    """
    sandbox.set_messages(body)
    for key, outcome in refresh.reports.items():
        if isinstance(outcome, ReportPrice):
            found.add(key)
            cost = outcome.hundredths / 100
            report = {"id": key, "name": outcome.name, "credit_cost": cost}
            sandbox.set_report(key, report)
        elif outcome != FAILED:
            sandbox.set_report(key, None)
        elif key not in found:
            sandbox.set_report(key, b"no report")


async def answers_of(client: Client, paths: Sequence[str]) -> list[Answer]:
    """Return the answer to each question."""
    return [await ask(client, path) for path in paths]


async def compare(made: Services, bodies: Iterator[tuple[bytes, Refresh]]) -> None:
    """Refresh through a history, and compare all answers after each refresh."""
    found: set[str] = set()
    calls = made.sandbox.calls
    for body, refresh in bodies:
        serve(made.sandbox, body, refresh, found)
        made.clock.pass_s(TTL_S)
        fetching, adopting = made.sharing[:: -1 if refresh.adopts else 1]
        ids = {each["id"] for each in msgspec.json.decode(body)["messages"]}
        paths = [*QUESTIONS, *(f"/usage/{message_id}" for message_id in ids)]
        before = calls[MESSAGES]

        answers = [
            await answers_of(each, paths) for each in (fetching, adopting, made.alone)
        ]
        assert calls[MESSAGES] - before == 2, "the other one of those who share adopts"
        assert_alike(answers)
        if refresh.prices_other_plan:
            plans = [f"{path.partition('?')[0]}?plan=token-estimate" for path in paths]
            answers += [
                await answers_of(each, plans)
                for each in (adopting, fetching, made.alone)
            ]
            assert_alike(answers[3:])
        revisions = [{each.revision for each in told} for told in answers]
        shared = set(chain(*revisions[:2], *revisions[3:5])) - {None}
        assert len(shared) == 1, "all answers name the one snapshot that is shared"
        assert len(set(chain(*revisions[2::3])) - {None}) == 1


def assert_alike(answers: Sequence[Sequence[Answer]]) -> None:
    """Hold that all services gave the same bytes and headers."""
    first, *others = [
        [each._replace(revision=None) for each in told] for told in answers
    ]
    for other in others:
        assert other == first


@pytest.mark.services
@pytest.mark.parametrize("usage", [{}, IN_CHILD], ids=["inline", "in a child"])
@given(period=periods, history=histories)
@few
def test_services_that_share_answer_like_one_that_does_not(
    period: list[Message],
    history: list[Refresh],
    usage: dict[str, Any],
    settings: MakeSettings,
    redis_url: str,
) -> None:
    """At every endpoint and under every plan, over HTTP, with Redis between two."""

    async def run() -> None:
        async with services(settings, redis_url, usage) as made:
            await compare(made, bodies_of(period, history))

    asyncio.run(run())
