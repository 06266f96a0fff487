"""The files of the input, and their division into units of work.

Units depend on the input only, and not on the engine or the number of workers.
"""

import os
import posixpath
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob, has_magic
from itertools import chain, takewhile
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from service.usage.bulk.errors import BadInput
from service.usage.bulk.model import WHOLE, InputFile, InputFormat, Piece, Unit
from service.usage.bulk.workspace import (
    first_line,
    locate,
    name_of,
    printable,
    refuse,
)

UNIT_BYTES: Final = 32 * 1024 * 1024
"""Size of a unit: several small files, or a part of a large one."""
ROW_BYTES: Final = 128
"""Size of a row for this division, at least: Parquet has repeated texts only once."""

FORMATS: Final = {
    ".parquet": InputFormat.PARQUET,
    ".pq": InputFormat.PARQUET,
    ".ndjson": InputFormat.NDJSON,
    ".jsonl": InputFormat.NDJSON,
    ".json": InputFormat.NDJSON,
    ".csv": InputFormat.CSV,
}
COMPRESSED: Final = (".gz", ".zst", ".zstd")
SPLITTABLE: Final = InputFormat.NDJSON


def list_files(
    names: Sequence[str], chosen: InputFormat | None = None
) -> list[InputFile]:
    """Return the files of paths, folders, patterns and URLs, in order of their paths.

    In folders and patterns, files of another format are left out. Raises `BadInput`.
    """
    files: dict[str, InputFile] = {}
    for name in names:
        found = list(_find(name, chosen))
        if not found:
            raise BadInput(f"{name}: no such file, and no files of messages")
        files |= {each.path: each for each in found}
    return [files[path] for path in sorted(files)]


def _find(name: str, chosen: InputFormat | None) -> Iterator[InputFile]:
    # Browsers name a second download `messages[1].csv`.
    if "://" not in name and has_magic(name) and not os.path.lexists(name):
        for path in glob(name, recursive=True):  # noqa: PTH207
            if not _is_left_out(path, name):
                full = os.path.abspath(path)  # noqa: PTH100
                yield from _find_match(full, chosen)
        return
    yield from _find_path(name, chosen, is_named=True)


def _is_left_out(path: str, pattern: str) -> bool:
    """Return whether a wildcard stands for an underscore that a name begins with.

    `glob` itself leaves out names that begin with a point.
    """
    parts, given = _parts_of(path), _parts_of(pattern)
    fixed = len(list(takewhile(lambda part: not has_magic(part), given)))
    named = [part for part in given[fixed:] if part.startswith("_")]
    return any(
        part.startswith("_") and not any(fnmatchcase(part, each) for each in named)
        for part in parts[fixed:]
    )


