"""Files in memory, through which two processes of one user share large values."""

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Final, Self

from service.usage.snapshots.body_hashes import ArrivingHashes, BodyHashes

MIN_MAPPED_BYTES: Final = 1024 * 1024
RELEASED_BYTES: Final = 4 * 1024 * 1024
"""Unmapped in about 0.4 ms."""


class MemoryBody:
    """A body that grows in a file in memory, and is hashed meanwhile.

    This process never maps it: to unmap a large body would delay the event loop.
    """

    def __init__(self, begin: bytes | bytearray) -> None:
        self._closing = ExitStack()
        self._file = self._closing.enter_context(memory_file())
        self._hashes = ArrivingHashes(self._file)
        self._size = self._file.write(begin)

    def __len__(self) -> int:
        return self._size

    def __iadd__(self, chunk: bytes, /) -> Self:
        self._size += self._file.write(chunk)
        self._hashes.grow(self._size)
        return self

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._size)
        self._file.seek(start)
        content = self._file.read(stop - start)
        self._file.seek(0, os.SEEK_END)
        return content

    def __enter__(self) -> str:
        """Return the path of the file for another process."""
        self._file.flush()
        return file_path(self._file)

    def finish_hashes(self) -> BodyHashes:
        """Return the hashes of all blocks; waits for the thread that makes them."""
        return self._hashes.finish(self._size)

    def __exit__(self, *_: object) -> None:
        """Free the memory, as far as no other process has mapped it."""
        self._closing.close()


class ReceivedBody(bytearray):
    """A body that becomes a `MemoryBody` when it has `large_bytes`."""

    def __init__(self, large_bytes: int) -> None:
        super().__init__()
        self._large_bytes = large_bytes

    def __iadd__(self, chunk: bytes, /) -> Self | MemoryBody:  # type: ignore[override, misc]
        super().__iadd__(chunk)
        return self if len(self) < self._large_bytes else MemoryBody(self)


class MappedFile(mmap.mmap):
    """Bytes in a file in memory, which another process can map by its path."""

    _file: IO[bytes]
    _closing: ExitStack

    @classmethod
    def of(cls, pieces: Iterable[bytes | memoryview]) -> Self:
        """Join pieces, of which one must not be empty."""
        closing = ExitStack()
        file = closing.enter_context(memory_file())
        file.writelines(pieces)
        file.flush()
        mapped = cls(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped._file, mapped._closing = file, closing
        return mapped

    def release(self) -> ExitStack:
        """Unmap the pages in steps, and return what closes the file.

        Other threads get the interpreter's lock between two steps. To close the file
        after this object is gone frees its memory without the lock.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            for begin in range(0, len(self), RELEASED_BYTES):
                size = min(RELEASED_BYTES, len(self) - begin)
                self.madvise(mmap.MADV_DONTNEED, begin, size)
        return self._closing.pop_all()

    @property
    def path(self) -> str:
        """The path of the file, as long as this object exists."""
        return file_path(self._file)


def join(pieces: Sequence[bytes | memoryview]) -> bytes | MappedFile:
    """Join pieces: in a file for `MIN_MAPPED_BYTES`."""
    # Writing releases the interpreter's lock, and another process needs no copy.
    is_large = sum(map(len, pieces)) >= MIN_MAPPED_BYTES
    return MappedFile.of(pieces) if is_large else b"".join(pieces)


@contextmanager
def shared_file(content: bytes | bytearray) -> Iterator[str]:
    """Write bytes into a file in memory, and yield its path for the other process."""
    with memory_file() as file:
        file.write(content)
        file.flush()
        yield file_path(file)


@contextmanager
def memory_file() -> Iterator[IO[bytes]]:
    """Open a file in memory that another process can open by `file_path`."""
    # Containers limit /dev/shm to 64 MB by default, so it is not used.
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("copilot-usage"), "r+b") as file:
            yield file
    else:
        with tempfile.NamedTemporaryFile("r+b") as named:
            yield named.file


def file_path(file: IO[bytes]) -> str:
    """Return the path by which another process of the same user opens the file."""
    is_named = isinstance(file.name, str)
    return file.name if is_named else f"/proc/{os.getpid()}/fd/{file.fileno()}"
