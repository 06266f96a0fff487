"""Clusters of Ray: connecting to one, or starting one of this machine."""

import atexit
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from service.usage.bulk.errors import NoEngine, RunFailed
from service.usage.bulk.worker import count_cores

MISSING: Final = "Ray is not installed: pip install 'copilot-usage[ray]'"
AUTO: Final = "auto"
CONNECT_TIMEOUT_S: Final = 5.0
FAILED: Final = 1
LOOK_S: Final = 2.0
HEAD_TIMEOUT_S: Final = 12.0
STORE_BYTES: Final = 80 * 1024 * 1024
"""Memory for shared objects, near the least that Ray takes; records are small."""
MAX_FOLDER_CHARACTERS: Final = 30
"""Ray puts sockets below its folder, and paths of these are short."""
MAX_CRITICAL: Final = 50
ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Messages of Ray's C++ code, which it writes to standard error.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # With `uv run`, Ray would copy the working folder to the cluster.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
ONE_TRY: Final = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
"""Ray then tries to connect once, for 40 s; otherwise 20 times."""
LOOPBACK: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray then listens on 127.0.0.1 only; otherwise on all addresses."""


class Cluster:
    """A cluster that is connected, and whose head is watched.

    Without its head, many calls of Ray do not return, and Ray ends this process after a
    minute, without a word.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.cores = 1
        self._head: str = ray.get_runtime_context().gcs_address
        self._has_ended = threading.Event()
        self._look()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def is_away(self) -> bool:
        """True if the head has not answered for some time."""
        return time.monotonic() - self._seen_s > HEAD_TIMEOUT_S

    def check(self) -> None:
        """Raise `RunFailed` if the head is away."""
        if self.is_away:
            raise RunFailed(f"the head of Ray at {self._head} does not answer")

    def close(self) -> None:
        """Disconnect, unless the head is away: Ray would block, and then crash."""
        self._has_ended.set()
        if self.is_away:
            # What is registered last is called first: before Ray disconnects by itself.
            atexit.register(os._exit, FAILED)
        else:
            self.ray.shutdown()

    def _look(self) -> None:
        self.cores = max(1, int(self.ray.cluster_resources().get("CPU", 0)))
        self._seen_s = time.monotonic()

    def _watch(self) -> None:
        while not self._has_ended.wait(LOOK_S):
            with suppress(OSError):
                _find(self._head)
                self._look()


@contextmanager
def connected_ray(address: str | None, workers: int | None) -> "Iterator[Cluster]":
    """Yield a cluster while it is connected; raises `NoEngine`.

    Without an address, the cluster is one of this machine, with a core for each worker.
    It ends with the context, and no other cluster does.
    """
    if address is not None:
        _check_address(address)
    for key, value in (ENVIRONMENT | (ONE_TRY if address else LOOPBACK)).items():
        os.environ.setdefault(key, value)
    try:
        import ray
    except ImportError as error:
        raise NoEngine(MISSING) from error
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir=_short_folder(), ignore_cleanup_errors=True
    ) as folder:
        try:
            if address is None:
                _start(ray, folder, workers)
            else:
                _connect(ray, address)
            cluster = Cluster(ray)
        except BaseException:
            ray.shutdown()
            raise
        try:
            yield cluster
        finally:
            cluster.close()


def _start(ray: Any, folder: str, workers: int | None) -> None:
    try:
        ray.init(
            "local",
            num_cpus=workers or count_cores(),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            log_to_driver=False,
            logging_level=MAX_CRITICAL,
            _temp_dir=folder,
            # Not /dev/shm, which is small in many containers.
            _plasma_directory=folder,
        )
    except Exception as error:  # Ray raises this class itself
        raise NoEngine(f"Ray does not start: {_one_line(error)}") from error


def _short_folder() -> str | None:
    return None if len(tempfile.gettempdir()) <= MAX_FOLDER_CHARACTERS else "/tmp"  # noqa: S108


def _check_address(address: str) -> None:
    """Check that something listens, since Ray waits for minutes; raises `NoEngine`."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdecimal():
        raise NoEngine(f"{address}: expected HOST:PORT of the cluster's head, or auto")
    try:
        _find(address)
    except (OSError, OverflowError) as error:
        raise NoEngine(f"{address}: no cluster of Ray: {_one_line(error)}") from error


def _find(address: str) -> None:
    """Connect to an address; raises the error of the socket."""
    host, _, port = address.rpartition(":")
    target = host.strip("[]"), int(port)
    socket.create_connection(target, CONNECT_TIMEOUT_S).close()


def _connect(ray: Any, address: str) -> None:
    try:
        with _silent():
            ray.init(address, log_to_driver=False, logging_level=MAX_CRITICAL)
    except Exception as error:  # Ray raises this class itself
        reason = _one_line(error.__cause__ or error)
        raise NoEngine(f"{address}: no usable cluster of Ray: {reason}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Discard standard error, where Ray's C++ code reports each try to connect."""
    kept = os.dup(sys.stderr.fileno())
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
        yield
    finally:
        os.dup2(kept, sys.stderr.fileno())
        os.close(kept)


def _one_line(error: BaseException) -> str:
    """Return the text of an error; that of a traceback is its last line."""
    lines = str(error).split("\n")
    if any("Traceback (most recent call last)" in line for line in lines):
        lines = [line for line in lines if line.strip()][-1:]
    return " ".join(" ".join(lines).split()) or type(error).__name__
