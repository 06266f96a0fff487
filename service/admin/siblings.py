"""The workers of one service: each listens on a Unix socket in a private folder.

A worker that gets an order passes it on to the others. Only the user of the service can
reach the sockets, so they need no authentication.
"""

import asyncio
import atexit
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from service.admin.model import (
    LevelOrder,
    NamedCircuitOrder,
    RefreshOrder,
    SchemasOrder,
    StateOrder,
)
from service.admin.worker import Order, Outcome, Worker

FOLDER_PREFIX: Final = "copilot-usage-admin-"
OWNER: Final = re.compile(rf"{FOLDER_PREFIX}(\d+)-\w+")
MAX_PARENT_BYTES: Final = 50
"""The name of a socket has at most 104 bytes on some systems, 108 on Linux."""
SHORT_PARENT: Final = "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it
SUFFIX: Final = ".sock"
BASE_URL: Final = "http://worker"
GONE: Final = (FileNotFoundError, ConnectionRefusedError)
"""Errors of a connection to a worker that has ended."""
ORDERS: Final[dict[str, type[Order]]] = {
    each.__name__: each
    for each in (StateOrder, RefreshOrder, LevelOrder, NamedCircuitOrder, SchemasOrder)
}
FOLDER: Final = web.AppKey("admin_folder", Path)
"""The folder of the sockets; without it, the process has no siblings."""

T = TypeVar("T", bound=Outcome)


class Answered(NamedTuple, Generic[T]):
    """Answers of workers, and the process ids of those that have not answered."""

    answers: list[T]
    unreachable: list[int]


def make_folder() -> Path:
    """Make a folder for the sockets, which is removed when this process ends.

    Removes those of services that were killed.
    """
    parent = _parent()
    for each in Path(parent).glob(f"{FOLDER_PREFIX}*"):
        owner = OWNER.fullmatch(each.name)
        if owner is not None and not _is_running(int(owner[1])):
            shutil.rmtree(each, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=parent)
    atexit.register(_remove, folder, os.getpid())
    return Path(folder)


def keep_folder() -> None:
    """Leave the folder to the program that replaces this one."""
    atexit.unregister(_remove)


class Siblings:
    """All workers of the service, of which this process is one."""

    def __init__(self, worker: Worker, folder: Path | None) -> None:
        self.worker = worker
        self._folder = folder

    async def order_all(
        self, order: Order, kind: type[T], *, limit_s: float
    ) -> Answered[T]:
        """Have all workers carry out an order, and return their answers, own first.

        Raises the errors of carrying it out in this worker.
        """
        ordered = self.order_others(order, kind, limit_s=limit_s)
        others = asyncio.create_task(ordered)
        try:
            own = await self.worker.perform(order)
            assert isinstance(own, kind)  # noqa: S101 - each order has one kind
            answered = await others
        finally:
            others.cancel()
        return Answered([own, *answered.answers], answered.unreachable)

    async def order_others(
        self, order: Order, kind: type[T], *, limit_s: float
    ) -> Answered[T]:
        """Have the other workers carry out an order, and return their answers."""
        sockets = self._sockets()
        outcomes = await asyncio.gather(
            *(_send(each, order, limit_s) for each in sockets)
        )
        answered: Answered[T] = Answered([], [])
        for socket, outcome in zip(sockets, outcomes, strict=True):
            if isinstance(outcome, bytes):
                answered.answers.append(msgspec.json.decode(outcome, type=kind))
            elif isinstance(outcome, GONE) and not _is_running(int(socket.stem)):
                socket.unlink(missing_ok=True)
            else:
                answered.unreachable.append(int(socket.stem))
        return answered

    def _sockets(self) -> list[Path]:
        """Return the sockets of the other workers."""
        if self._folder is None:
            return []
        own = str(self.worker.pid)
        found = sorted(self._folder.glob(f"*{SUFFIX}"))
        return [each for each in found if each.stem != own]


SIBLINGS: Final = web.AppKey("siblings", Siblings)


@asynccontextmanager
async def open_siblings(worker: Worker, folder: Path | None) -> AsyncIterator[Siblings]:
    """Listen to the other workers while the context lasts."""
    siblings = Siblings(worker, folder)
    if folder is None:
        yield siblings
        return
    app = web.Application()
    app.router.add_post("/{order}", _perform)
    app[SIBLINGS] = siblings
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    socket = folder / f"{worker.pid}{SUFFIX}"
    try:
        await web.UnixSite(runner, str(socket)).start()
        yield siblings
    finally:
        socket.unlink(missing_ok=True)
        await runner.cleanup()


async def _perform(request: web.Request) -> web.Response:
    kind = ORDERS[request.match_info["order"]]
    order: Order = msgspec.json.decode(await request.read(), type=kind)
    outcome = await request.app[SIBLINGS].worker.perform(order)
    return web.Response(body=msgspec.json.encode(outcome))


async def _send(socket: Path, order: Order, limit_s: float) -> bytes | OSError:
    """Send an order; return the answer, or the error of a worker that sends none."""
    url = f"{BASE_URL}/{type(order).__name__}"
    body = msgspec.json.encode(order)
    timeout = aiohttp.ClientTimeout(total=limit_s)
    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket)), timeout=timeout
        ) as session:
            response = await session.post(url, data=body, raise_for_status=True)
            return await response.read()
    except aiohttp.ClientConnectorError as error:
        return error.os_error
    except TimeoutError as error:
        return error
    except aiohttp.ClientError as error:
        return OSError(str(error))


def _parent() -> str:
    """Return the folder for temporary files, or one whose name is short enough."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= MAX_PARENT_BYTES else SHORT_PARENT


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True


def _remove(folder: str, owner_pid: int) -> None:
    """Remove the folder, unless this process is a fork."""
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)
