"""Set-up that workers of all engines have in common."""


def use_one_core() -> None:
    """Let Arrow use no threads beside the worker's own."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
