"""Failures of the database.

StorageError
├── StorageUnavailable   it is locked, full, read-only or unreachable.
│   ├── ConnectionLost   the connection ended during the transaction.
│   ├── StorageTimeout   it did not answer in time.
│   ├── Locked           another transaction held a lock for too long.
│   └── CircuitOpen      it did not answer before, and is not asked now.
├── Collided             another transaction stored the same key.
├── ValueRefused         it does not accept a value.
└── StorageUnusable      it is missing, damaged, or must be migrated.
"""


class StorageError(Exception):
    """A transaction failed."""


class StorageUnavailable(StorageError):
    """The database is locked, full, read-only or unreachable; nothing was stored."""


class ConnectionLost(StorageUnavailable):
    """The connection ended; if it was during a commit, the rows may be stored."""


class StorageTimeout(StorageUnavailable):
    """The database did not answer within `storage.timeout_s`; rows may be stored."""


class Locked(StorageUnavailable):
    """Another transaction held a lock for longer than permitted; nothing was stored."""


class CircuitOpen(StorageUnavailable):
    """The database has not answered several times, and no transaction is begun."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("it has not answered; it is being probed")
        self.retry_after_s = retry_after_s


class Collided(StorageError):
    """Another transaction stored the same unique value; nothing was stored."""


class ValueRefused(StorageError):
    """The database does not accept a value; nothing was stored."""


class UnknownRevision(Exception):
    """This version has no such revision of the schema."""


class StorageUnusable(StorageError):
    """The database of `storage.url` is missing, damaged, or must be migrated."""
