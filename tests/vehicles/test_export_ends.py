"""Exports that end midway, by the death of who has a part in them, or by leaving.

The caller never takes a part of the file for the whole, and no child is left.
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
from aiohttp import AddrInfoType, ClientPayloadError, ClientSession, TCPConnector
from structlog.typing import EventDict

from service.app import create_app
from service.serving import listening
from service.settings import Storage
from service.vehicles import export
from tests.conftest import POSTGRESQL
from tests.leftovers import child_pids, open_files, processes, wait_for_end
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
    read_table,
    spoil,
    table_of,
)

FREE_PORT: Final = {"port": 0, "drain_s": 0.0}


@pytest.fixture
async def wide(serve: Serve, storage: Storage) -> AsyncIterator[ClientSession]:
    """A caller of the service, whose file is too large to be sent before it is read."""
    await fill(storage, WIDE_ROWS, is_wide=True)
    settings = serve.settings(sandbox=IN_SANDBOX, server=FREE_PORT)
    async with (
        listening(create_app(settings), settings.server) as url,
        ClientSession(url) as session,
    ):
        yield session


def has_failures(entries: list[EventDict], count: int) -> bool:
    """Whether so many have failed."""
    return len(failures(entries)) == count


# --- failing midway -----------------------------------------------------------------


async def test_a_killed_child_breaks_the_transfer(
    wide: ClientSession, added: Added, log_entries: list[EventDict]
) -> None:
    """The caller sees that the file is not whole, and the service goes on."""
    before = child_pids()
    answer, child = await begin(wide)
    os.kill(child, signal.SIGKILL)

    with pytest.raises(ClientPayloadError):
        await answer.read()

    assert failures(log_entries) == [("ExportFailed", "it has ended with -9")]
    assert added("exports", outcome="ExportFailed") == 1
    assert child_pids() == before
    assert not named(log_entries, "http.error")
    assert (await wide.get("/health/live")).status == 200


@on_sqlite
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_broken_database_breaks_the_transfer(
    serve: Serve,
    storage: Storage,
    tmp_path: Path,
    log_entries: list[EventDict],
    version: str,
) -> None:
    """Whatever version of HTTP: it is a reset, and no end as of a whole answer."""
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
    """PostgreSQL ends the connection while it sends the rows."""
    answer, _ = await begin(wide)
    connection = await asyncpg.connect(POSTGRESQL)
    ended = await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'COPY%FROM vehicles%' AND pid <> pg_backend_pid()"
    )
    await connection.close()

    with pytest.raises(ClientPayloadError):
        await answer.read()

    assert len(ended) == 1
    assert [kind for kind, _ in failures(log_entries)] == ["ExportFailed"]


async def test_who_leaves_ends_the_child(
    wide: ClientSession, until: Until, added: Added, log_entries: list[EventDict]
) -> None:
    """Nothing is made that nobody will read."""
    before = child_pids()
    answer, _ = await begin(wide)
    answer.close()

    await until(partial(has_failures, log_entries, 1))

    assert child_pids() == before
    ((error_type, _),) = failures(log_entries)
    assert error_type == "ClientConnectionResetError"
    assert added("exports", outcome=error_type) == 1
    assert not named(log_entries, "http.error")


@on_sqlite
async def test_nothing_is_left_over(
    wide: ClientSession, until: Until, log_entries: list[EventDict]
) -> None:
    """After exports with each kind of end, no more is open than after the first."""
    await read_table(wide)
    files, children = open_files(), child_pids()

    for each in (2, 4):
        await read_table(wide)
        answer, child = await begin(wide)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ClientPayloadError):
            await answer.read()
        answer, _ = await begin(wide)
        answer.close()
        await until(partial(has_failures, log_entries, each))
    await read_table(wide)

    assert (open_files(), child_pids()) == (files, children)


# --- as it is served ----------------------------------------------------------------


@on_sqlite
async def test_workers_export_and_end_what_they_have_begun(
    storage: Storage, tmp_path: Path
) -> None:
    """On the loop and under the signals of workers; SIGTERM leaves no child behind."""
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
    """A socket that takes little ahead: the kernel would have room for the file."""
    family, kind, protocol, *_ = info
    narrow = socket.socket(family, kind, protocol)
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    return narrow


def exporting(service: int) -> list[int]:
    """The processes that make a file for the workers of a service."""
    everything = list(processes())
    workers = {each.pid for each in everything if each.parent == service}
    program = str(export.PROGRAM)
    return [
        each.pid
        for each in everything
        if each.parent in workers and program in each.command.split("\0")
    ]
