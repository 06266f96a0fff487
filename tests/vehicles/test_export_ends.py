"""Exports that end early: the child, the database, the client or the service stops.

The client never takes a part of the file for the whole, and no child process is left.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from aiohttp import (
    AddrInfoType,
    ClientConnectionError,
    ClientPayloadError,
    ClientSession,
    ClientTimeout,
    TCPConnector,
)
from structlog.typing import EventDict

from service.app import create_app
from service.server.runner import listening
from service.settings import StorageSettings
from service.vehicles import export
from service.vehicles.parquet import BLOCKS_AHEAD
from tests.clock import LoopTime
from tests.conftest import POSTGRESQL
from tests.leftovers import child_pids, processes, wait_for_end
from tests.metric_samples import value
from tests.running import exit_status, running
from tests.vehicles.conftest import Added, Serve, Until, on_sqlite
from tests.vehicles.exporting import (
    IN_SANDBOX,
    MANY,
    PATH,
    WIDE_ROWS,
    begin,
    failures,
    fill,
    named,
    spoil,
    table_of,
)

UNSENT: Final = "copilot_usage_unsent_bytes"
FREE_PORT: Final = {"port": 0, "drain_s": 0.0}
MAX_STEPS: Final = 1_000
STEP_S: Final = 0.01


@pytest.fixture
async def wide(serve: Serve, storage: StorageSettings) -> AsyncIterator[ClientSession]:
    """A client of a service whose exported file is larger than the socket buffers."""
    await fill(storage, WIDE_ROWS, is_wide=True)
    settings = serve.settings(sandbox=IN_SANDBOX, server=FREE_PORT)
    async with (
        listening(create_app(settings), settings.server) as url,
        ClientSession(url) as session,
    ):
        yield session


def has_failures(entries: list[EventDict], count: int) -> bool:
    """Return True if the log has so many failed exports."""
    return len(failures(entries)) == count


# --- failing midway -----------------------------------------------------------------


async def test_a_killed_child_breaks_the_transfer(
    wide: ClientSession, added: Added, log_entries: list[EventDict]
) -> None:
    """The client gets an incomplete transfer, and the service continues."""
    before = child_pids()
    answer, child = await begin(wide)
    os.kill(child, signal.SIGKILL)

    with pytest.raises(ClientPayloadError):
        await answer.read()

    assert failures(log_entries) == [("ExportFailed", "the process ended with -9")]
    assert added("exports", outcome="ExportFailed") == 1
    assert child_pids() == before
    assert not named(log_entries, "http.error")
    assert (await wide.get("/health/live")).status == 200


@on_sqlite
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_broken_database_breaks_the_transfer(
    serve: Serve,
    storage: StorageSettings,
    tmp_path: Path,
    log_entries: list[EventDict],
    version: str,
) -> None:
    """The connection is reset, since in HTTP/1.0 a normal close ends a whole body."""
    await fill(storage, MANY)
    spoil(tmp_path / "events.db")
    client = (await serve(sandbox=IN_SANDBOX)).client
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(f"GET {PATH} HTTP/{version}\r\nHost: a.test\r\n\r\n".encode())

    head = await reader.readuntil(b"\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()

    writer.close()
    assert b" 200 OK" in head
    assert (b"Transfer-Encoding: chunked" in head) is (version == "1.1")
    ((error_type, reason),) = failures(log_entries)
    assert error_type == "ExportFailed"
    assert "malformed" in reason


@pytest.mark.services
@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
async def test_a_lost_server_breaks_the_transfer(
    wide: ClientSession, log_entries: list[EventDict]
) -> None:
    """PostgreSQL terminates the connections while it sends the rows."""
    answer, _ = await begin(wide)
    connection = await asyncpg.connect(POSTGRESQL)
    ended = await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'COPY%FROM vehicles%' AND pid <> pg_backend_pid()"
    )
    await connection.close()

    with pytest.raises(ClientPayloadError):
        await answer.read()

    assert len(ended) == BLOCKS_AHEAD
    assert [kind for kind, _ in failures(log_entries)] == ["ExportFailed"]


async def test_disconnect_ends_the_child(
    wide: ClientSession, until: Until, added: Added, log_entries: list[EventDict]
) -> None:
    """When the client disconnects, the child that writes the file is stopped."""
    before = child_pids()
    answer, _ = await begin(wide)
    answer.close()

    await until(partial(has_failures, log_entries, 1))
    await until(lambda: child_pids() == before)

    ((error_type, _),) = failures(log_entries)
    assert error_type == "ClientDisconnected"
    assert added("exports", outcome=error_type) == 1
    assert not named(log_entries, "http.error")


@pytest.mark.parametrize("does_read", [True, False], ids=["slowly", "not at all"])
async def test_duration_of_an_export_is_limited(
    serve: Serve,
    storage: StorageSettings,
    *,
    until: Until,
    loop_time: LoopTime,
    log_entries: list[EventDict],
    does_read: bool,
) -> None:
    """A client that reads too slowly, or not at all, loses its export in time."""
    await fill(storage, WIDE_ROWS, is_wide=True)
    server = FREE_PORT | {"write_timeout_s": 86_400.0 if does_read else 30.0}
    settings = serve.settings(
        sandbox=IN_SANDBOX, server=server, storage={"timeout_s": 86_400.0}
    )
    before = child_pids()
    async with (
        listening(create_app(settings), settings.server) as url,
        ClientSession(
            url,
            connector=TCPConnector(socket_factory=narrow_socket),
            timeout=ClientTimeout(total=None),
        ) as session,
    ):
        answer, _ = await begin(session)
        # The client reads no more, and soon the sockets are full.
        await until(lambda: value(UNSENT) > 0)

        # Again and again: the buffers of the system may take some more at first.
        for _ in range(MAX_STEPS):
            if has_failures(log_entries, 1):
                break
            await loop_time.pass_s(export.MAX_EXPORT_S if does_read else 30.0)
            await asyncio.sleep(STEP_S)
        assert has_failures(log_entries, 1)
        with pytest.raises((ClientPayloadError, ClientConnectionError)):
            await answer.read()
        await until(lambda: child_pids() == before)
    ((error_type, _),) = failures(log_entries)
    assert error_type == ("LaneTimeout" if does_read else "ClientDisconnected")
    assert not named(log_entries, "http.error")


# --- in workers ---------------------------------------------------------------------


@on_sqlite
async def test_workers_export_and_end_what_they_have_begun(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """A worker exports a whole file, and its child ends after SIGTERM."""
    await fill(storage, WIDE_ROWS, is_wide=True)
    given = {
        "storage__url": storage.url,
        "server__drain_s": 0.0,
        "server__shutdown_grace_s": 1.0,
    }
    with running(tmp_path / "log", "--workers", "2", **given) as service:
        url = f"http://127.0.0.1:{service.port}{PATH}"
        connector = TCPConnector(socket_factory=narrow_socket)
        async with ClientSession(connector=connector) as session:
            async with session.get(url) as answer:
                table = table_of(await answer.read())
            async with session.get(url) as answer:
                await answer.content.readexactly(4)
                children = exporting(service.process.pid)
                service.process.send_signal(signal.SIGTERM)
                status = await exit_status(service.process)
                with pytest.raises(ClientPayloadError):
                    await answer.read()

    assert table.num_rows == WIDE_ROWS
    assert (status, len(children)) == (0, 1)
    for child in children:
        wait_for_end(child)


def narrow_socket(info: AddrInfoType) -> socket.socket:
    """Return a socket with a small receive buffer, which cannot hold the file."""
    family, kind, protocol, *_ = info
    narrow = socket.socket(family, kind, protocol)
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    return narrow


def exporting(service: int) -> list[int]:
    """Return the ids of the export processes of a service's workers."""
    everything = list(processes())
    workers = {each.pid for each in everything if each.parent == service}
    program = str(export.PROGRAM)
    return [
        each.pid
        for each in everything
        if each.parent in workers and program in each.command.split("\0")
    ]
