"""Keys of applications: made, listed, revoked, and told apart when a request comes.

A key is 256 random bits; only its SHA-256 digest is kept. Requests are checked against
a copy of all keys that is at most `events.key_ttl_s` old, so that no request, and no
guess of a key, costs the database anything.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import insert, select, update

from service.events.tables import keys
from service.instants import now_us
from service.storage.database import Database
from service.storage.errors import StorageError

SANDBOX_KEY: Final = "cu_sandbox"
SANDBOX_APPLICATION: Final = "sandbox"
KEY_PREFIX: Final = "cu_"
"""So that scanners for leaked secrets know one."""
ID_CHARS: Final = 12
MAX_NAME_CHARS: Final = 200
MAX_RATE_PER_S: Final = 1_000_000

_ALL_KEYS: Final = select(keys).order_by(keys.c.created_at, keys.c.id)


class Key(Struct, frozen=True):
    """A key as it is kept; `application` is whose events it sends."""

    id: str
    digest: bytes
    application: str
    can_read_all: bool
    rate_per_s: float | None
    created_at: int
    revoked_at: int | None


class KeyNotFound(Exception):
    """No key has this id, or all of this name are revoked."""


class BadKey(Exception):
    """No key can be made so; the text says why."""


async def add_key(
    database: Database,
    application: str,
    *,
    can_read_all: bool = False,
    rate_per_s: float | None = None,
) -> str:
    """Make a key of an application; what is returned is kept nowhere.

    Raises `BadKey` and `StorageError`.
    """
    _check(application, rate_per_s)
    text = KEY_PREFIX + secrets.token_urlsafe(32)
    key = _key_of(text, application, can_read_all=can_read_all, rate_per_s=rate_per_s)
    async with database.writing() as connection:
        await connection.execute(insert(keys).values(asdict(key)))
    return text


def sandbox_key() -> Key:
    """The key that everybody knows, for trying things out.

    It is never stored: a service that runs without the sandbox does not accept it.
    """
    return _key_of(SANDBOX_KEY, SANDBOX_APPLICATION)


async def list_keys(database: Database) -> list[Key]:
    """All keys, those revoked too, in the order they were made."""
    async with database.reading() as connection:
        rows = await connection.execute(_ALL_KEYS)
        return [Key(**row._mapping) for row in rows]


async def revoke_keys(database: Database, name: str) -> int:
    """Revoke the key of this id, or all keys of this application; says how many.

    Raises `KeyNotFound` where there is none in force.
    """
    chosen = (keys.c.id == name) | (keys.c.application == name)
    async with database.writing() as connection:
        result = await connection.execute(
            update(keys)
            .where(chosen, keys.c.revoked_at.is_(None))
            .values(revoked_at=now_us())
        )
    if not result.rowcount:
        raise KeyNotFound(f"no key in force has the id or the name {name!r}")
    return int(result.rowcount)


class KeyRing:
    """The keys in force, as of a moment ago; `fixed` are in force always."""

    def __init__(
        self,
        database: Database,
        ttl_s: float,
        *,
        fixed: Iterable[Key] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._ttl_s = ttl_s
        self._clock = clock
        self._fixed = _by_digest(fixed)
        self._keys: dict[bytes, Key] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._attempts = 0
        self._failure: StorageError | None = None

    async def find(self, text: str) -> Key | None:
        """The key in force of this text; `StorageError` if keys cannot be read."""
        if not self._is_fresh():
            await self._refresh()
        digest = digest_of(text)
        key = self._keys.get(digest)
        # The look-up takes a time that depends on a digest, which says nothing of any
        # key; what decides is compared in constant time.
        return key if key and hmac.compare_digest(key.digest, digest) else None

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock() - self._read_at < self._ttl_s

    async def _refresh(self) -> None:
        """Read once for all who wait; they share a failure too.

        One who is cancelled while reading has learnt nothing, so that the next reads.
        """
        attempts = self._attempts
        async with self._reading:
            if self._attempts == attempts:
                await self._read()
            elif self._failure is not None:
                raise type(self._failure)(str(self._failure)) from self._failure

    async def _read(self) -> None:
        # The copy is as old as the question, not as its answer.
        asked_at = self._clock()
        try:
            kept = await list_keys(self._database)
        except StorageError as error:
            self._failure = error
            self._attempts += 1
            raise
        self._failure = None
        self._attempts += 1
        in_force = (key for key in kept if key.revoked_at is None)
        self._keys = _by_digest(in_force) | self._fixed
        self._read_at = asked_at


def digest_of(text: str) -> bytes:
    """What is kept of a key; with 256 random bits it needs no salt and no slow hash."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _key_of(
    text: str,
    application: str,
    *,
    can_read_all: bool = False,
    rate_per_s: float | None = None,
) -> Key:
    digest = digest_of(text)
    return Key(
        id=digest.hex()[:ID_CHARS],
        digest=digest,
        application=application,
        can_read_all=can_read_all,
        rate_per_s=rate_per_s,
        created_at=now_us(),
        revoked_at=None,
    )


def _check(application: str, rate_per_s: float | None) -> None:
    if not application.strip() or not application.isprintable():
        raise BadKey("an application's name has printable characters, and some")
    if len(application) > MAX_NAME_CHARS:
        raise BadKey(f"an application's name has at most {MAX_NAME_CHARS} characters")
    if rate_per_s is not None and not 0 < rate_per_s <= MAX_RATE_PER_S:
        raise BadKey(f"a rate is more than 0 and at most {MAX_RATE_PER_S:,} a second")


def _by_digest(some: Iterable[Key]) -> dict[bytes, Key]:
    return {key.digest: key for key in some}
