"""Idle connections of one client leave room for those of others."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

import pytest

from service.server import connection_server
from tests.isolation.conftest import Held, Serve, Until
from tests.metric_samples import growth, value
from tests.patience import GIVE_UP_S
from tests.running import ask

LIMIT: Final = 10
MANY: Final = 130
BURST: Final = 5
CLOSED: Final = "copilot_usage_connections_closed_total"


async def test_the_longest_idle_connections_make_room(serve: Serve) -> None:
    """Each new connection is answered, and the oldest idle ones are closed."""
    read = growth()
    async with serve(server={"max_connections": LIMIT}) as service:
        opened = []
        for _ in range(2 * LIMIT):
            opened.append(await asyncio.open_connection("127.0.0.1", service.port))
            assert (await ask(*opened[-1], "/health/live")).status == 200

        oldest, newest = opened[0], opened[-1]
        assert await oldest[0].read() == b""
        assert (await ask(*newest, "/health/live")).status == 200
        assert read(CLOSED, state="idle") == LIMIT
        for _, writer in opened:
            writer.close()


class Client(NamedTuple):
    """An open connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def idle_clients(port: int, number: int) -> AsyncIterator[list[Client]]:
    """Connections that had an answer, one after the other."""
    clients = []
    async with AsyncExitStack() as stack:
        for _ in range(number):
            clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
            stack.callback(clients[-1].writer.close)
            assert (await ask(*clients[-1], "/health/live")).status == 200
        yield clients


async def connect_at_once(port: int, number: int) -> list[Client]:
    """Connections that the server accepts in one turn of the event loop."""
    # Nothing is awaited in between, so that the loop does nothing.
    address = "127.0.0.1", port
    made = [socket.create_connection(address) for _ in range(number)]
    return [Client(*await asyncio.open_connection(sock=each)) for each in made]


async def test_a_burst_closes_as_many_idle_connections_as_it_needs(
    serve: Serve, until: Until
) -> None:
    """The oldest ones are closed, and all others are answered, the new ones first."""
    read = growth()
    async with (
        serve(server={"max_connections": MANY}) as service,
        idle_clients(service.port, MANY) as clients,
    ):
        new = await connect_at_once(service.port, BURST)
        await until(lambda: read(CLOSED, state="idle") >= BURST)

        for each in (*new, *clients[BURST:]):
            assert (await ask(*each, "/health/live")).status == 200
        for each in clients[:BURST]:
            assert await each.reader.read() == b""
        assert read(CLOSED, state="idle") == BURST
        assert read(CLOSED, state="new") == 0
        for each in new:
            each.writer.close()


async def test_further_connections_find_room(
    serve: Serve, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some more idle ones are closed, so that not each new one looks for room."""
    spare = 10
    monkeypatch.setattr(connection_server, "SPARE_DIVISOR", MANY // spare)
    read = growth()
    async with (
        serve(server={"max_connections": MANY}) as service,
        idle_clients(service.port, MANY) as clients,
    ):
        new = await connect_at_once(service.port, 1)
        await until(lambda: read(CLOSED, state="idle") > 0)
        new += await connect_at_once(service.port, spare)

        for each in (*new, *clients[1 + spare :]):
            assert (await ask(*each, "/health/live")).status == 200
        assert read(CLOSED, state="idle") == 1 + spare
        assert read(CLOSED, state="new") == 0
        for each in new:
            each.writer.close()


async def test_connections_that_are_closing_make_room(serve: Serve) -> None:
    """New connections in place of those that their clients close need no more room."""
    read = growth()
    async with (
        serve(server={"max_connections": MANY}) as service,
        idle_clients(service.port, MANY) as clients,
    ):
        for each in clients[-BURST:]:
            connection = each.writer.get_extra_info("socket")
            connection.shutdown(socket.SHUT_WR)
        new = await connect_at_once(service.port, BURST)

        for each in (*new, *clients[:-BURST]):
            assert (await ask(*each, "/health/live")).status == 200
        assert read(CLOSED, state="idle") == read(CLOSED, state="new") == 0
        for each in new:
            each.writer.close()


async def is_answered(port: int) -> bool:
    """Whether the service answers on a new connection."""
    try:
        async with idle_clients(port, 1):
            return True
    except (OSError, EOFError):
        return False


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
async def test_connections_of_one_address_are_bounded(
    trusted: list[str], serve: Serve, until: Until
) -> None:
    """One too many is closed, others are answered; proxies have no bound."""
    read = growth()
    bounds = {"max_connections_per_address": BURST}
    proxies = {"trusted_proxies": trusted}
    async with (
        serve(server=bounds, limits=proxies) as service,
        idle_clients(service.port, BURST) as clients,
    ):
        (extra,) = await connect_at_once(service.port, 1)
        if trusted:
            assert (await ask(*extra, "/health/live")).status == 200
        else:
            await until(lambda: read(CLOSED, state="address") == 1)
            assert (await ask(*clients[0], "/health/live")).status == 200
            clients[0].writer.close()
            async with asyncio.timeout(GIVE_UP_S):
                while not await is_answered(service.port):
                    pass
        extra.writer.close()


async def test_busy_connections_are_not_closed(
    serve: Serve, held: Held, until: Until
) -> None:
    """While all wait for answers, a new connection is refused instead."""
    read = growth()
    bounds = {"max_connections": 3}
    async with serve(server=bounds, limits={"queue_wait_s": 60.0}) as service:
        await service.get("/usage")
        path = "/usage?sort=message_id:desc&limit={}"
        busy = [await service.send(path.format(number + 1)) for number in range(3)]
        await until(
            lambda: value("copilot_usage_lane_waiting", lane="usage_queries") == 2
        )

        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        try:
            received = await reader.read()
        except ConnectionResetError:
            received = b""

        assert received == b""
        assert read(CLOSED, state="new") == 1
        for each in (*busy, writer):
            each.close()
