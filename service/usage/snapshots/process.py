"""The program of the child process that prices a large period.

`python -m service.usage.snapshots.process` serves one `SnapshotStore` on a local
socket. It reads the key of the connection from standard input, and ends when that is
closed, because its parent is gone. It loads only the modules that it computes with.
"""

import mmap
import os
import signal
import sys
import threading
from collections import deque
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from service.usage.snapshots.body_hashes import BodyHashes
from service.usage.snapshots.cancellation import cancellable
from service.usage.snapshots.cursors import MessageCursor
from service.usage.snapshots.formats import JSON
from service.usage.snapshots.memory_files import MappedFile
from service.usage.snapshots.selection import Selection
from service.usage.snapshots.spans import Span
from service.usage.snapshots.store import LoadedMessages, SnapshotStore

KEY_BYTES: Final = 32
READY: Final = b"ready\n"
NICENESS: Final = 5
"""A third of a core's time while the serving process needs the rest (sched(7))."""
SWITCH_INTERVAL_S: Final = 0.0005
"""Time after which a busy thread gives the interpreter to one that waits for it.

By default 5 ms, for which a query would wait several times while a period is kept.
"""
MAX_CANCELLED_EARLY: Final = 1_000
"""Cancellations that are kept for queries that have not come yet.

Such a query is already on its way, so it comes long before so many others are
cancelled. Most ids are of queries that have just ended, and never come.
"""


class FileStore(SnapshotStore):
    """A store that exchanges its largest arguments and results as files in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._queries: dict[int, threading.Event] = {}
        self._cancelled_early: deque[int] = deque(maxlen=MAX_CANCELLED_EARLY)
        # A query and its cancellation come on two connections, in any order.
        self._cancelling = threading.Lock()

    def run_query(self, query_id: int, name: str, args: Any, kwargs: Any) -> Any:
        """Run a method; raises `QueryCancelled` if `cancel_query` has its id."""
        with self._cancelling:
            cancelled = self._queries[query_id] = threading.Event()
            if query_id in self._cancelled_early:
                cancelled.set()
        try:
            with cancellable(cancelled):
                return getattr(self, name)(*args, **kwargs)
        finally:
            del self._queries[query_id]

    def cancel_query(self, query_id: int) -> None:
        """Cancel a query that is running or has not come yet; each id is used once."""
        with self._cancelling:
            cancelled = self._queries.get(query_id)
            if cancelled is None:
                self._cancelled_early.append(query_id)
            else:
                cancelled.set()

    def extract_file(
        self, path: str, number: int, plan: str, media_type: str, selection: Selection
    ) -> tuple[int, MessageCursor | None]:
        """Write a page into a file; return its size in bytes, and the next cursor."""
        page = self.extract(number, plan, media_type, selection)
        return Path(path).write_bytes(page.body), page.next

    def load_file(
        self,
        number: int,
        path: str,
        previous: int | None,
        span: Span | None = None,
        hashes: BodyHashes | None = None,
    ) -> LoadedMessages:
        """Run `load` on the body in a file."""
        try:
            return self.load(number, map_file(path), previous, span, hashes)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            # The server keeps an error until the next call of its connection, and with
            # its frames and causes the body, also as text.
            error.__cause__ = error.__context__ = None
            raise error.with_traceback(None) from None

    def answer_path(self, number: int, plan: str, media_type: str) -> str | None:
        """Return the path of a whole answer; None if it is in no file.

        The file exists as long as the snapshot. Both processes use its memory.
        """
        if media_type != JSON:
            return None
        answer = self.priced(number, plan).answer
        return answer.path if isinstance(answer, MappedFile) else None

    def answer_file(self, path: str, number: int, plan: str, media_type: str) -> int:
        """Write an answer into a file; return its size in bytes."""
        return Path(path).write_bytes(self.answer(number, plan, media_type))

    def drop(self, number: int) -> None:
        """Run `drop`; queries wait little for the memory of large answers."""
        # To free 100 MB at once holds the interpreter's lock for 20 ms.
        snapshot = self._snapshots.get(number)
        priced = list(snapshot.priced.values()) if snapshot else []
        closing = [
            each.answer.release()
            for each in priced
            if isinstance(each.answer, MappedFile)
        ]
        del snapshot, priced
        super().drop(number)
        for each in closing:
            each.close()

    def pack_file(self, path: str, number: int, plan: str) -> int:
        """Write packed columns into a file; return their size in bytes."""
        return Path(path).write_bytes(self.pack(number, plan))

    def adopt_file(self, number: int, path: str, *, is_kept: bool = False) -> None:
        """Run `adopt` on the packed columns in a file."""
        self.adopt(number, Path(path).read_bytes(), is_kept=is_kept)


class StoreManager(BaseManager):
    """Serves the store in the child, and connects to it in the parent."""


_store: Final = FileStore()
_METHODS: Final = [name for name in dir(FileStore) if not name.startswith("_")]
StoreManager.register("store", callable=lambda: _store, exposed=_METHODS)


def map_file(path: str) -> mmap.mmap:
    """Return the content of a file as shared memory; the file must not be empty."""
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def main() -> None:
    """Serve until the parent ends, or terminates this process."""
    # On a busy core, the parent's requests go before: they take microseconds.
    os.nice(NICENESS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too
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
    # `sys.exit` would end only this thread.
    os._exit(0)


if __name__ == "__main__":
    main()
