"""Sizes of writes to a descriptor that leave no incomplete line."""

import array
import fcntl
import os
import select
import stat
import termios
from typing import Final

MAX_WRITE_BYTES: Final = 256 * 1024
"""For files and terminals, which do not stop in the middle for long."""
LOOK_AGAIN_MS: Final = 10


class WholeWrites:
    """The sizes of writes that are done completely, or not at all.

    A process that ends while it waits for a reader leaves no incomplete line then. A
    pipe takes up to `PIPE_BUF` bytes as a whole (pipe(7)), and its capacity if it is
    empty.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Known once: each call to the system waits for the interpreter lock again.
        self._capacity = pipe_capacity(descriptor)
        self._reader_ended = select.poll()
        self._reader_ended.register(descriptor, 0)

    def max_bytes(self) -> int:
        """Return the maximum size of the next write; raises `OSError`."""
        if self._capacity is None:
            return MAX_WRITE_BYTES
        return select.PIPE_BUF if self._unread_bytes() else self._capacity

    def wait_for(self, size: int) -> None:
        """Wait until a write of `size` bytes is done completely; raises `OSError`.

        Does not wait if the reader has ended, or for more than a pipe can hold.
        """
        if self._capacity is None or not select.PIPE_BUF < size <= self._capacity:
            return
        while self._unread_bytes() and not self._reader_ended.poll(LOOK_AGAIN_MS):
            pass

    def _unread_bytes(self) -> int:
        unread = array.array("i", [0])
        fcntl.ioctl(self._descriptor, termios.FIONREAD, unread)
        return unread[0]


def pipe_capacity(descriptor: int) -> int | None:
    """Return the capacity of a pipe, None for anything else."""
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None
    except OSError:  # it is closed
        return None
    if hasattr(fcntl, "F_GETPIPE_SZ"):
        return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
    return select.PIPE_BUF  # not on Linux
