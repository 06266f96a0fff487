"""Exports: a child process writes a Parquet file, and its bytes are sent to the client.

A process is needed because ADBC must not share one with SQLite (see
`service.storage.adbc`). It also frees its memory at the end, and competes with no
request for the interpreter.
"""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Final, cast
from urllib.parse import quote

import msgspec
import structlog
from msgspec.structs import asdict
from sqlalchemy.engine import make_url

from service.observability.metrics import SUCCESS
from service.settings import StorageSettings
from service.storage.adbc import adbc_options_of
from service.vehicles import metrics
from service.vehicles.details import dictionary_files
from service.vehicles.errors import ExportFailed
from service.vehicles.fields import BASIC, Fields
from service.vehicles.model import VehicleSource
from service.web.lanes import LaneFull

PROGRAM: Final = Path(__file__).with_name("parquet.py")
COMMAND: Final = (sys.executable, "-P", str(PROGRAM))
"""By its path, and with -P, so that the working directory is not imported from."""
ENVIRONMENT: Final = {"MALLOC_TRIM_THRESHOLD_": "131072"}
"""Tells glibc to return large blocks to the system as soon as they are free."""

MAX_EXPORTS: Final = 2
"""Exports at once; one client never has all of them."""
MAX_EXPORT_S: Final = 900.0
"""Maximum duration of an export: a slow client blocks one of `MAX_EXPORTS`."""
CHUNK_BYTES: Final = 256 * 1024
MAX_ERROR_CHARS: Final = 1_000
CANCELLED: Final = "the export was cancelled"

EnterLane = Callable[[], AbstractAsyncContextManager[object]]
"""Enters the lane of exports for a request."""

log = structlog.get_logger()


class Export:
    """The Parquet file that a child process writes."""

    def __init__(self, child: Process, read_timeout_s: float) -> None:
        self._child = child
        self._stdin = cast("asyncio.StreamWriter", child.stdin)
        self._stdout = cast("asyncio.StreamReader", child.stdout)
        self._stderr = cast("asyncio.StreamReader", child.stderr)
        self._read_timeout_s = read_timeout_s
        self._first = b""
        self.bytes = 0
        """Bytes read so far."""
        self.rows = 0
        """Number of rows, set at the end."""

    async def begin(self, job: bytes) -> None:
        """Send the job, and wait for the first bytes; raise `ExportFailed`."""
        # Standard input stays open: when it closes, the child ends.
        self._stdin.write(job + b"\n")
        self._first = await self._read()

    async def read(self) -> bytes:
        """Return the next bytes, none at the end; raise `ExportFailed`."""
        chunk, self._first = self._first or await self._read(), b""
        self.bytes += len(chunk)
        return chunk

    async def close(self) -> None:
        """End the child process, if it is still running."""
        if self._child.returncode is None:
            self._child.kill()
        # It also drains the pipes, which would stay open otherwise.
        await self._child.communicate()

    async def _read(self) -> bytes:
        try:
            # The limit is for each read: only a silent database is a failure.
            async with asyncio.timeout(self._read_timeout_s):
                chunk = await self._stdout.read(CHUNK_BYTES)
                if not chunk:
                    self.rows = await self._end()
        except TimeoutError:
            raise ExportFailed("the database does not answer in time") from None
        return chunk

    async def _end(self) -> int:
        """Return the number of rows; raise `ExportFailed` if the child failed."""
        message = (await self._stderr.read()).decode(errors="replace").strip()
        status = await self._child.wait()
        if status:
            error = message[-MAX_ERROR_CHARS:] or f"the process ended with {status}"
            raise ExportFailed(error)
        return int(message.split()[-1])


class Exports:
    """Runs exports; there is one in each process."""

    def __init__(self, storage: StorageSettings, source: VehicleSource) -> None:
        self._job = asdict(adbc_options_of(storage)) | {"source": source}
        self._storage = storage
        self._in_progress: list[asyncio.Task[object] | None] = []
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def export(
        self, lane: EnterLane = nullcontext, fields: Fields = BASIC
    ) -> AsyncIterator[Export]:
        """Start an export in the lane, and yield its file once it has first bytes.

        It has a column for each of the `fields`. The caller reads it to its end. Raises
        `ExportFailed`, and the errors of the lane.
        """
        started = time.perf_counter()
        task: asyncio.Task[object] | None = None
        try:
            async with lane():
                task = asyncio.current_task()
                self._in_progress.append(task)
                log.info("vehicle.export.started", under_way=len(self._in_progress))
                async with self._child(fields) as export:
                    yield export
        except LaneFull:
            raise
        except BaseException as error:
            self._log_failure(error, started)
            raise
        finally:
            if task is not None:
                self._in_progress.remove(task)
        metrics.export_ended(SUCCESS)
        log.info(
            "vehicle.export.finished",
            rows=export.rows,
            bytes=export.bytes,
            **_duration(started),
        )

    async def close(self) -> None:
        """Cancel the exports in progress."""
        tasks = [task for task in self._in_progress if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._closing)

    @asynccontextmanager
    async def _child(self, fields: Fields) -> AsyncIterator[Export]:
        try:
            child = await create_subprocess_exec(
                *COMMAND,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=CHUNK_BYTES,
                env=os.environ | ENVIRONMENT,
                # Ctrl-C must not reach it: running exports are finished first.
                start_new_session=True,
            )
        except OSError as error:
            raise ExportFailed(f"no process can be started: {error}") from error
        export = Export(child, self._storage.timeout_s)
        try:
            await export.begin(self._job_of(fields))
            yield export
        finally:
            closing = asyncio.create_task(export.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            # A second cancellation must not leave the child running.
            await asyncio.shield(closing)

    def _job_of(self, fields: Fields) -> bytes:
        if fields.is_basic:
            return msgspec.json.encode(self._job)
        files = {str(number): str(path) for number, path in dictionary_files().items()}
        columns = {"fields": fields.columns, "dictionaries": files}
        return msgspec.json.encode(self._job | columns)

    def _log_failure(self, error: BaseException, started: float) -> None:
        name = type(error).__name__
        metrics.export_ended(name)
        log.warning(
            "vehicle.export.failed",
            reason=_without_password(str(error) or CANCELLED, self._storage),
            **{"error.type": name},
            **_duration(started),
        )


@asynccontextmanager
async def open_exports(
    storage: StorageSettings, source: VehicleSource
) -> AsyncIterator[Exports]:
    """Open the exports of a source; cancel those in progress at the end."""
    exports = Exports(storage, source)
    try:
        yield exports
    finally:
        await exports.close()


def _duration(started: float) -> dict[str, float]:
    return {"duration_s": round(time.perf_counter() - started, 6)}


def _without_password(text: str, storage: StorageSettings) -> str:
    """Return an error of a driver without the password, which some drivers repeat."""
    password = make_url(storage.url).password
    for each in (password, quote(password, safe="")) if password else ():
        text = text.replace(each, "***")
    return text
