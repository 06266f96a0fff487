"""The life cycle of the child process that prices large periods.

`process` is the program that the child runs.
"""

import os
import secrets
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from multiprocessing import ProcessError
from multiprocessing.managers import BaseProxy
from pathlib import Path
from typing import Any, Final

from service.usage.errors import WorkerLost
from service.usage.snapshots.process import KEY_BYTES, READY, StoreManager

MALLOC: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 1024 * 1024),
}
"""Parameters of glibc (mallopt(3)). They map the columns of a large period, so that
dropping it returns the memory. By default, glibc soon allocates them on heaps, and has
several of these for threads, which the interpreter's lock lets run one by one."""
DOES_NOT_START: Final = "the process for a large period does not start"

_PACKAGE_ROOT: Final = str(Path(__file__).parents[3])


class PricingChild:
    """A child process, and the proxy of its store.

    Raises `WorkerLost` if the process does not start.
    """

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._address = _new_address()
        self._store: Any = None
        # Set when the child serves, or has ended.
        self._is_settled = threading.Event()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - it runs this interpreter
                [sys.executable, "-m", StoreManager.__module__, self._address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**MALLOC, **os.environ, "PYTHONPATH": _python_path()},
            )
        except OSError as error:
            raise WorkerLost(DOES_NOT_START) from error

    def connect(self) -> None:
        """Wait until the child serves; raises `WorkerLost` if it ends before."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - both are pipes
        assert stdout is not None  # noqa: S101
        key = secrets.token_bytes(KEY_BYTES)
        try:
            stdin.write(key)
            stdin.flush()
            if stdout.readline() != READY:
                raise EOFError
            address = self._address.replace("@", "\0", 1)
            manager = StoreManager(address=address, authkey=key)
            manager.connect()
            self._store = manager.store()  # type: ignore[attr-defined]
        except (OSError, EOFError, ValueError, ProcessError) as error:
            self.end(0.0)
            raise WorkerLost(DOES_NOT_START) from error
        self._is_settled.set()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """False once the child has ended."""
        return self._process.poll() is None

    @property
    def processor_ticks(self) -> int:
        """Processor time of the child in clock ticks; 0 on systems without `/proc`."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0
        # The program's name, in parentheses, may contain spaces (proc(5)).
        user, system = stat.rpartition(")")[2].split()[11:13]
        return int(user) + int(system)

    def ping(self) -> None:
        """Wait for an answer; a starting child answers as soon as it serves."""
        self._is_settled.wait()
        self.call("ping")

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the store; raises `WorkerLost` if the child is gone."""
        store = self._store
        if store is None:
            raise WorkerLost
        try:
            return store._callmethod(name, args, kwargs)
        except (EOFError, ConnectionError) as error:
            self.end(0.0)
            raise WorkerLost from error

    def end(self, patience_s: float) -> None:
        """Terminate the child, and kill it after `patience_s`; 0 kills it at once."""
        process = self._process
        with suppress(subprocess.TimeoutExpired):
            if patience_s:
                process.terminate()
                process.wait(patience_s)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._store = None
        self._is_settled.set()
        # `multiprocessing` caches each thread's connection by address, without an end.
        BaseProxy._address_to_local.pop(self._address.replace("@", "\0", 1), None)


def _new_address() -> str:
    """Return the address of a local socket; `@` marks the abstract namespace."""
    name = f"copilot-usage-{secrets.token_hex(8)}"
    has_abstract = hasattr(os, "memfd_create")  # both exist on Linux only
    return f"@{name}" if has_abstract else str(Path(tempfile.gettempdir(), name))


def _python_path() -> str:
    """Return a `PYTHONPATH` by which the child imports this package."""
    return os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
