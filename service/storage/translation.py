"""Translation of exceptions of SQLAlchemy and the drivers into `StorageError`.

A driver gives the reason by a code: a result code of SQLite, or SQLSTATE of PostgreSQL.
Errors without a known code become `StorageUnavailable`, as they may be temporary.
"""

import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.storage.errors import (
    Collided,
    ConnectionLost,
    Locked,
    StorageError,
    StorageTimeout,
    StorageUnavailable,
    StorageUnusable,
    ValueRefused,
)

# SQLAlchemy does not wrap those that drivers raise when they connect or encode values.
FOREIGN: Final = (
    SQLAlchemyError,
    sqlite3.Error,
    OSError,
    OverflowError,
    UnicodeError,
)

_ErrorClass = type[StorageError]

BY_SQLITE_CODE: Final[Mapping[int, _ErrorClass]] = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: Collided,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Collided,
    sqlite3.SQLITE_CONSTRAINT_ROWID: Collided,
    sqlite3.SQLITE_CONSTRAINT: ValueRefused,
    sqlite3.SQLITE_MISMATCH: ValueRefused,
    sqlite3.SQLITE_TOOBIG: ValueRefused,
    # Mostly a missing table.
    sqlite3.SQLITE_ERROR: StorageUnusable,
    sqlite3.SQLITE_CORRUPT: StorageUnusable,
    sqlite3.SQLITE_FORMAT: StorageUnusable,
    sqlite3.SQLITE_NOTADB: StorageUnusable,
}
"""Classes by the extended code, or by its low byte, the primary code."""

BY_SQLSTATE: Final[Mapping[str, _ErrorClass]] = {
    "08003": ConnectionLost,  # the connection does not exist any more
    "08006": ConnectionLost,  # connection failure
    "25P03": ConnectionLost,  # idle in a transaction for too long
    "57P01": ConnectionLost,  # terminated by an administrator
    "57P02": ConnectionLost,  # the server crashed
    "57P05": ConnectionLost,  # idle for too long
    "23505": Collided,  # unique violation
    "23P01": Collided,  # exclusion violation
    "55P03": Locked,  # `lock_timeout` has ended a wait
    "40": Collided,  # deadlock, serialization failure
    "22": ValueRefused,  # data exception
    "23": ValueRefused,  # any other constraint
    "54": ValueRefused,  # program limit exceeded
    "28": StorageUnusable,  # no such user, wrong password
    "3D": StorageUnusable,  # no such database
    "3F": StorageUnusable,  # no such schema
    "42": StorageUnusable,  # no such table, no privilege
    "F0": StorageUnusable,  # configuration of the server
    "XX": StorageUnusable,  # corrupted
}
"""Classes by SQLSTATE, or by its first two characters."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise exceptions of SQLAlchemy and the drivers as `StorageError`."""
    try:
        yield
    except _foreign() as error:
        raise translate(error) from error


def translate(error: BaseException) -> StorageError:
    """Return our error for an exception of SQLAlchemy or of a driver."""
    classes = (_class_of(each) for each in _chain(error))
    error_class = next((each for each in classes if each), StorageUnavailable)
    return error_class(_reason(error))


def _foreign() -> tuple[type[Exception], ...]:
    of_asyncpg = _asyncpg("PostgresError", "InterfaceError", "InternalClientError")
    return (*FOREIGN, *of_asyncpg)


def _asyncpg(*names: str) -> tuple[type[Exception], ...]:
    """Return exceptions of asyncpg; none while it is not loaded and raises none."""
    asyncpg = sys.modules.get("asyncpg")
    return tuple(getattr(asyncpg, name) for name in names) if asyncpg else ()


def _chain(error: BaseException | None) -> Iterator[Exception]:
    """Yield an exception and its causes: SQLAlchemy's, the adapter's, the driver's."""
    while isinstance(error, Exception):  # not a CancelledError
        yield error
        error = getattr(error, "orig", None) or error.__cause__


def _class_of(error: BaseException) -> _ErrorClass | None:
    if isinstance(error, TimeoutError):
        return StorageTimeout
    if _is_loss(error):
        return ConnectionLost
    if isinstance(error, OverflowError | UnicodeError):
        return ValueRefused  # a number beyond 64 bits, half a surrogate pair
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return BY_SQLITE_CODE.get(code) or BY_SQLITE_CODE.get(code & 0xFF)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return BY_SQLSTATE.get(state) or BY_SQLSTATE.get(state[:2])
    return None


def _is_loss(error: BaseException) -> bool:
    """Return whether a connection ended that there was."""
    if isinstance(error, _asyncpg("InterfaceError")):
        return "closed" in str(error)
    is_refused = isinstance(error, ConnectionRefusedError)
    return isinstance(error, ConnectionError) and not is_refused


def _reason(error: BaseException) -> str:
    """Return the reason in one line, without the statement and its values."""
    *_, innermost = _chain(error)
    if isinstance(innermost, TimeoutError):
        return "no answer in time"
    if isinstance(innermost, PoolTimeout):
        return "no connection became free in time"
    lines = str(innermost).strip().splitlines()
    return lines[0] if lines else type(innermost).__name__
