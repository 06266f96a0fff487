"""The sandbox as a sound upstream: answers, counts, replacements, start and stop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
import pytest
from aiohttp import ClientError, ClientSession, web
from msgspec.structs import replace
from yarl import URL

from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.periods import Period, generate_period
from service.sandbox.server import (
    SANDBOX,
    RunningSandbox,
    create_sandbox,
    running_sandbox,
)
from tests.clock import LoopTime
from tests.patience import GIVE_UP_S
from tests.sandbox.conftest import impatient

MESSAGES = "/messages/current-period"
MESSAGE = {"id": 1, "text": "Rent?", "timestamp": "2024-04-29T03:25:03.613Z"}
REPORT = {"id": 7, "name": "Short Lease Report", "credit_cost": 61}

Run = Callable[[SandboxOptions], AbstractAsyncContextManager[RunningSandbox]]
Settle = Callable[[RunningSandbox], Awaitable[None]]


async def get(session: ClientSession, path: str) -> tuple[int, bytes]:
    async with session.get(URL(path, encoded=True)) as response:
        return response.status, await response.read()


@asynccontextmanager
async def running_by_an_ordinary_runner(
    options: SandboxOptions,
) -> AsyncIterator[RunningSandbox]:
    """Serve the application as any aiohttp runner would, with aiohttp's defaults."""
    app = create_sandbox(options)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield RunningSandbox(site.name, app[SANDBOX])
    finally:
        await runner.cleanup()


async def test_messages_are_the_generated_body(session: ClientSession) -> None:
    """The messages' call answers the period's very bytes as JSON."""
    async with session.get(MESSAGES) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        body = await response.read()
    assert body == generate_period(SandboxOptions()).messages_body


async def test_every_report_is_the_generated_body(session: ClientSession) -> None:
    """Each report's call answers that report's very bytes."""
    for report_id, body in generate_period(SandboxOptions()).reports.items():
        assert await get(session, f"/reports/{report_id}") == (200, body)


@pytest.mark.parametrize(
    "path",
    [
        "/reports/999999",
        "/reports/",
        "/reports",
        "/reports/7/",
        "/reports/a/b",
        "/reports/%zz",
        "/messages/current-period/",
        "/messages",
        "/",
    ],
)
async def test_what_does_not_exist_is_404_with_json(
    running: RunningSandbox, session: ClientSession, path: str
) -> None:
    """An unknown report or path is 404 with a small JSON object."""
    running.sandbox.set_report("a/b", REPORT)
    status, body = await get(session, path)
    assert status == 404
    assert msgspec.json.decode(body) == {"error": "no such thing"}


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
async def test_only_get_is_answered(
    running: RunningSandbox, session: ClientSession, method: str
) -> None:
    """Another method is 405 and not counted: copilot's API has only GET."""
    async with session.request(method, MESSAGES) as response:
        assert response.status == 405
    assert running.sandbox.calls == {}


@pytest.mark.parametrize(
    "report_id, path",
    [
        (7, "/reports/7"),
        ("7", "/reports/7"),
        ("a/b", "/reports/a%2Fb"),
        ("a/b", "/reports/a%2fb"),
        ("..", "/reports/%2E%2E"),
        ("../messages/current-period", "/reports/..%2Fmessages%2Fcurrent-period"),
        ("a%2Fb", "/reports/a%252Fb"),
        ("a b?c=d#e", "/reports/a%20b%3Fc%3Dd%23e"),
        ("{x}", "/reports/%7Bx%7D"),
        ("two\nlines", "/reports/two%0Alines"),
        ("précis 租", "/reports/pr%C3%A9cis%20%E7%A7%9F"),
    ],
)
async def test_any_id_fits_one_segment(
    running: RunningSandbox, session: ClientSession, report_id: int | str, path: str
) -> None:
    """A percent-encoded id is found whatever it holds, and counted as it was sent."""
    running.sandbox.set_report(report_id, REPORT)
    status, body = await get(session, path)
    assert (status, msgspec.json.decode(body)) == (200, REPORT)
    assert running.sandbox.calls == {path: 1}


