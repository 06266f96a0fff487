"""The child process that keeps the snapshots of a large period.

`python -m service.usage.snapshots.process` serves one `SnapshotStore` on a local
socket. It reads the key that callers must know from standard input, and ends when that
is closed: then its parent is gone. It loads only the modules that computing needs.
"""

import mmap
import os
import signal
import sys
import threading
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import BinaryIO, Final

from service.usage.snapshots.store import Loaded, SnapshotStore

KEY_BYTES: Final = 32
READY: Final = b"ready\n"


class FileStore(SnapshotStore):
    """A store whose largest arguments and results travel in files, in memory."""

    def load_file(self, number: int, path: str, previous: int | None) -> Loaded:
        """Load the body in a file."""
        return self.load(number, map_file(path), previous)

    def answer_file(self, path: str, number: int, plan: str, media_type: str) -> int:
        """Write an answer into a file; return its size in bytes.

        Pages are cut from the JSON answer, so it stays here too. From now on it is
        the same memory as in the serving process.
        """
        answer = self.answer(number, plan, media_type)
        size = Path(path).write_bytes(answer)
        priced = self.priced(number, plan)
        if answer is priced.answer and size:
            priced.answer = map_file(path)
        return size

    def pack_file(self, path: str, number: int, plan: str) -> int:
        """Write packed columns into a file; return their size in bytes."""
        return Path(path).write_bytes(self.pack(number, plan))

    def adopt_file(self, number: int, path: str) -> None:
        """Make a snapshot of the packed columns in a file."""
        self.adopt(number, Path(path).read_bytes())


class StoreManager(BaseManager):
    """Serves the store to the parent, or connects to a child that does."""


_store: Final = FileStore()
_METHODS: Final = [name for name in dir(FileStore) if not name.startswith("_")]
StoreManager.register("store", callable=lambda: _store, exposed=_METHODS)


def map_file(path: str) -> mmap.mmap:
    """Return the content of a file that is not empty, shared with other processes."""
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def main() -> None:
    """Serve until the parent is gone or stops this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    stdin = sys.stdin.buffer
    key = stdin.read(KEY_BYTES)
    threading.Thread(target=_end_with, args=(stdin,), daemon=True).start()
    manager = StoreManager(address=sys.argv[1].replace("@", "\0", 1), authkey=key)
    server = manager.get_server()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    server.serve_forever()


def _end_with(stdin: BinaryIO) -> None:
    stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
