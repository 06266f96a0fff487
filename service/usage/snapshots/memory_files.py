"""Files in memory, through which two processes of one user share large values."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


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
