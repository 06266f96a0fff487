"""The asynchronous client over real sockets: the event loop, tasks and the end."""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from copilot_usage_client import AsyncClient, Problem
from copilot_usage_client import async_client as async_client_module
from copilot_usage_client.delivery import Delivery
from tests.clients.answering import Reply, Server, always, answering, receipt
from tests.clients.conftest import spooled, view_pages
from tests.patience import GIVE_UP_S
from tests.ports import free_port
from tests.running import until

MakeAsync = Callable[..., AsyncClient]


@pytest.fixture
def make_async(server: Server, spool_dir: Path, problems: list[Problem]) -> MakeAsync:
    """Return a factory of clients of the server, with a spool in the test's folder."""

    def make(**options: Any) -> AsyncClient:
        chosen = {
            "url": server.url,
            "key": "key",
            "spool_dir": spool_dir,
            "on_error": problems.append,
            "timeout_s": GIVE_UP_S,
            "close_timeout_s": GIVE_UP_S,
            **options,
        }
        return AsyncClient(**chosen)

    return make


async def test_events_arrive_whole_and_in_order(
    make_async: MakeAsync, server: Server
) -> None:
    """Leaving the context delivers all events, those before it too."""
    client = make_async(compress=True)
    ids = view_pages(client, range(10))
    async with client:
        ids += view_pages(client, range(2_500))
        assert await client.flush(GIVE_UP_S)
        assert server.accepted == ids
        ids += await asyncio.to_thread(view_pages, client, range(10))

    assert server.accepted == ids
    assert server.received[0].headers["Authorization"] == "Bearer key"


async def test_a_loop_that_only_tracks_loses_nothing(
    make_async: MakeAsync, server: Server
) -> None:
    """What the task cannot send meanwhile goes to the spool, beyond the memory."""
    async with make_async(max_memory_bytes=100_000) as client:
        ids = view_pages(client, range(3_000))
        assert client.counts.memory_bytes <= 100_000

    assert sorted(server.accepted) == ids


@pytest.mark.parametrize(
    "fail", [always(503), always(401), always(307, Location="/"), lambda _: Reply(0)]
)
async def test_what_fails_is_sent_again(
    fail: Any, make_async: MakeAsync, server: Server, problems: list[Problem]
) -> None:
    """The same events are sent until they are accepted; a refusal is reported once."""
    server.failures = iter([fail, fail])
    async with make_async() as client:
        ids = view_pages(client, range(10))

    assert server.accepted == ids
    assert [each.code for each in problems] in ([], ["refused"])


async def test_a_redirect_is_not_followed(
    make_async: MakeAsync, server: Server
) -> None:
    """No other server receives the key or the events."""
    with answering() as other:
        server.failures = iter([always(307, Location=other.url + "/events")])
        async with make_async() as client:
            ids = view_pages(client, range(10))
        assert other.received == []

    assert server.accepted == ids


async def test_an_answer_without_end_is_cut_off(
    make_async: MakeAsync, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads no more than the largest receipt has, and sends again."""
    monkeypatch.setattr(async_client_module, "MAX_ANSWER_BYTES", 10_000)
    server.failures = iter([always(202, b" " * 1_000_000)])
    async with make_async() as client:
        ids = view_pages(client, range(10))

    assert server.accepted == [*ids, *ids]


async def test_results_are_reported_in_the_event_loop(
    make_async: MakeAsync, server: Server
) -> None:
    """`on_error` runs in the thread of the loop, so it may use what belongs to it."""
    reported, here = list[tuple[str, str | None]](), threading.current_thread()

    def on_error(problem: Problem) -> None:
        assert threading.current_thread() is here
        reported.append((problem.code, problem.event_id))

    server.failures = iter([lambda _: receipt({"status": "failed"})])
    async with make_async(on_error=on_error) as client:
        (event_id,) = view_pages(client, range(1))

    assert reported == [("failed", event_id)]


async def test_closing_has_a_time_limit(
    make_async: MakeAsync, server: Server, spool_dir: Path
) -> None:
    """What the service does not confirm in time is kept, and no task is left."""
    server.failures = itertools.repeat(server.hang)
    client = make_async()
    async with client:
        view_pages(client, range(600))
        assert not await client.flush(0.01)
        assert not client._delivery.hurries
        assert not await client.close(0.01)
    assert not await client.close()
    assert not await client.flush()

    assert len(spooled(spool_dir)) == 600
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_can_be_cancelled(
    make_async: MakeAsync, server: Server, spool_dir: Path
) -> None:
    """A cancelled close leaves no task, and keeps the events."""
    server.failures = itertools.repeat(server.hang)
    client = make_async()
    view_pages(client, range(10))
    closing = asyncio.create_task(client.close())
    await asyncio.to_thread(server.hung.wait, GIVE_UP_S)
    closing.cancel()
    await asyncio.wait([closing])

    assert closing.cancelled()
    assert len(spooled(spool_dir)) == 10
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_loop_that_ends_without_close_loses_nothing(
    make_async: MakeAsync, server: Server, spool_dir: Path
) -> None:
    """At the end of the process the spool takes them; the next loop sends them."""
    away = make_async(url=f"http://127.0.0.1:{free_port()}")

    async def track() -> list[str]:
        return view_pages(away, range(10))

    ids = asyncio.run(track())
    away._finish()
    assert len(spooled(spool_dir)) == 10

    async def deliver() -> bool:
        async with make_async() as client:
            return await client.flush(GIVE_UP_S)

    assert asyncio.run(deliver())
    assert server.accepted == ids


async def test_a_defect_does_not_end_the_delivery(
    make_async: MakeAsync,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The task logs it and goes on."""
    monkeypatch.setattr(async_client_module, "FAILED_PAUSE_S", 0.0)
    real, failures = Delivery.next_request, iter([True, True])

    def fail(self: Delivery) -> Any:
        if next(failures, False):
            raise ZeroDivisionError
        return real(self)

    monkeypatch.setattr(Delivery, "next_request", fail)
    async with make_async() as client:
        ids = view_pages(client, range(10))

    assert server.accepted == ids
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_one_client_serves_one_loop_after_another(
    make_async: MakeAsync, server: Server
) -> None:
    """A loop that ends without `close` leaves its events to the next one."""
    server.failures = iter([server.hang])
    client = make_async()

    async def track() -> list[str]:
        ids = view_pages(client, range(10))
        await asyncio.to_thread(server.hung.wait, GIVE_UP_S)
        return ids

    async def deliver() -> list[str]:
        ids = view_pages(client, range(10))
        assert await client.close(GIVE_UP_S)
        return ids

    ids = asyncio.run(track())
    ids += asyncio.run(deliver())

    assert sorted(server.accepted) == ids


async def test_the_task_is_cancelled_at_any_time(make_async: MakeAsync) -> None:
    """The end of the event loop does not wait for ever, although work arrives."""
    async with make_async() as client:
        for turns in range(5):
            client._start()
            task = client._task
            assert task is not None
            await until(lambda: bool(client._woken._waiters))
            client._woken.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=GIVE_UP_S)
            assert task in done
