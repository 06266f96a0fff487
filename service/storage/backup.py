"""Backup of a SQLite file while a service writes to it.

SQLite copies one consistent state: that of the moment in which the copy begins. Writers
do not wait for it. PostgreSQL has its own tools.
"""

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import make_url

from service.settings import StorageSettings
from service.storage.engines import SQLITE
from service.storage.errors import StorageUnusable


class BackupFailed(Exception):
    """The copy was not made; the text says why in one line."""


def back_up(settings: StorageSettings, copy: Path) -> int:
    """Copy the database of SQLite to a new file of mode 0600; return its size in bytes.

    The file has its name only when it is complete and on the disk. An existing file is
    never replaced. Raises `BackupFailed`, and `StorageUnusable` for another database.
    """
    source = _file_of(settings)
    try:
        unfinished = _empty_file(copy)
        try:
            _copy(source, unfinished, settings.lock_timeout_s)
            _sync(unfinished)
            # Unlike a rename, a link replaces no file.
            copy.hardlink_to(unfinished)
            _sync(copy.parent)
        finally:
            unfinished.unlink()
        return copy.stat().st_size
    except FileExistsError as error:
        raise BackupFailed(f"{copy}: exists already") from error
    except (sqlite3.Error, OSError) as error:
        raise BackupFailed(f"{copy}: {error}") from error


def _file_of(settings: StorageSettings) -> Path:
    url = make_url(settings.url)
    name = str(url.database)
    shown = f"storage.url: {url.render_as_string(hide_password=True)}"
    if url.get_backend_name() != SQLITE or name.startswith("file:"):
        raise StorageUnusable(f"{shown}: only a file of SQLite; use pg_dump otherwise")
    if not Path(name).is_file():
        raise StorageUnusable(f"{shown}: there is no such file")
    return Path(name)


def _empty_file(copy: Path) -> Path:
    """Create a file of mode 0600 in the folder of the copy."""
    if os.path.lexists(copy):
        raise FileExistsError
    descriptor, name = tempfile.mkstemp(dir=copy.parent, prefix=f".{copy.name}.")
    os.close(descriptor)
    return Path(name)


def _copy(source: Path, target: Path, lock_timeout_s: float) -> None:
    # By a URI that creates no database if the file has just been removed.
    uri = f"file:{quote(str(source.resolve()))}?mode=rw"
    connecting = sqlite3.connect(uri, uri=True, timeout=lock_timeout_s)
    with closing(connecting) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def _sync(path: Path) -> None:
    """Write a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
