"""From an answer to its calculation: revisions and refresh ids, in headers and log."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import pytest
import redis
import zstandard
from pytest_aiohttp.plugin import AiohttpClient
from structlog.typing import EventDict

from service.app import create_app
from service.sandbox.server import RunningSandbox
from service.usage.handlers import SNAPSHOTS
from tests.clock import Clock
from tests.conftest import Client, MakeSettings, always, message, report
from tests.patience import GIVE_UP_S
from tests.redis_servers import RedisDouble, RedisServer
from tests.usage.conftest import MESSAGES, Until, published

TTL_S: Final = 60.0
CACHE: Final = {
    "ttl_s": TTL_S,
    "stale_if_error_s": 1_000.0,
    "pause_after_failure_s": 0.0,
    "report_ttl_s": 10_000.0,
    "stale_wait_s": GIVE_UP_S,
}
TEXT: Final = "a text that nobody else may read"
OLD: Final = [message(1, report_id=7), message(2, TEXT)]
NEW: Final = [*OLD, message(3, f"{TEXT}, or write")]
DIFFERENT: Final = [*OLD, message(4, TEXT[:9])]
PATHS: Final = (
    *("/usage", "/usage/1", "/usage/2", "/usage/daily", "/usage/reports"),
    *("/usage?limit=1", "/usage?sort=timestamp:desc", "/usage/daily?tz=Asia/Tokyo"),
)
HEADER: Final = "Usage-Revision"

Serve = Callable[..., Awaitable[Client]]


@pytest.fixture
def serve(
    settings: MakeSettings, aiohttp_client: AiohttpClient, sandbox: RunningSandbox
) -> Serve:
    """A factory of services of one upstream."""
    sandbox.sandbox.set_report(7, report(7, "Short Lease Report", 61))
    sandbox.sandbox.set_messages(OLD)

    async def make(**cache: Any) -> Client:
        upstream = {"base_url": sandbox.url, "attempts": 1}
        made = settings(upstream=upstream, cache=CACHE | cache)
        return await aiohttp_client(create_app(made))

    return make


@pytest.fixture
async def two(serve: Serve, double: RedisDouble, clock: Clock) -> list[Client]:
    """Return two services that share a Redis, without a snapshot."""
    del double, clock
    return [await serve(redis_url="redis://a.test") for _ in range(2)]


def events(entries: list[EventDict], *names: str) -> list[EventDict]:
    return [each for each in entries if each["event"] in names]


async def revision_of(service: Client, path: str = "/usage", **headers: str) -> str:
    response = await service.get(path, headers=headers)
    assert response.status in {200, 304}
    return response.headers[HEADER]


# --- one process --------------------------------------------------------------------


async def test_each_answer_names_its_revision(serve: Serve) -> None:
    """Whatever the path, the plan, the format, or the status."""
    service = await serve()
    response = await service.get("/usage")
    revision, etag = response.headers[HEADER], response.headers["ETag"]

    paths = [*PATHS, "/v1/usage", "/usage?plan=token-estimate"]
    assert {await revision_of(service, path) for path in paths} == {revision}
    assert await revision_of(service, Accept="text/csv") == revision
    assert await revision_of(service, **{"If-None-Match": etag}) == revision
    assert (await service.head("/usage")).headers[HEADER] == revision


async def test_a_revision_changes_with_the_figures_alone(
    serve: Serve, sandbox: RunningSandbox, clock: Clock
) -> None:
    """A refresh that finds nothing new keeps it; its number grows with each new one."""
    service = await serve()
    assert service.app is not None
    cache = service.app[SNAPSHOTS]
    seen = []
    for messages in (OLD, OLD, NEW, OLD + NEW[2:], DIFFERENT):
        sandbox.sandbox.set_messages(messages)
        revision = await revision_of(service)
        assert cache.current is not None
        seen.append((cache.current.snapshot.number, revision))
        clock.pass_s(TTL_S)

    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert len(set(seen)) == 3
    assert seen == sorted(seen, key=lambda each: each[0])


async def test_one_value_leads_from_an_answer_to_its_calculation(
    serve: Serve, sandbox: RunningSandbox, clock: Clock, log_entries: list[EventDict]
) -> None:
    """Lines of a refresh carry its ids, and the line of each answer those as well."""
    service = await serve()
    for messages in (OLD, NEW):
        sandbox.sandbox.set_messages(messages)
        log_entries.clear()
        revision = await revision_of(service)
        found = [each for each in log_entries if each.get("revision") == revision]
        assert found == log_entries
        assert len({each["refresh_id"] for each in found}) == 1
        assert {each["event"] for each in found} >= {
            *("usage.refresh.started", "usage.refresh.finished", "http.request"),
            *("upstream.request", "credits.step", "credits.rated"),
        }
        clock.pass_s(TTL_S)


async def test_a_cached_answer_leads_to_its_calculation_too(
    serve: Serve, log_entries: list[EventDict]
) -> None:
    """Later answers, from the fast path too, name the refresh of the snapshot."""
    service = await serve()
    for path in ("/usage", "/usage", *PATHS):
        await service.get(path)

    answers = events(log_entries, "http.request")
    (finished,) = events(log_entries, "usage.refresh.finished")
    for each in answers:
        assert each["revision"] == finished["revision"]
        assert each["refresh_id"] == finished["refresh_id"]


async def test_a_message_leads_to_the_refresh_that_logged_its_steps(
    serve: Serve, sandbox: RunningSandbox, clock: Clock, log_entries: list[EventDict]
) -> None:
    """Also after later refreshes, which log only what has changed."""
    service = await serve()
    await service.get("/usage")
    for messages in (NEW, [*NEW, message(9)]):
        sandbox.sandbox.set_messages(messages)
        clock.pass_s(TTL_S)
        await service.get("/usage")

    for message_id in (1, 2, 3, 9):
        assert_leads_to_steps(log_entries, await ask(service, log_entries, message_id))


async def ask(
    service: Client, log_entries: list[EventDict], message_id: int
) -> EventDict:
    """Ask for a message; return the line of the answer."""
    response = await service.get(f"/usage/{message_id}")
    assert response.status == 200
    return events(log_entries, "http.request")[-1]


def assert_leads_to_steps(log_entries: list[EventDict], answer: EventDict) -> None:
    """Assert that the line of an answer about one message leads to its steps."""
    message_id = int(answer["url.path"].rpartition("/")[2])
    steps = [
        each
        for each in events(log_entries, "credits.step")
        if each["refresh_id"] == answer["refresh_id"]
        and each["message_id"] == message_id
    ]
    assert steps


async def test_the_prices_of_another_plan_are_found_as_well(
    serve: Serve, log_entries: list[EventDict]
) -> None:
    """Prices that are computed later belong to the same snapshot."""
    service = await serve()
    revision = await revision_of(service)
    log_entries.clear()
    await service.get("/usage/2?plan=token-estimate")

    steps = events(log_entries, "credits.step")
    assert {each["plan"] for each in steps} == {"token-estimate/1"}
    assert {each["revision"] for each in log_entries} == {revision}
    assert_leads_to_steps(log_entries, events(log_entries, "http.request")[-1])


# --- processes that share -----------------------------------------------------------


async def test_processes_that_share_name_the_same_revision(
    two: list[Client],
    sandbox: RunningSandbox,
    clock: Clock,
    until: Until,
    log_entries: list[EventDict],
) -> None:
    """An adopted answer leads to the refresh of the other process."""
    first, other = two
    for messages in (OLD, NEW):
        sandbox.sandbox.set_messages(messages)
        revision = await revision_of(first)
        await published(first, until)
        for path in PATHS:
            assert await revision_of(other, path) == revision
        clock.pass_s(TTL_S)
    answers = [
        each
        for each in events(log_entries, "http.request")
        if each["url.path"] not in {"/usage/1", "/usage/2"}
    ]

    refreshes = events(log_entries, "usage.refresh.finished")
    by_revision = {each["revision"]: each["refresh_id"] for each in refreshes}
    known = [each for each in answers if each["revision"] in by_revision]
    assert known
    for each in known:
        assert each["refresh_id"] == by_revision[each["revision"]]
    for each in events(log_entries, "cache.shared.adopted"):
        assert each["revision"]
        assert each["refresh_id"]


async def test_another_plan_takes_one_fetch_where_texts_are_missing(
    two: list[Client], sandbox: RunningSandbox, until: Until
) -> None:
    """All else is answered from columns; the revision stays if nothing has changed."""
    first, other = two
    revision = await revision_of(first)
    expected = [await (await first.get(path)).read() for path in PATHS]
    plan = await (await first.get("/usage?plan=token-estimate")).read()
    await published(first, until)
    sandbox.sandbox.calls.clear()

    assert [await (await other.get(path)).read() for path in PATHS] == expected
    assert not sandbox.sandbox.calls
    for path in ("/usage?plan=token-estimate", "/usage/2?plan=token-estimate"):
        assert await revision_of(other, path) == revision
    assert await (await other.get("/usage?plan=token-estimate")).read() == plan
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_another_plan_publishes_what_upstream_has_since(
    two: list[Client], sandbox: RunningSandbox, until: Until
) -> None:
    """Prices of two plans under one revision are always of the same messages."""
    first, other = two
    revision = await revision_of(first)
    await published(first, until)
    assert await revision_of(other) == revision
    sandbox.sandbox.set_messages(NEW)
    sandbox.sandbox.calls.clear()

    response = await other.get("/usage?plan=token-estimate")
    changed = response.headers[HEADER]

    assert changed != revision
    assert len((await response.json())["usage"]) == len(NEW)
    assert {await revision_of(other, path) for path in PATHS} == {changed}
    assert len((await (await other.get("/usage")).json())["usage"]) == len(NEW)
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_a_process_that_waits_for_a_failing_refresh_says_why(
    two: list[Client],
    sandbox: RunningSandbox,
    log_entries: list[EventDict],
) -> None:
    """The 503 of a process that waited has a code and a reason in the log."""
    sandbox.sandbox.faults = always("server_error")
    first, other = two
    answers = await asyncio.gather(first.get("/usage"), other.get("/usage"))

    assert {each.status for each in answers} == {503}
    for each in events(log_entries, "http.request"):
        assert each["code"] == "messages_unavailable"
        assert each["reason"] == "upstream answered 500"
    (failed,) = events(log_entries, "cache.shared.failed")
    assert failed["reason"] == "upstream answered 500"
    assert sandbox.sandbox.calls == {MESSAGES: 1}


async def test_a_shrink_is_confirmed_by_one_process(
    two: list[Client], sandbox: RunningSandbox, clock: Clock, until: Until
) -> None:
    """A full list that another process has fetched in between starts the wait again."""
    first, other = two
    sandbox.sandbox.set_messages(NEW)
    await first.get("/usage")
    await published(first, until)
    await other.get("/usage")
    sizes = []
    turns: Sequence[tuple[Client, list[dict[str, object]]]]
    turns = ((other, []), (first, DIFFERENT), (other, []), (other, []), (other, []))
    for service, messages in turns:
        clock.pass_s(TTL_S)
        sandbox.sandbox.set_messages(messages)
        usage = (await (await service.get("/usage")).json())["usage"]
        sizes.append(len(usage))

    assert sizes == [3, 3, 3, 3, 0]  # the third one adopts


# --- texts --------------------------------------------------------------------------


@pytest.mark.services
async def test_no_text_leaves_the_process(
    tmp_path: Any, serve: Serve, until: Until, log_entries: list[EventDict]
) -> None:
    """Neither Redis nor the log ever has a text, in whatever compression."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        services = [await serve(redis_url=server.url) for _ in range(2)]
        for service in services:
            for path in (*PATHS, "/usage?plan=token-estimate"):
                assert (await service.get(path)).status == 200
            await published(service, until)
        with redis.Redis.from_url(server.url) as client:
            values = [client.get(key) or b"" for key in client.scan_iter()]
    finally:
        server.kill()

    assert values
    for each in [*values, *map(decompressed, values)]:
        assert TEXT[:9].encode() not in each
    assert TEXT not in str(log_entries)


def decompressed(value: bytes) -> bytes:
    """Return what a value holds, where it is compressed."""
    try:
        return zstandard.ZstdDecompressor().decompress(value)
    except zstandard.ZstdError:
        return b""
