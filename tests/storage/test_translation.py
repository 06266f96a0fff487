"""Every exception of SQLAlchemy and the drivers becomes one of ours."""

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import asyncpg
import pytest
import sqlalchemy.exc
from sqlalchemy.exc import DBAPIError

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
from service.storage.translation import (
    BY_SQLITE_CODE,
    BY_SQLSTATE,
    translate,
    translated,
)

NO_RESULT_CODES: Final = ("LIMIT_", "DBCONFIG_", "FCNTL_", "DENY", "IGNORE")
SQLITE_RESULTS: Final = {
    name: code
    for name in dir(sqlite3)
    if name.startswith("SQLITE_") and isinstance(code := getattr(sqlite3, name), int)
    if not name.removeprefix("SQLITE_").startswith(NO_RESULT_CODES)
}
PERSISTENT_SQLITE: Final = {
    "SQLITE_ERROR": StorageUnusable,
    "SQLITE_CORRUPT": StorageUnusable,
    "SQLITE_CORRUPT_INDEX": StorageUnusable,
    "SQLITE_NOTADB": StorageUnusable,
    "SQLITE_CONSTRAINT_UNIQUE": Collided,
    "SQLITE_CONSTRAINT_PRIMARYKEY": Collided,
    "SQLITE_CONSTRAINT_NOTNULL": ValueRefused,
    "SQLITE_CONSTRAINT_CHECK": ValueRefused,
    "SQLITE_TOOBIG": ValueRefused,
    "SQLITE_MISMATCH": ValueRefused,
    "SQLITE_BUSY": StorageUnavailable,
    "SQLITE_BUSY_SNAPSHOT": StorageUnavailable,
    "SQLITE_LOCKED": StorageUnavailable,
    "SQLITE_FULL": StorageUnavailable,
    "SQLITE_READONLY": StorageUnavailable,
    "SQLITE_READONLY_DBMOVED": StorageUnavailable,
    "SQLITE_IOERR_FSYNC": StorageUnavailable,
    "SQLITE_CANTOPEN": StorageUnavailable,
    "SQLITE_NOMEM": StorageUnavailable,
}
OF_CLASS: Final = {
    "22": ValueRefused,
    "23": ValueRefused,
    "28": StorageUnusable,
    "3D": StorageUnusable,
    "3F": StorageUnusable,
    "40": Collided,
    "42": StorageUnusable,
    "54": ValueRefused,
    "F0": StorageUnusable,
    "XX": StorageUnusable,
}
OF_STATE: Final = {
    **dict.fromkeys(("23505", "23P01"), Collided),
    "55P03": Locked,
    **dict.fromkeys(
        ("08003", "08006", "25P03", "57P01", "57P02", "57P05"), ConnectionLost
    ),
}


def classes_below(parent: type[Any]) -> Iterator[type[Any]]:
    """A class and all that are derived from it."""
    yield parent
    for child in parent.__subclasses__():
        yield from classes_below(child)


POSTGRESQL: Final = {
    each.__name__: each
    for each in classes_below(asyncpg.PostgresError)
    if each.__module__ == "asyncpg.exceptions" and each.sqlstate
}


def wrapped(driver: Exception, kind: type[DBAPIError] = DBAPIError) -> DBAPIError:
    """A driver's exception as SQLAlchemy raises it, with statement and values."""
    return kind("INSERT INTO keys VALUES (?)", ("pa55",), driver)


def test_results_of_sqlite() -> None:
    """An extended code means what its primary one does, unless it says more."""
    assert PERSISTENT_SQLITE.keys() <= SQLITE_RESULTS.keys()
    for name, code in SQLITE_RESULTS.items():
        error = sqlite3.OperationalError("it went\nwrong")
        error.sqlite_errorcode = code
        ours = translate(wrapped(error))
        primary = BY_SQLITE_CODE.get(code & 0xFF, StorageUnavailable)
        extended = BY_SQLITE_CODE.get(code, primary)
        assert type(ours) is PERSISTENT_SQLITE.get(name, extended), name
        assert str(ours) == "it went"


def test_states_of_postgresql() -> None:
    """Each class of SQLSTATE has its meaning; all others may be over in a moment."""
    for name, kind in POSTGRESQL.items():
        error = kind("it went wrong")
        expected = OF_CLASS.get(error.sqlstate[:2], StorageUnavailable)
        expected = OF_STATE.get(error.sqlstate, expected)
        for raised in (error, wrapped(error)):
            ours = translate(raised)
            assert type(ours) is expected, name
            assert "pa55" not in str(ours)


def test_every_state_is_known_to_the_driver() -> None:
    """A misspelt state would never be met."""
    states = {each.sqlstate for each in POSTGRESQL.values()}
    known = states | {state[:2] for state in states}
    assert BY_SQLSTATE.keys() <= known


@pytest.mark.parametrize(
    "error, meaning",
    [
        (OverflowError("too large"), ValueRefused),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"), ValueRefused),
        (ConnectionRefusedError(111, "refused"), StorageUnavailable),
        (ConnectionResetError(104, "reset"), ConnectionLost),
        (BrokenPipeError(32, "broken"), ConnectionLost),
        (TimeoutError(), StorageTimeout),
        (asyncpg.InterfaceError("connection is closed"), ConnectionLost),
        (asyncpg.InterfaceError("another operation"), StorageUnavailable),
        (asyncpg.InternalClientError("got lost"), StorageUnavailable),
        (sqlite3.ProgrammingError("closed"), StorageUnavailable),
        (sqlalchemy.exc.TimeoutError("no free connection"), StorageUnavailable),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_comes_unwrapped(error: Exception, meaning: type[StorageError]) -> None:
    """Drivers raise exceptions of their own, and Python's: none of them gets out."""
    with pytest.raises(StorageError) as raised, translated():
        raise error
    assert type(raised.value) is meaning
    assert str(raised.value)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "kind", list(classes_below(DBAPIError)), ids=lambda each: each.__name__
)
def test_the_code_decides_and_not_the_class(kind: type[DBAPIError]) -> None:
    """SQLAlchemy's classes tell drivers apart, not causes; none of them gets out."""
    bare = sqlite3.DatabaseError("it went wrong")
    full = sqlite3.DatabaseError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    twice = sqlite3.DatabaseError("UNIQUE constraint failed")
    twice.sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT_UNIQUE
    for driver, meaning in (
        (bare, StorageUnavailable),
        (full, StorageUnavailable),
        (twice, Collided),
    ):
        with pytest.raises(meaning, match=f"^{driver}$"), translated():
            raise wrapped(driver, kind)


def test_what_is_not_the_databases_passes() -> None:
    """A mistake in our own code is not blamed on the database."""
    with pytest.raises(KeyError), translated():
        raise KeyError("mine")
