"""Exports: a child process makes the Parquet file, and its bytes are passed on.

A process of its own, since ADBC may not share one with the database that it reads (see
`service.storage.adbc`), and since neither its memory nor its work should be ours.
"""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast
from urllib.parse import quote

import msgspec
import structlog
from msgspec.structs import asdict
from sqlalchemy.engine import make_url

from service import metrics
from service.settings import Storage
from service.storage.adbc import opening_of
from service.vehicles.errors import ExportFailed, TooManyExports
from service.vehicles.model import Source

PROGRAM: Final = Path(__file__).with_name("parquet.py")
COMMAND: Final = (sys.executable, "-P", str(PROGRAM))
"""By its path and without the working directory: both may be anywhere."""
ENVIRONMENT: Final = {"MALLOC_TRIM_THRESHOLD_": "131072"}
"""To glibc: large pieces of memory are given back as soon as they are free."""

MAX_AT_ONCE: Final = 2
MAX_S: Final = 900.0
"""How long an export may take: who reads it slowly keeps others waiting."""
CHUNK_BYTES: Final = 256 * 1024
MAX_WORDS: Final = 1_000
GIVEN_UP: Final = "it was given up"

log = structlog.get_logger()


class Export:
    """The file, as a child process makes it."""

    def __init__(self, child: Process, silence_s: float) -> None:
        self._child = child
        self._stdin = cast("asyncio.StreamWriter", child.stdin)
        self._stdout = cast("asyncio.StreamReader", child.stdout)
        self._stderr = cast("asyncio.StreamReader", child.stderr)
        self._silence_s = silence_s
        self._first = b""
        self.bytes = 0
        """Read until now."""
        self.rows = 0
        """Known at the end."""

    async def begin(self, job: bytes) -> None:
        """Say what to read, and wait for the first bytes; raises `ExportFailed`."""
        self._stdin.write(job + b"\n")
        self._first = await self._read()

    async def read(self) -> bytes:
        """The next bytes, none at the end; raises `ExportFailed`."""
        chunk, self._first = self._first or await self._read(), b""
        self.bytes += len(chunk)
        return chunk

    async def close(self) -> None:
        """End the child, if it has not ended by itself."""
        if self._child.returncode is None:
            self._child.kill()
        # This reads what is left, too; else its pipes would stay open.
        await self._child.communicate()

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._silence_s):
                chunk = await self._stdout.read(CHUNK_BYTES)
                if not chunk:
                    self.rows = await self._end()
        except TimeoutError:
            raise ExportFailed("the database does not answer in time") from None
        return chunk

    async def _end(self) -> int:
        """How many rows there were; raises `ExportFailed`."""
        words = (await self._stderr.read()).decode(errors="replace").strip()
        status = await self._child.wait()
        if status:
            raise ExportFailed(words[-MAX_WORDS:] or f"it has ended with {status}")
        return int(words.split()[-1])


class Exports:
    """Makes exports, a few at a time; one for each process."""

    def __init__(self, storage: Storage, source: Source) -> None:
        job = asdict(opening_of(storage)) | {"source": source}
        self._job = msgspec.json.encode(job)
        self._storage = storage
        self._under_way: list[asyncio.Task[object] | None] = []
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def export(self) -> AsyncIterator[Export]:
        """A file whose first bytes are there; it is to be read to its end.

        Raises `TooManyExports` and `ExportFailed`.
        """
        if len(self._under_way) >= MAX_AT_ONCE:
            metrics.export_ended(TooManyExports.__name__)
            raise TooManyExports(f"{MAX_AT_ONCE} are under way")
        task = asyncio.current_task()
        self._under_way.append(task)
        started = time.perf_counter()
        log.info("vehicle.export.started", under_way=len(self._under_way))
        try:
            async with self._in_time(), self._child() as export:
                yield export
        except BaseException as error:
            self._note_failure(error, started)
            raise
        finally:
            self._under_way.remove(task)
        metrics.export_ended(metrics.SUCCESS)
        log.info(
            "vehicle.export.finished",
            rows=export.rows,
            bytes=export.bytes,
            **_duration(started),
        )

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [task for task in self._under_way if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._closing)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(MAX_S):
                yield
        except TimeoutError:
            raise ExportFailed(f"it was not taken within {MAX_S:g} s") from None

    @asynccontextmanager
    async def _child(self) -> AsyncIterator[Export]:
        try:
            child = await create_subprocess_exec(
                *COMMAND,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=CHUNK_BYTES,
                env=os.environ | ENVIRONMENT,
                # Ctrl-C is for us: what is under way is finished first.
                start_new_session=True,
            )
        except OSError as error:
            raise ExportFailed(f"no process can be started: {error}") from error
        export = Export(child, self._storage.timeout_s)
        try:
            await export.begin(self._job)
            yield export
        finally:
            closing = asyncio.create_task(export.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            # Whoever is cancelled again does not leave it undone.
            await asyncio.shield(closing)

    def _note_failure(self, error: BaseException, started: float) -> None:
        name = type(error).__name__
        metrics.export_ended(name)
        log.warning(
            "vehicle.export.failed",
            reason=_without_password(str(error) or GIVEN_UP, self._storage),
            **{"error.type": name},
            **_duration(started),
        )


@asynccontextmanager
async def open_exports(storage: Storage, source: Source) -> AsyncIterator[Exports]:
    """Export the vehicles of a source as long as this lasts."""
    exports = Exports(storage, source)
    try:
        yield exports
    finally:
        await exports.close()


def _duration(started: float) -> dict[str, float]:
    return {"duration_s": round(time.perf_counter() - started, 6)}


def _without_password(text: str, storage: Storage) -> str:
    """What a driver says, which may repeat how it was to connect."""
    password = make_url(storage.url).password
    for each in (password, quote(password, safe="")) if password else ():
        text = text.replace(each, "***")
    return text