async def test_messages_have_a_strong_tag_of_their_body(
    running: RunningSandbox, session: ClientSession
) -> None:
    """The ETag is strong, the same for the same body, and changes with it."""
    tags = []
    for messages in ([], [], [MESSAGE]):
        running.sandbox.set_messages(messages)
        async with session.get(MESSAGES) as response:
            tags.append(response.headers["ETag"])
    assert tags[0] == tags[1] != tags[2]
    assert all(tag.startswith('"') for tag in tags)


@pytest.mark.parametrize(
    "condition, status",
    [("{}", 304), ("W/{}", 304), ('"other", {}', 304), ("*", 304), ('"other"', 200)],
    ids=["same", "weak", "listed", "any", "other"],
)
async def test_held_messages_are_not_sent_again(
    session: ClientSession, condition: str, status: int
) -> None:
    """`If-None-Match` with the tag gets 304 and no body; with another, the body."""
    async with session.get(MESSAGES) as response:
        tag = response.headers["ETag"]
    headers = {"If-None-Match": condition.format(tag)}
    async with session.get(MESSAGES, headers=headers) as response:
        assert response.status == status
        assert response.headers["ETag"] == tag
        assert (await response.read() == b"") is (status == 304)


async def test_calls_are_counted_by_path(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Every GET counts under its path, without the query, known or not."""
    for path in (MESSAGES, "/reports/1", "/reports/2", "/reports/2?again=1", "/odd"):
        await get(session, path)
    assert running.sandbox.calls == {
        MESSAGES: 1,
        "/reports/1": 1,
        "/reports/2": 2,
        "/odd": 1,
    }


async def test_requests_in_flight_are_counted(loop_time: LoopTime) -> None:
    """`in_flight` is what is handled now; `max_in_flight` the most so far."""
    async with running_sandbox(SandboxOptions(latency_ms=10_000)) as running:
        sandbox = running.sandbox
        async with (
            ClientSession(running.url) as session,
            loop_time.passing(10.0, at_each=lambda: sandbox.calls.total() // 5),
        ):
            await asyncio.gather(*(get(session, "/reports/1") for _ in range(5)))
        assert (sandbox.in_flight, sandbox.max_in_flight) == (0, 5)


async def test_latency_comes_before_the_answer(
    running: RunningSandbox, session: ClientSession, settle: Settle
) -> None:
    """A latent request is received, not answered yet, and dropped with its client."""
    sandbox = running.sandbox
    sandbox.options = replace(sandbox.options, latency_ms=60_000)
    with pytest.raises(TimeoutError):
        async with impatient(running):
            await session.get("/reports/1")
    assert sandbox.calls == {"/reports/1": 1}
    sandbox.options = replace(sandbox.options, latency_ms=0)
    await settle(running)


async def test_error_rate_is_a_share_of_plain_500s(
    running: RunningSandbox, session: ClientSession
) -> None:
    """At a rate of one half, about half of the requests get 500; at 1, all."""
    sandbox = running.sandbox
    sandbox.options = replace(sandbox.options, error_rate=0.5)
    statuses = [(await get(session, MESSAGES))[0] for _ in range(200)]
    assert set(statuses) == {200, 500}
    assert 60 < statuses.count(500) < 140
    sandbox.options = replace(sandbox.options, error_rate=1)
    assert (await get(session, MESSAGES))[0] == 500


async def test_messages_and_reports_can_be_replaced(
    running: RunningSandbox, session: ClientSession
) -> None:
    """A test's own messages and reports are served, and `None` is a 404."""
    sandbox = running.sandbox
    sandbox.set_messages([MESSAGE])
    sandbox.set_report(7, REPORT)
    _, body = await get(session, MESSAGES)
    assert msgspec.json.decode(body) == {"messages": [MESSAGE]}
    _, body = await get(session, "/reports/7")
    assert msgspec.json.decode(body) == REPORT
    sandbox.set_report(7, None)
    sandbox.set_report(8, None)
    assert (await get(session, "/reports/7"))[0] == 404
    assert (await get(session, "/reports/8"))[0] == 404


async def test_bytes_are_served_as_they_are(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Bytes need not be JSON: they are the whole body."""
    running.sandbox.set_messages(b"{broken")
    running.sandbox.set_report("x", b"")
    assert await get(session, MESSAGES) == (200, b"{broken")
    assert await get(session, "/reports/x") == (200, b"")


async def test_a_whole_period_can_be_replaced(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Setting `period` replaces the messages and all reports."""
    running.sandbox.period = Period(messages_body=b"[]", reports={"7": b"{}"})
    assert await get(session, MESSAGES) == (200, b"[]")
    assert await get(session, "/reports/7") == (200, b"{}")


async def test_options_change_the_period_only_with_its_sizes(
    running: RunningSandbox, session: ClientSession
) -> None:
    """Own messages survive a change of manner, and give way to another size."""
    sandbox = running.sandbox
    sandbox.set_messages([MESSAGE])
    sandbox.options = replace(sandbox.options, error_rate=0, faults=Faults())
    assert (await get(session, MESSAGES))[1].count(b'"text"') == 1
    sandbox.options = replace(sandbox.options, messages=3)
    assert (await get(session, MESSAGES))[1].count(b'"text"') == 3


async def test_generating_waits_for_a_need() -> None:
    """No period is made before the start, so that a test's own costs nothing."""
    made = SandboxOptions(messages=2)
    sandbox = create_sandbox(SandboxOptions(messages=1_000_000))[SANDBOX]
    sandbox.options = made
    assert sandbox.period == generate_period(made)


async def test_the_url_leads_to_the_asked_port(unused_tcp_port: int) -> None:
    """`url` has the host and port and no slash at its end."""
    async with running_sandbox(port=unused_tcp_port) as running:
        assert running.url == f"http://127.0.0.1:{unused_tcp_port}"


NEVER_ENDING = pytest.mark.parametrize(
    "options",
    [
        SandboxOptions(faults=Faults(hang=1, path="/messages")),
        SandboxOptions(faults=Faults(slow_drip=1, path="/messages")),
        SandboxOptions(faults=Faults(huge_body=1, path="/messages")),
    ],
    ids=["hang", "slow_drip", "huge_body"],
)
EITHER_RUNNER = pytest.mark.parametrize(
    "run",
    [running_sandbox, running_by_an_ordinary_runner],
    ids=["own runner", "ordinary runner"],
)


@EITHER_RUNNER
@NEVER_ENDING
async def test_what_never_ends_ends_with_its_client(
    run: Run, options: SandboxOptions, settle: Settle
) -> None:
    """Nothing stays in flight for a client that left, whoever runs the server."""
    async with run(options) as running:
        async with ClientSession(running.url) as session:
            with pytest.raises(TimeoutError):
                async with impatient(running):
                    await get(session, MESSAGES)
        await settle(running)
        assert running.sandbox.max_in_flight > 0


async def test_a_reset_that_comes_too_late_is_harmless(settle: Settle) -> None:
    """A client that left before its connection was to be reset troubles nobody."""
    options = SandboxOptions(latency_ms=400, faults=Faults(reset=1, path="/messages"))
    async with running_by_an_ordinary_runner(options) as running:
        async with ClientSession(running.url) as session:
            with pytest.raises(TimeoutError):
                async with impatient(running):
                    await get(session, MESSAGES)
        await settle(running)
        assert running.sandbox.calls[MESSAGES] == 1


@EITHER_RUNNER
@NEVER_ENDING
async def test_stopping_does_not_wait_for_what_never_ends(
    run: Run, options: SandboxOptions
) -> None:
    """The server stops though a request is under way, and its client is told."""
    async with asyncio.timeout(GIVE_UP_S), ClientSession() as session:
        async with run(options) as running:
            asking = asyncio.create_task(get(session, running.url + MESSAGES))
            while not running.sandbox.in_flight:
                await get(session, running.url + "/nothing-here")
        with pytest.raises(ClientError):
            await asking


@EITHER_RUNNER
async def test_stopping_does_not_wait_for_latency(run: Run) -> None:
    """A request that waits for its latency is broken off too."""
    async with asyncio.timeout(GIVE_UP_S), ClientSession() as session:
        async with run(SandboxOptions(latency_ms=600_000)) as running:
            with pytest.raises(TimeoutError):
                async with impatient(running):
                    await session.get(running.url + MESSAGES)
            asking = asyncio.create_task(get(session, running.url + MESSAGES))
            with pytest.raises(TimeoutError):
                async with impatient(running):
                    await session.get(running.url + MESSAGES)
        with pytest.raises(ClientError):
            await asking
