"""Hashes of a body by blocks: which bytes of it are those of the previous body.

Blocks are hashed independently of each other and of the decoding. `hashlib` releases
the interpreter's lock, so threads hash a large body while it arrives, or while another
thread decodes it.
"""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from typing import IO, Final, NamedTuple

BLOCK_BYTES: Final = 2 * 1024 * 1024
"""The unit of comparison: a change costs the decoding of its whole block."""
THREADS: Final = 2

NICENESS: Final = 5
"""Of the thread that hashes arriving bodies: as that of the child process."""


def _yield_to_others() -> None:
    # In Linux, threads have priorities of their own (setpriority(2), "Bugs").
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


_threads: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="hashing")
_arriving: Final = ThreadPoolExecutor(
    1, thread_name_prefix="arriving", initializer=_yield_to_others
)


class BodyHashes(NamedTuple):
    """The size of a body in bytes, and the SHA-256 of each of its blocks."""

    size: int
    blocks: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """A digest of the whole body: 64 hexadecimal digits."""
        # Equal blocks imply equal sizes, because only the last block may be shorter.
        return sha256(b"".join(self.blocks)).hexdigest()

    def count_equal_bytes(self, before: "BodyHashes") -> int:
        """Return how many first bytes are known to be those of another body."""
        pairs = zip(self.blocks, before.blocks, strict=False)
        equal = next(
            (at for at, (now, then) in enumerate(pairs) if now != then),
            min(len(self.blocks), len(before.blocks)),
        )
        return min(equal * BLOCK_BYTES, self.size, before.size)


class ArrivingHashes:
    """The hashing of a file in another thread, while the file grows."""

    def __init__(self, file: IO[bytes]) -> None:
        # The file, since its descriptor must stay open while the thread reads.
        self._file = file
        self._blocks: list[Future[bytes]] = []

    def grow(self, size: int) -> None:
        """Have the blocks hashed that are complete at this size in bytes."""
        while (begin := len(self._blocks) * BLOCK_BYTES) + BLOCK_BYTES <= size:
            self._file.flush()
            self._blocks.append(_arriving.submit(_hash_at, self._file, begin))

    def finish(self, size: int) -> BodyHashes:
        """Return the hashes of the whole file; waits for the thread."""
        self.grow(size)
        self._file.flush()
        blocks = [each.result() for each in self._blocks]
        begin = len(blocks) * BLOCK_BYTES
        if begin < size:
            blocks.append(_hash_at(self._file, begin))
        return BodyHashes(size, tuple(blocks))


class Hashing:
    """The hashing of a body, which may go on while another thread decodes it."""

    def __init__(self, body: memoryview, known: BodyHashes | None = None) -> None:
        self._known = known
        self._size = len(body)
        begins = range(0, len(body), BLOCK_BYTES)
        self._blocks = [body[at : at + BLOCK_BYTES] for at in begins]
        self._started: Future[tuple[bytes, ...]] | None = None

    def start(self) -> None:
        """Start to hash a large body in another thread."""
        # In one thread only: the end of each block interrupts the decoding.
        if len(self._blocks) > 1 and self._known is None:
            self._started = _threads.submit(_hash_all, self._blocks)

    @cached_property
    def hashes(self) -> BodyHashes:
        """The hashes of all blocks; they are computed now unless this has started."""
        if self._known is not None:
            return self._known
        if self._started is not None:
            return BodyHashes(self._size, self._started.result())
        run = _threads.map if len(self._blocks) > 1 else map
        return BodyHashes(self._size, tuple(run(_hash, self._blocks)))


def _hash_all(blocks: Sequence[memoryview]) -> tuple[bytes, ...]:
    return tuple(map(_hash, blocks))


def _hash_at(file: IO[bytes], begin: int) -> bytes:
    return _hash(os.pread(file.fileno(), BLOCK_BYTES, begin))


def _hash(block: memoryview | bytes) -> bytes:
    # SHA-256, because a collision would hide a correction. Processors compute it in
    # hardware, twice as fast as BLAKE2 in software.
    return sha256(block).digest()
