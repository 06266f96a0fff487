"""What exceptions of SQLAlchemy and the drivers mean: one of ours each.

A driver says what went wrong by a code: SQLite by its result codes, PostgreSQL by
SQLSTATE. What neither blames on the value, on another writer or on the database as a
whole may be over in a moment, and so is `StorageUnavailable`.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from service.storage.errors import (
    Collided,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
    ValueRefused,
)

# Not all come wrapped: drivers raise some while they connect or encode a value.
FOREIGN: Final = (
    SQLAlchemyError,
    sqlite3.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    OverflowError,
    UnicodeError,
)

_Meaning = type[StorageError]

BY_SQLITE_CODE: Final[Mapping[int, _Meaning]] = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: Collided,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Collided,
    sqlite3.SQLITE_CONSTRAINT_ROWID: Collided,
    sqlite3.SQLITE_CONSTRAINT: ValueRefused,
    sqlite3.SQLITE_MISMATCH: ValueRefused,
    sqlite3.SQLITE_TOOBIG: ValueRefused,
    # A table that is not there, mostly.
    sqlite3.SQLITE_ERROR: StorageUnusable,
    sqlite3.SQLITE_CORRUPT: StorageUnusable,
    sqlite3.SQLITE_FORMAT: StorageUnusable,
    sqlite3.SQLITE_NOTADB: StorageUnusable,
}
"""By a whole code, else by the primary one that is its low byte."""

BY_SQLSTATE: Final[Mapping[str, _Meaning]] = {
    "23505": Collided,  # unique violation
    "23P01": Collided,  # exclusion violation
    "40": Collided,  # deadlock, serialization failure
    "22": ValueRefused,  # data exception
    "23": ValueRefused,  # any other constraint
    "54": ValueRefused,  # program limit exceeded
    "28": StorageUnusable,  # no such user, wrong password
    "3D": StorageUnusable,  # no such database
    "3F": StorageUnusable,  # no such schema
    "42": StorageUnusable,  # no such table, no privilege
    "F0": StorageUnusable,  # the server's configuration
    "XX": StorageUnusable,  # corrupted
}
"""By a whole state, else by the class that is its first two characters."""


@contextmanager
def translated() -> Iterator[None]:
    """Let no exception of SQLAlchemy or a driver out; raises `StorageError`."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error) from error


def translate(error: BaseException) -> StorageError:
    """What an exception of SQLAlchemy or of a driver means to us."""
    meanings = (_meaning_of(each) for each in _chain(error))
    meaning = next((each for each in meanings if each), StorageUnavailable)
    return meaning(_reason(error))


def _chain(error: BaseException | None) -> Iterator[Exception]:
    """An exception and those it wraps: SQLAlchemy's, its adapter's, the driver's."""
    while isinstance(error, Exception):  # not what cancels, below a time-out
        yield error
        error = getattr(error, "orig", None) or error.__cause__


def _meaning_of(error: BaseException) -> _Meaning | None:
    if isinstance(error, OverflowError | UnicodeError):
        return ValueRefused  # a number beyond 64 bits, half a surrogate pair
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return BY_SQLITE_CODE.get(code) or BY_SQLITE_CODE.get(code & 0xFF)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return BY_SQLSTATE.get(state) or BY_SQLSTATE.get(state[:2])
    return None


def _reason(error: BaseException) -> str:
    """What went wrong in one line, without the statement and its values."""
    *_, innermost = _chain(error)
    if isinstance(innermost, TimeoutError):
        return "no answer in time"
    lines = str(innermost).strip().splitlines()
    return lines[0] if lines else type(innermost).__name__