def _parts_of(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _find_match(path: str, chosen: InputFormat | None) -> Iterator[InputFile]:
    """Find the files of a match of a pattern."""
    if _is_utf_8(path):
        yield from _find_path(path, chosen, is_named=False)
    elif os.path.isdir(path):  # noqa: PTH112
        yield from chain.from_iterable(
            _to_file(path, each, chosen)
            for each in _list(fs.LocalFileSystem(), path)
            if not _is_hidden(each.path, printable(path))
        )
    else:
        yield from _to_file(path, _unreadable(path), chosen)


def _find_path(
    name: str, chosen: InputFormat | None, *, is_named: bool
) -> Iterator[InputFile]:
    system, path = locate(name)
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.Directory:
            listed = (e for e in _list(system, path) if not _is_hidden(e.path, path))
            yield from chain.from_iterable(
                _to_file(name, each, chosen) for each in listed
            )
        elif info.type == fs.FileType.Unknown:
            raise BadInput(f"{name}: neither a file nor a folder")
        elif info.type != fs.FileType.NotFound:
            found = list(_to_file(name, info, chosen))
            if is_named and not found:
                reason = "unknown format; --input-format names it"
                raise BadInput(f"{name}: {reason}")
            yield from found
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{name}: {first_line(error)}") from error


def _list(system: Any, folder: str) -> Iterator[Any]:
    """Yield the files below a folder; links to folders are not followed."""
    if not isinstance(system, fs.LocalFileSystem):
        inside = system.get_file_info(fs.FileSelector(folder, recursive=True))
        yield from (each for each in inside if each.type == fs.FileType.File)
        return
    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 - also of an URL elsewhere
            if not _is_utf_8(path):
                yield _unreadable(path)
                continue
            try:
                found = system.get_file_info(path)
            except OSError:  # a loop of links
                found = fs.FileInfo(path, size=0)
            # What is missing is a link to nothing: the unit that reads it reports it.
            if found.type in {fs.FileType.File, fs.FileType.NotFound}:
                yield fs.FileInfo(
                    path, size=found.size or 0, mtime_ns=found.mtime_ns or 0
                )


def _is_utf_8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeError:
        return False
    return True


def _unreadable(path: str) -> Any:
    """Return a file that does not exist, for one whose name no output can have.

    The unit that reads it reports it. Raises `BadInput` where the other file exists.
    """
    name = printable(path)
    if os.path.lexists(name):
        raise BadInput(f"{name}: another file has this name, which is not UTF-8")
    return fs.FileInfo(name, size=0)


def _is_hidden(path: str, folder: str) -> bool:
    below = path.removeprefix(folder).strip("/")
    return any(part.startswith((".", "_")) for part in below.split("/"))


def _to_file(name: str, info: Any, chosen: InputFormat | None) -> Iterator[InputFile]:
    form = chosen or format_of(info.path)
    if form is None:
        return
    path = name_of(name, info.path)
    yield InputFile(path, form, info.size, str(info.mtime_ns or ""))


def format_of(path: str) -> InputFormat | None:
    """Return the format that the suffix of a path stands for."""
    stem, suffix = posixpath.splitext(path.lower())
    if suffix in COMPRESSED:
        _, suffix = posixpath.splitext(stem)
    return FORMATS.get(suffix)


def is_compressed(path: str) -> bool:
    """Return whether a file of text is compressed."""
    return path.lower().endswith(COMPRESSED)


def divide(files: Sequence[InputFile]) -> list[Unit]:
    """Return the units of these files, in their order."""
    units: list[Unit] = []
    pending: list[Piece] = []
    size = 0

    def finish() -> None:
        own = tuple(files[each.file] for each in pending)
        units.append(Unit(len(units), tuple(pending), own))

    for index, file in enumerate(files):
        for piece, piece_size in _divide_file(index, file):
            if pending and size + piece_size > UNIT_BYTES:
                finish()
                pending, size = [], 0
            pending.append(piece)
            size += piece_size
    if pending:
        finish()
    return units


def _divide_file(index: int, file: InputFile) -> Iterator[tuple[Piece, int]]:
    """Yield the pieces of a file with their sizes in bytes."""
    if file.format is InputFormat.PARQUET:
        yield from _divide_parquet(index, file)
        return
    if file.format is not SPLITTABLE or is_compressed(file.path):
        yield Piece(index), file.size_bytes
        return
    for begin in range(0, max(file.size_bytes, 1), UNIT_BYTES):
        end = min(begin + UNIT_BYTES, file.size_bytes)
        yield Piece(index, begin, end), end - begin


def _divide_parquet(index: int, file: InputFile) -> Iterator[tuple[Piece, int]]:
    try:
        with open_file(file) as source:
            metadata = pq.ParquetFile(source).metadata
    except (pa.ArrowException, OSError, UnicodeError):
        yield Piece(index, 0, WHOLE), 0  # the unit that reads it reports the error
        return
    begin = size = 0
    for group in range(metadata.num_row_groups):
        each = metadata.row_group(group)
        own = max(each.total_byte_size, each.num_rows * ROW_BYTES)
        if group > begin and size + own > UNIT_BYTES:
            yield Piece(index, begin, group), size
            begin, size = group, 0
        size += own
    yield Piece(index, begin, metadata.num_row_groups), size


def open_file(file: InputFile) -> Any:
    """Open a file of the input for random access."""
    system, path = locate(file.path)
    return system.open_input_file(path)
