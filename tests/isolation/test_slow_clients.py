"""Clients that do not read: their answers share memory, and have a bound."""

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Final

import pytest

from service.server.connections import MAX_BUFFER_BYTES
from tests.isolation.conftest import BUFFER_BYTES, Serve, Service, Until, active
from tests.metric_samples import growth, value

UNSENT: Final = "copilot_usage_unsent_bytes"
DISCONNECTED: Final = "copilot_usage_slow_clients_disconnected_total"
CLIENTS: Final = 20
MANY: Final = 6_000
"""Messages whose answer exceeds all buffers of a connection many times."""
WHOLE: Final = "/usage"
SORTED: Final = "/usage?sort=message_id:desc"


async def connect(service: Service, path: str) -> socket.socket:
    """Send a request, and do not read its answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", service.port))
    request = f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(client, request.encode())
    return client


def slow(service: Service) -> list[object]:
    """The addresses of the clients that do not read, in the order of their waits."""
    waiting = service.unsent._slow
    return [each.get_extra_info("peername") for each in waiting]


async def received(client: socket.socket) -> bytes:
    """Read the rest of an answer, to the end of its connection."""
    loop = asyncio.get_running_loop()
    parts = []
    try:
        while part := await loop.sock_recv(client, 65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("path", [WHOLE, SORTED])
async def test_clients_that_do_not_read_share_one_body(
    serve: Serve, until: Until, path: str
) -> None:
    """The unsent bytes are one body and the buffers; they end with the connections."""
    async with (
        serve(MANY) as service,
        AsyncExitStack() as stack,
    ):
        whole = await service.get(path)
        for _ in range(CLIENTS):
            stack.enter_context(await connect(service, path))
        await until(lambda: len(slow(service)) == CLIENTS)

        assert value(UNSENT) > CLIENTS * MAX_BUFFER_BYTES
        assert value(UNSENT) < len(whole.body) * CLIENTS / 2
        assert (await service.get("/usage?limit=1")).status == 200
        assert (await service.get(path)).body == whole.body

        await stack.aclose()
        await until(lambda: value(UNSENT) == 0)


async def test_the_slowest_clients_are_disconnected_first(
    serve: Serve, until: Until
) -> None:
    """Beyond the bound, those go that have read nothing for the longest time."""
    read = growth()
    bound = {"max_unsent_bytes": CLIENTS // 2 * MAX_BUFFER_BYTES}
    async with serve(MANY, server=bound) as service, AsyncExitStack() as stack:
        body = (await service.get(WHOLE)).body
        clients: list[socket.socket] = []
        addresses = []
        for _ in range(CLIENTS):
            clients.append(stack.enter_context(await connect(service, WHOLE)))
            addresses.append(clients[-1].getsockname())
            # One after the other, so that each is slower than the next.
            await until(lambda: slow(service)[-1:] == addresses[-1:])

        gone = int(read(DISCONNECTED))
        assert 0 < gone < CLIENTS - 1
        assert slow(service) == addresses[gone:]
        assert value(UNSENT) <= bound["max_unsent_bytes"]
        for each in clients[:gone]:
            assert not (await received(each)).endswith(body)
        for each in clients[gone:-1]:
            each.close()
        assert (await received(clients[-1])).endswith(body)


async def test_a_lone_slow_client_may_exceed_the_bound(serve: Serve) -> None:
    """An answer that is larger than the bound can be received."""
    async with serve(MANY, server={"max_unsent_bytes": 1_000}) as service:
        answer = await service.get(SORTED)

        assert answer.status == 200
        assert answer.body.count(b"message_id") == MANY


async def test_slow_clients_are_not_in_flight(serve: Serve, until: Until) -> None:
    """More of them than `max_in_flight` leave other requests their place."""
    async with (
        serve(MANY, server={"max_in_flight": 5}) as service,
        AsyncExitStack() as stack,
    ):
        await service.get(WHOLE)
        for _ in range(CLIENTS):
            stack.enter_context(await connect(service, WHOLE))
        await until(lambda: active() >= CLIENTS)

        assert (await service.get("/usage?limit=1")).status == 200
