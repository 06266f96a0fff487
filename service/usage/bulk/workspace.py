"""The folders of a run: a hidden one for its work, and that of the output.

On a file system of this machine, the output is a folder of the work until all of it is
complete, and is then renamed. An object store cannot rename: there, the output is
complete when it has a manifest.
"""

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec
import pyarrow as pa
from msgspec import Struct
from pyarrow import fs

from service.usage.bulk.errors import BadInput

T = TypeVar("T", bound=Struct)

MESSAGES_FOLDER: Final = "messages"
MANIFEST: Final = "manifest.json"
RUN_FILE: Final = "run"
UNFINISHED: Final = "unfinished"
WORK_FOLDERS: Final = ("units", "parts", "output", UNFINISHED)
SAME_STORE: Final = {"gcs": "gs"}
"""Schemes, each with another one for the same store, which a run uses instead."""
READABLE: Final = "/=:"
"""Characters of names such as `day=2024-04-29/` that no URL needs to escape."""


def locate(name: str) -> tuple[Any, str]:
    """Return the file system and the path of a URL or a path; raises `BadInput`."""
    if not name:  # which would be the current folder
        raise BadInput("a path is empty")
    try:
        if "://" in name:
            system, path = fs.FileSystem.from_uri(name)
            return system, path
        path = os.path.abspath(name)  # noqa: PTH100 - also globs
        path.encode()
        return fs.LocalFileSystem(), path
    except UnicodeError as error:
        raise BadInput(f"{printable(name)}: the name is not UTF-8") from error
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{name}: {first_line(error)}") from error


def printable(name: str) -> str:
    r"""Return a name in UTF-8: a byte that is not is written as `\xff`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def name_of(root: str, path: str) -> str:
    """Return the name of a path in the file system of a root: `locate` gives the path.

    Keys of object stores may have any characters, and `locate` decodes those of a URL.
    """
    scheme, separator, _ = root.partition("://")
    if not separator or scheme == "file":
        return path
    return f"{SAME_STORE.get(scheme, scheme)}://{quote(path, safe=READABLE)}"


def first_line(error: Exception) -> str:
    """Return the text of an error, without the further lines that Arrow adds."""
    text = str(error).partition("\n")[0]
    return text.partition(" Detail: ")[0] or type(error).__name__


def refuse(error: OSError) -> None:
    """Raise the error of a folder in `os.walk`, which would leave out its files."""
    raise error


class Workspace(Struct, frozen=True):
    """Paths of a run, and how files are written there; it is passed to workers."""

    url: str
    """The folder of the output: a path of this machine, or a URL."""

    @property
    def is_local(self) -> bool:
        """True where a folder can be renamed at once."""
        return isinstance(self.system, fs.LocalFileSystem)

    @property
    def system(self) -> Any:
        """The file system of the output."""
        return locate(self.url)[0]

    @property
    def target(self) -> str:
        """The path of the complete output."""
        return locate(self.url)[1].rstrip("/")

    @property
    def work(self) -> str:
        """The path of the work folder, beside that of the output."""
        parent, name = posixpath.split(self.target)
        return posixpath.join(parent, f".{name}.work")

    @property
    def output(self) -> str:
        """The path below which the output is written."""
        return self.in_work("output") if self.is_local else self.target

    def in_work(self, *names: str) -> str:
        """Return a path in the work folder."""
        return posixpath.join(self.work, *names)

    def in_output(self, *names: str) -> str:
        """Return a path in the output."""
        return posixpath.join(self.output, *names)

    def in_target(self, *names: str) -> str:
        """Return a path in the complete output."""
        return posixpath.join(self.target, *names)

    def of_unit(self, number: int, suffix: str) -> str:
        """Return the path of one of a unit's files."""
        return self.in_work("units", f"{number:08}.{suffix}")

    def of_task(self, number: int) -> str:
        """Return the path of the record of a task that writes parts."""
        return self.in_work("parts", f"{number:08}.record")

    def has_begun(self) -> bool:
        """Return whether the work folder has a run, as each worker must see."""
        return self.exists(self.in_work(RUN_FILE))

    def prepare(self) -> None:
        """Create the folders of the work."""
        for name in WORK_FOLDERS:
            self.system.create_dir(self.in_work(name), recursive=True)

    @contextmanager
    def writing(self, path: str, *, is_synced: bool = False) -> Iterator[Any]:
        """Open a file that appears when it is complete."""
        if not self.is_local:
            with self.system.open_output_stream(path) as sink:
                yield sink
            return
        # Two workers may write it at once, also on machines that share the folder. What
        # a killed one leaves is not in the output.
        part = self.in_work(UNFINISHED, f"{token_hex(8)}.part")
        try:
            with open(part, "wb") as sink:  # noqa: PTH123 - paths are texts in this file
                yield sink
                if is_synced:
                    sink.flush()
                    os.fsync(sink.fileno())
            os.replace(part, path)  # noqa: PTH105
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part)  # noqa: PTH108
            raise

    def reading(self, path: str) -> Any:
        """Open a file for random access."""
        if self.is_local:
            return pa.memory_map(path)
        return self.system.open_input_file(path)

    def store(self, path: str, record: Struct) -> None:
        """Write a record."""
        with self.writing(path) as sink:
            sink.write(msgspec.msgpack.encode(record))

    def load(self, path: str, kind: type[T]) -> T | None:
        """Return a record; None if it does not exist, or is damaged."""
        try:
            with self.system.open_input_stream(path) as source:
                return msgspec.msgpack.decode(source.read(), type=kind)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def exists(self, path: str) -> bool:
        """Return whether a file or a folder exists."""
        found = self.system.get_file_info(path).type
        return bool(found != fs.FileType.NotFound)

    def remove(self, path: str) -> None:
        """Remove a folder, if it exists."""
        if self.exists(path):
            self.system.delete_dir(path)

    def remove_file(self, path: str) -> None:
        """Remove a file, if it exists."""
        if self.exists(path):
            self.system.delete_file(path)

    def list_files(self, folder: str) -> list[str]:
        """Return the paths of all files below a folder, which need not exist."""
        below = fs.FileSelector(folder, recursive=True, allow_not_found=True)
        found = self.system.get_file_info(below)
        return [each.path for each in found if each.type == fs.FileType.File]
