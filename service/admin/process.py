"""Facts about this process: its memory, and the queue of its log."""

import os
import resource
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from service.admin.model import LogQueue, Memory
from service.observability import log_output

STATM: Final = Path("/proc/self/statm")
RSS_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 1024
"""Unit of `ru_maxrss`, which getrusage(2) of each system defines."""


def utc(seconds: float) -> str:
    """Return a Unix time as ISO 8601, in milliseconds."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def memory() -> Memory:
    """Return the memory of this process."""
    resident = None
    with suppress(OSError):
        pages = int(STATM.read_text("ascii").split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Memory(resident, peak * RSS_UNIT_BYTES)


def log_queue() -> LogQueue:
    """Return the state of the log's queue."""
    queue = log_output.STDOUT.queue
    return LogQueue(queue.queued_bytes, queue.dropped.total())
