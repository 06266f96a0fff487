"""A copy of the valid API keys in memory, by which requests are checked.

A background task reads all keys again every `events.key_ttl_s`. So neither a request
nor a guessed key causes a query or waits for one, and keys stay valid for a while when
the database is unavailable.
"""

import asyncio
import hmac
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from typing import Final

import structlog

from service.keys.store import digest_of, list_keys
from service.settings import EventsSettings
from service.storage.database import Database, retry_lost
from service.storage.errors import StorageError, StorageUnavailable
from service.web.auth import ApiKey

CANCEL_S: Final = 0.5
RETRY_S: Final = 1.0
"""Maximum time until a failed read of the keys is repeated."""

log = structlog.get_logger()


class FixedKeys:
    """Keys that never change, for a service without a database."""

    def __init__(self, fixed: Iterable[ApiKey]) -> None:
        self._fixed = tuple(fixed)
        self._use(self._fixed)

    async def find(self, text: str) -> ApiKey | None:
        """Return the key with this text."""
        return self._get(text)

    async def find_by_id(self, key_id: str) -> ApiKey | None:
        """Return the key with this id."""
        return self._by_id.get(key_id)

    def peek(self, text: str) -> ApiKey | None:
        """Return the key with this text."""
        return self._get(text)

    def _use(self, valid: Iterable[ApiKey]) -> None:
        self._by_digest = {key.digest: key for key in valid}
        self._by_id = {key.id: key for key in self._by_digest.values()}

    def _get(self, text: str) -> ApiKey | None:
        digest = digest_of(text)
        key = self._by_digest.get(digest)
        # The time of the look-up depends on a digest, which reveals nothing about any
        # key; the final comparison takes constant time.
        return key if key and hmac.compare_digest(key.digest, digest) else None


class ApiKeys(FixedKeys):
    """A copy of the valid keys, read again every `ttl_s`; `fixed` are always valid.

    `start` begins the reading, in the background; the first request waits for a read.
    While reads fail, the copy is valid for `grace_s` after the last one that succeeded.
    If `ttl_s` is 0, each request waits for a read.
    """

    def __init__(
        self,
        database: Database,
        ttl_s: float,
        grace_s: float,
        *,
        fixed: Iterable[ApiKey] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(fixed)
        self._database = database
        self._ttl_s = ttl_s
        self._grace_s = grace_s
        self._clock = clock
        self._read_at = -math.inf
        self._is_asked = False
        self._failure: StorageError | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_wanted = asyncio.Event()
        self._change = asyncio.Condition()
        self._begun = 0
        self._ended = 0

    async def find(self, text: str) -> ApiKey | None:
        """Return the valid key with this text; raises `StorageError`."""
        await self._make_valid()
        return self._get(text)

    async def find_by_id(self, key_id: str) -> ApiKey | None:
        """Return the valid key with this id; raises `StorageError`."""
        await self._make_valid()
        return self._by_id.get(key_id)

    def peek(self, text: str) -> ApiKey | None:
        """Return the key with this text if the copy has it, without waiting."""
        self.start()
        return None if self._is_too_old() else self._get(text)

    async def read_again(self) -> None:
        """Have the copy include all changes that were committed before this call.

        If the read fails, the next one that succeeds includes them.
        """
        self.start()
        await self._wait_for_read()

    def forget(self, key_id: str) -> None:
        """Remove a revoked key from the copy, which a read in progress may undo."""
        self._use([key for key in self._by_digest.values() if key.id != key_id])

    async def close(self) -> None:
        """Stop reading; a read that hangs is left to the end of its connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=CANCEL_S)

    def age_s(self) -> float:
        """Return the age of the copy; infinite if there is none."""
        return self._clock() - self._read_at

    def start(self) -> None:
        """Start reading the keys, in the background; requests do so too.

        A process that has had no request knows them at the begin of an outage.
        """
        if self._reading is None:
            # Without the context of the request, whose id would be in its log lines.
            self._reading = asyncio.create_task(
                self._read_repeatedly(), context=Context()
            )

    async def _make_valid(self) -> None:
        """Wait for a copy of the keys; raise the last failure if it is too old."""
        self.start()
        is_unknown = self._read_at == -math.inf or not self._is_asked
        if not self._ttl_s or is_unknown:
            await self._wait_for_read()
            self._is_asked = True
        failure = self._failure
        if failure is not None and self._is_too_old():
            # Each request needs an exception, and so a traceback, of its own.
            raise type(failure)(*failure.args) from failure

    def _is_too_old(self) -> bool:
        """Return whether reads have failed for too long, or none has succeeded."""
        return self._failure is not None and self.age_s() > self._grace_s

    async def _wait_for_read(self) -> None:
        """Wait for the next read, which all requests share.

        One that has begun already may miss a revocation, or a key that is new.
        """
        number = self._begun + 1
        self._is_wanted.set()
        async with self._change:
            await self._change.wait_for(lambda: self._ended >= number)

    async def _read_repeatedly(self) -> None:
        while True:
            self._is_wanted.clear()
            self._begun += 1
            self._failure = await self._try_to_read()
            async with self._change:
                self._ended = self._begun
                self._change.notify_all()
            pause_s = min(self._ttl_s, RETRY_S) if self._failure else self._ttl_s
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s or None):
                    await self._is_wanted.wait()

    async def _try_to_read(self) -> StorageError | None:
        """Read the keys; return the failure, which the database has logged."""
        try:
            await self._read()
        except StorageError as error:
            return error
        except Exception as error:
            log.error("keys.failed", exc_info=error)
            return StorageUnavailable(str(error))
        return None

    async def _read(self) -> None:
        # The age counts from before the query: a key revoked during it may be missed.
        started_at = self._clock()
        stored = await retry_lost(partial(list_keys, self._database))
        valid = (key for key in stored if key.revoked_at is None)
        self._use((*valid, *self._fixed))
        self._read_at = started_at


@asynccontextmanager
async def open_keys(
    settings: EventsSettings, database: Database, fixed: Iterable[ApiKey]
) -> AsyncIterator[ApiKeys]:
    """Read the valid keys again and again until the end; return their copy."""
    opened = ApiKeys(database, settings.key_ttl_s, settings.key_grace_s, fixed=fixed)
    opened.start()
    try:
        yield opened
    finally:
        await opened.close()
