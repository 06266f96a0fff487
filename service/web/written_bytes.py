"""Output of a writer of files, such as that of Parquet, to be sent as a stream."""

import io
from typing import Any


class WrittenBytes(io.RawIOBase):
    """A file that cannot be read; its bytes are taken while it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._position

    def write(self, data: Any, /) -> int:
        """Write a buffer of bytes."""
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        return len(part)

    def take(self) -> bytes:
        """Return the bytes that were written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
