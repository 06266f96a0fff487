"""Work of clients that end their half of the connection, or all of it."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

import pytest

from service.sandbox.fake_vpic import VPIC_PATH
from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.usage import view
from service.usage.snapshots import queries
from service.vehicles.store import VehicleStore
from service.web import client_stream
from tests.conftest import message
from tests.isolation import vehicles
from tests.isolation.conftest import MESSAGES, Held, Until, active
from tests.isolation.vehicles import ServeVehicles, Vehicles, running, waiting
from tests.metric_samples import growth
from tests.running import ask_once
from tests.vehicles.conftest import on_sqlite, vin, vins
from tests.vehicles.exporting import WIDE_ROWS, fill

serve = vehicles.serve

ENDED: Final = "http_server_request_duration_seconds_count"
PATIENT: Final = {"queue_wait_s": 3_600.0}
TWO_AT_ONCE: Final = {"max_lookups": 2, "storage_wait_s": 3_600.0, "held_s": 3_600.0}
"""One client has one of two slots."""


class Work(NamedTuple):
    """A kind of request that works until a test releases it."""

    lane: str
    route: str
    send: Callable[[int], bytes]
    """Returns the bytes of the request of a number."""


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def _post_vins(number: int) -> bytes:
    body = json.dumps({"vins": vins(200)[number * 10 : number * 10 + 10]})
    head = "POST /vehicles/lookup HTTP/1.1\r\nHost: a\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


USAGE: Final = Work(
    "usage_queries",
    "/usage",
    lambda number: _get(f"/usage?sort=credits_used:desc&limit={number + 1}"),
)
LOOKUP: Final = Work(
    "vehicle_lookups",
    "/vehicles/lookup",
    lambda number: _get(f"/vehicles/lookup?vin={vin(number)}"),
)
BATCH: Final = Work("vehicle_lookups", "/vehicles/lookup", _post_vins)
EXPORT: Final = Work(
    "vehicle_exports", "/vehicles/export", lambda _: _get("/vehicles/export")
)
QUEUED: Final = [
    pytest.param(USAGE, id="usage"),
    pytest.param(LOOKUP, id="lookup"),
    pytest.param(BATCH, id="batch"),
]
ALL: Final = [*QUEUED, pytest.param(EXPORT, id="export")]
"""Exports have no queue."""


@pytest.fixture
def may_read(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold all reads of vehicles until this is set."""
    find, may_read = VehicleStore.find, asyncio.Event()

    async def find_late(store: VehicleStore, *vins: Any) -> Any:
        await may_read.wait()
        return await find(store, *vins)

    monkeypatch.setattr(VehicleStore, "find", find_late)
    return may_read


@pytest.fixture
async def service(
    serve: ServeVehicles, sandbox: RunningSandbox, held: Held, may_read: asyncio.Event
) -> AsyncIterator[Vehicles]:
    """A service whose queries, reads of the database and exports do not end."""
    sandbox.sandbox.set_messages([message(number) for number in range(MESSAGES)])
    async with serve(vehicles=TWO_AT_ONCE, limits=PATIENT) as service:
        yield service
        may_read.set()
        held.is_released.set()


async def connect(service: Vehicles, sent: bytes) -> asyncio.StreamWriter:
    """Send a request, and do not read its answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(sent)
    await writer.drain()
    return writer


def ended(work: Work) -> Callable[[int], bool]:
    """Return a function that returns if so many requests ended without a client."""
    read = growth()
    method = "POST" if work is BATCH else "GET"
    labels = {"http_request_method": method, "http_route": work.route}

    def has_ended(count: int) -> bool:
        return read(ENDED, **labels, http_response_status_code="499") == count

    return has_ended


def leave(writer: asyncio.StreamWriter, *, is_half: bool) -> None:
    """End a client's half of a connection, or reset the whole connection."""
    if is_half:
        writer.write_eof()
        return
    linger = struct.pack("ii", 1, 0)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@on_sqlite
