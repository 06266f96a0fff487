"""API keys in the database: create, list and revoke.

A key is 256 random bits; the database has only its SHA-256 digest.
"""

import hashlib
import secrets
from collections.abc import Collection, Iterable
from typing import Any, Final

from sqlalchemy import ColumnElement, insert, select, update

from service.instants import now_us
from service.keys.errors import BadKey, KeyNotFound
from service.keys.tables import keys
from service.settings import SCOPES, Scope
from service.storage.database import Database
from service.storage.uses import Use
from service.web.auth import ApiKey
from service.web.credentials import KEY_PREFIX

SANDBOX_KEY: Final = "cu_sandbox"
SANDBOX_APPLICATION: Final = "sandbox"
ID_CHARS: Final = 12
MAX_NAME_CHARS: Final = 200
MAX_RATE_PER_S: Final = 1_000_000
DEFAULT_SCOPES: Final[tuple[Scope, ...]] = ("events:write",)
READ_ALL: Final[Scope] = "events:read-all"

_ALL_KEYS: Final = select(keys).order_by(keys.c.created_at, keys.c.id)


def new_key(
    application: str,
    scopes: Collection[str] = DEFAULT_SCOPES,
    rate_per_s: float | None = None,
) -> tuple[str, ApiKey]:
    """Return a new key, which is not stored yet, and its text; raises `BadKey`."""
    _validate(application, scopes, rate_per_s)
    text = KEY_PREFIX + secrets.token_urlsafe(32)
    return text, _key_of(text, application, scopes, rate_per_s)


async def store_key(database: Database, key: ApiKey) -> None:
    """Store a new key; raises `StorageError`."""
    async with database.writing() as connection:
        await connection.execute(insert(keys).values(_to_row(key)))


async def add_key(
    database: Database,
    application: str,
    scopes: Collection[str] = DEFAULT_SCOPES,
    rate_per_s: float | None = None,
) -> str:
    """Create and store a key, and return its text, which is stored nowhere.

    Raises `BadKey` and `StorageError`.
    """
    text, key = new_key(application, scopes, rate_per_s)
    await store_key(database, key)
    return text


def sandbox_key() -> ApiKey:
    """Return the publicly known key of the sandbox, which has every scope.

    It is never stored, so a service without the sandbox does not accept it.
    """
    return _key_of(SANDBOX_KEY, SANDBOX_APPLICATION, SCOPES)


async def list_keys(database: Database, use: Use = Use.KEYS) -> list[ApiKey]:
    """Return all keys, revoked ones too, in the order of their creation."""
    async with database.reading(use) as connection:
        rows = await connection.execute(_ALL_KEYS)
        return [_from_row(row._mapping) for row in rows]


async def revoke_key(database: Database, key_id: str) -> ApiKey:
    """Revoke the key with this id, and return it.

    Raises `KeyNotFound` if there is no such valid key, and `StorageError`.
    """
    matches = keys.c.id == key_id
    (key,) = await _revoke(database, matches, f"the id {key_id!r}", key_id)
    return key


async def revoke_keys(database: Database, name: str) -> int:
    """Revoke the key with this id, or all keys of this application; return how many.

    Raises `KeyNotFound` if there is no such valid key, and `StorageError`.
    """
    matches = (keys.c.id == name) | (keys.c.application == name)
    wanted = f"the id or the name {name!r}"
    return len(await _revoke(database, matches, wanted, name))


def in_order(scopes: Iterable[str]) -> list[str]:
    """Return scopes in the order of their declaration; unknown ones last."""
    known: dict[str, int] = {each: place for place, each in enumerate(SCOPES)}
    return sorted(scopes, key=lambda scope: (known.get(scope, len(known)), scope))


def digest_of(text: str) -> bytes:
    """Return the digest of a key: 32 bytes.

    256 random bits need neither a salt nor a slow hash.
    """
    # A header that is not UTF-8 has surrogates.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


async def _revoke(
    database: Database, matches: ColumnElement[bool], wanted: str, text: str
) -> list[ApiKey]:
    # No key has such an id or name, and PostgreSQL fails at a zero byte.
    if not text.isprintable():
        raise KeyNotFound(f"no valid key has {wanted}")
    statement = (
        update(keys)
        .where(matches, keys.c.revoked_at.is_(None))
        .values(revoked_at=now_us())
        .returning(keys)
    )
    async with database.writing() as connection:
        rows = (await connection.execute(statement)).all()
    if not rows:
        raise KeyNotFound(f"no valid key has {wanted}")
    return [_from_row(row._mapping) for row in rows]


def _key_of(
    text: str,
    application: str,
    scopes: Iterable[str],
    rate_per_s: float | None = None,
) -> ApiKey:
    digest = digest_of(text)
    return ApiKey(
        id=digest.hex()[:ID_CHARS],
        digest=digest,
        application=application,
        scopes=frozenset(scopes),
        rate_per_s=rate_per_s,
        created_at=now_us(),
        revoked_at=None,
    )


def _to_row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "digest": key.digest,
        "application": key.application,
        "can_read_all": READ_ALL in key.scopes,
        "rate_per_s": key.rate_per_s,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "scopes": ",".join(in_order(key.scopes)),
    }


def _from_row(row: Any) -> ApiKey:
    scopes = row["scopes"].split(",")
    # An older version writes this column only.
    if row["can_read_all"]:
        scopes.append(READ_ALL)
    return ApiKey(
        id=row["id"],
        digest=row["digest"],
        application=row["application"],
        scopes=frozenset(scopes),
        rate_per_s=row["rate_per_s"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )


def _validate(
    application: str, scopes: Collection[str], rate_per_s: float | None
) -> None:
    if not application.strip() or not application.isprintable():
        raise BadKey("an application's name needs printable characters")
    if len(application) > MAX_NAME_CHARS:
        raise BadKey(f"an application's name has at most {MAX_NAME_CHARS} characters")
    if rate_per_s is not None and not 0 < rate_per_s <= MAX_RATE_PER_S:
        raise BadKey(f"a rate is more than 0 and at most {MAX_RATE_PER_S:,} a second")
    known = ", ".join(SCOPES)
    if not scopes:
        raise BadKey(f"a key needs a scope; known: {known}")
    for each in scopes:
        if each not in SCOPES:
            raise BadKey(f"unknown scope {each!r}; known: {known}")
