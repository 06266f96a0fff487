"""Machines make one refresh together, also when the one that makes it dies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec
import pytest
import redis
from aiohttp import ClientError, ClientSession

from service.storage.redis_store import unseal
from service.usage.shared_snapshot import Manifest
from tests.conftest import message
from tests.machines.conftest import Servers
from tests.machines.site import Machine, MakeSite, Site
from tests.machines.upstream import SlowUpstream, slow_upstream
from tests.patience import GIVE_UP_S
from tests.running import LOOK_AGAIN_S, until

pytestmark = pytest.mark.services

CALLERS: Final = 4
SETTINGS: Final = {
    "health__warm_up": "false",
    "health__require_snapshot": "false",
    "cache__ttl_s": 3_600.0,
    "cache__stale_wait_s": 60.0,
    # Only requests refresh, and only those to /usage.
    "periods__refresh_s": 0.0,
    "cache__confirm_shrink_s": 0.0,
}
OLD: Final = [message(number) for number in range(1, 4)]
NEW: Final = [message(number) for number in range(1, 6)]

Answer = tuple[int, str | None, bytes]


@pytest.fixture
async def upstream() -> AsyncIterator[SlowUpstream]:
    """An upstream with a period."""
    async with slow_upstream() as upstream:
        upstream.set_messages(OLD)
        yield upstream


@pytest.fixture
def make_started(
    make_site: MakeSite, upstream: SlowUpstream
) -> Callable[..., Awaitable[Site]]:
    """A factory of three machines without a snapshot."""

    async def make(**settings: object) -> Site:
        chosen = SETTINGS | settings
        site = make_site(1, 1, 1, upstream__base_url=upstream.url, **chosen)
        for each in site.machines:
            each.start()
        for each in site.machines:
            await each.until_up()
        return site

    return make


@pytest.fixture
async def site(make_started: Callable[..., Awaitable[Site]]) -> Site:
    """Three machines whose snapshots stay fresh."""
    return await make_started()


async def ask(machine: Machine, path: str = "/usage") -> Answer:
    """Return status, ETag and body of an answer."""
    url = f"http://127.0.0.1:{machine.port}{path}"
    async with ClientSession() as session, session.get(url) as answer:
        return answer.status, answer.headers.get("ETag"), await answer.read()


def ask_all(*machines: Machine) -> list[asyncio.Task[Answer]]:
    """Send requests of several callers to each machine."""
    return [asyncio.create_task(ask(each)) for each in machines for _ in range(CALLERS)]


async def same(answers: list[asyncio.Task[Answer]]) -> str:
    """Return the ETag of answers, which must all be equal."""
    ((status, etag, _),) = set(await asyncio.gather(*answers))
    assert status == 200
    return str(etag)


async def test_machines_make_one_refresh(site: Site, upstream: SlowUpstream) -> None:
    """A slow upstream gets one call, and all callers of all machines one answer."""
    upstream.close()
    answers = ask_all(*site.machines)
    await upstream.until_fetched(1)
    upstream.open()

    await same(answers)
    await same(ask_all(*site.machines))
    assert upstream.fetches == 1


async def test_no_machine_answers_with_an_older_snapshot(
    make_started: Callable[..., Awaitable[Site]],
    servers: Servers,
    upstream: SlowUpstream,
) -> None:
    """A machine without requests has the old one, and looks for a newer one first."""
    site = await make_started(cache__ttl_s=0.0, cache__stale_while_revalidate_s=3_600.0)
    first, *idle = site.machines
    old = await same(ask_all(*site.machines))
    upstream.set_messages(NEW)
    newest = await until_changed(first, old)
    await until(lambda: shared_messages(servers) == len(NEW))
    # They adopt what is in Redis, and their own refreshes wait for upstream.
    upstream.close()

    assert [(await ask(each))[1] for each in idle] == [newest] * 2


async def test_machines_agree_again_after_an_outage_of_redis(
    make_started: Callable[..., Awaitable[Site]],
    servers: Servers,
    upstream: SlowUpstream,
) -> None:
    """Meanwhile each refreshes alone: equal answers have equal ETags, not revisions."""
    site = await make_started(cache__ttl_s=0.0, cache__stale_while_revalidate_s=0.0)
    await same(ask_all(*site.machines))
    servers.redis.kill()
    try:
        upstream.set_messages(NEW)
        alone = [await ask(each) for each in site.machines]
        assert len(set(alone)) == 1
        assert len(await revisions(site)) == len(site.machines)
    finally:
        servers.redis.start()
    for each in site.machines:
        await until(lambda: bool(each.events("cache.shared.restored")))  # noqa: B023

    async with asyncio.timeout(GIVE_UP_S):
        while len(await revisions(site)) > 1:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
    assert [await ask(each) for each in site.machines] == alone


async def revisions(site: Site) -> set[str]:
    """Return the revisions with which machines answer, one after the other."""
    found = set()
    for each in site.machines:
        url = f"http://127.0.0.1:{each.port}/usage"
        async with ClientSession() as session, session.get(url) as answer:
            found.add(answer.headers["Usage-Revision"])
    return found


async def until_changed(machine: Machine, etag: str) -> str:
    """Wait until a machine answers with another snapshot, and return its ETag."""
    async with asyncio.timeout(GIVE_UP_S):
        while (found := (await ask(machine))[1]) == etag:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
    return str(found)


def shared_messages(servers: Servers) -> int:
    """Return the number of messages of the snapshot in Redis."""
    with redis.Redis.from_url(servers.redis.url) as client:
        (key,) = client.keys("*:manifest")
        payload = unseal(key.decode(), client.get(key))
    assert payload is not None
    return msgspec.msgpack.decode(payload, type=Manifest).summary.messages


def kill(machine: Machine) -> None:
    machine.kill()


def pause(machine: Machine) -> None:
    machine.pause()


@pytest.mark.parametrize("end", [kill, pause])
async def test_another_machine_takes_a_refresh_over(
    site: Site, upstream: SlowUpstream, end: Callable[[Machine], None]
) -> None:
    """One of those that wait refreshes for all when the lock of the first has expired.

    A machine that goes on later does not bring its older snapshot back.
    """
    first, *others = site.machines
    upstream.close()
    lost = ask_all(first)
    await upstream.until_fetched(1)
    waiting = ask_all(*others)
    end(first)
    upstream.set_messages(NEW)
    await upstream.until_fetched(2)
    upstream.open()

    newest = await same(waiting)
    assert upstream.fetches == 2
    if end is pause:
        first.resume()
        await asyncio.gather(*lost)
        await until_agreed(first, newest)
    else:
        ended = await asyncio.gather(*lost, return_exceptions=True)
        assert all(isinstance(each, ClientError) for each in ended)
        first.start()
        await first.until_up()
    assert await same(ask_all(*site.machines)) == newest
    assert upstream.fetches == 2


async def until_agreed(machine: Machine, etag: str) -> None:
    """Wait until a machine answers with the snapshot of the others."""
    async with asyncio.timeout(GIVE_UP_S):
        while (await ask(machine))[1] != etag:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
