"""Set-up that workers of all engines have in common."""

import os


def use_one_core() -> None:
    """Let Arrow use no threads beside the worker's own."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def count_cores() -> int:
    """Return the cores that this process may use; macOS has only those of all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