@pytest.mark.parametrize("work", ALL)
@pytest.mark.parametrize("is_half", [True, False], ids=["half", "whole"])
async def test_work_of_a_client_that_left_is_ended(
    service: Vehicles,
    sandbox: RunningSandbox,
    storage: StorageSettings,
    until: Until,
    *,
    may_read: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
    work: Work,
    is_half: bool,
) -> None:
    """After a while if only its half is closed; at once if the connection is.

    A read of the database ends within its own time limit.
    """
    allowed_s = 0.05 if is_half else 3_600.0
    monkeypatch.setattr(client_stream, "HALF_CLOSED_S", allowed_s)
    if work is EXPORT:
        source = sandbox.url + VPIC_PATH
        await fill(storage, WIDE_ROWS, source=source, is_wide=True)
    has_ended = ended(work)
    writer = await connect(service, work.send(0))
    if not is_half:
        await until(lambda: running(work.lane) == 1)
    leave(writer, is_half=is_half)

    await until(lambda: has_ended(1))
    if work in {LOOKUP, BATCH}:
        assert running(work.lane) == 1
        may_read.set()
    await until(lambda: running(work.lane) == 0)
    writer.close()


@on_sqlite
@pytest.mark.parametrize("work", QUEUED)
@pytest.mark.parametrize("is_half", [True, False], ids=["half", "whole"])
async def test_a_client_that_leaves_before_its_work_begins_is_dropped(
    service: Vehicles,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    *,
    work: Work,
    is_half: bool,
) -> None:
    """It does not wait in the queue; the client whose work runs keeps its slot."""
    monkeypatch.setattr(client_stream, "HALF_CLOSED_S", 3_600.0)
    has_ended = ended(work)
    first = await connect(service, work.send(0))
    await until(lambda: running(work.lane) == 1)

    left = [await connect(service, work.send(number)) for number in range(1, 4)]
    for writer in left:
        leave(writer, is_half=is_half)
    await until(lambda: has_ended(3))

    assert (running(work.lane), waiting(work.lane)) == (1, 0)
    leave(first, is_half=False)
    await until(lambda: has_ended(4))
    for writer in left:
        writer.close()


@on_sqlite
async def test_equal_work_ends_with_its_last_client(
    service: Vehicles, until: Until
) -> None:
    """It goes on for a client that shares it, and not for one that has left."""
    has_ended = ended(USAGE)
    first, second = [await connect(service, USAGE.send(0)) for _ in range(2)]
    await until(lambda: running(USAGE.lane) == 1 and active() == 2)

    leave(first, is_half=False)
    await until(lambda: has_ended(1))
    leave(second, is_half=False)
    await until(lambda: has_ended(2))

    await until(lambda: running(USAGE.lane) == 0)


@on_sqlite
async def test_shared_work_keeps_the_slot_of_a_client_that_left(
    service: Vehicles, held: Held, until: Until
) -> None:
    """Otherwise pairs of clients could have any number of queries computed at once."""
    has_ended = ended(USAGE)
    first, second = [await connect(service, USAGE.send(0)) for _ in range(2)]
    await until(lambda: held.running == 1 and active() == 2)

    leave(first, is_half=False)
    await until(lambda: has_ended(1))
    third = await connect(service, USAGE.send(1))
    await until(lambda: waiting(USAGE.lane) == 1)

    assert (running(USAGE.lane), held.running) == (1, 1)
    leave(second, is_half=False)
    # The work ends with its last client, and its slot is that of the next one.
    await until(lambda: held.cancelled == 1)
    await until(lambda: waiting(USAGE.lane) == 0)
    assert running(USAGE.lane) == 1
    leave(third, is_half=False)
    await until(lambda: has_ended(3))


@on_sqlite
async def test_a_forecast_goes_on_without_the_client_that_began_it(
    service: Vehicles, held: Held, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disconnection is no failure of the others."""
    days = held.until_released(queries.daily_usage)
    monkeypatch.setattr(queries, "daily_usage", days)
    # Of a period with too many quarters of an hour, the worker makes the sums.
    monkeypatch.setattr(view, "encode_daily", lambda *_: None)
    first = await connect(service, _get("/usage/forecast"))
    await until(lambda: held.running == 1)
    second = asyncio.create_task(ask_once(service.port, "/usage/forecast"))
    await until(lambda: active() == 2)
    await ask_once(service.port, "/health/live")  # the second one waits meanwhile

    leave(first, is_half=False)
    await until(lambda: active() == 1)
    held.is_released.set()

    assert (await second).status == 200
