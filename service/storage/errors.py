"""How the database fails.

StorageError
├── StorageUnavailable   it cannot be had now, or cannot be written
├── Collided             another writer was first
├── ValueRefused         it takes no such value
└── StorageUnusable      not without help: no database, or one of another shape
"""


class StorageError(Exception):
    """The database has not done what it was asked for."""


class StorageUnavailable(StorageError):
    """The database is locked, full, read-only or away; nothing was stored."""


class Collided(StorageError):
    """Another writer was first, with the same unique value; nothing was stored."""


class ValueRefused(StorageError):
    """The database takes no such value; nothing was stored."""


class StorageUnusable(StorageError):
    """What `storage.url` names is no database of ours, or not in the shape we need."""
