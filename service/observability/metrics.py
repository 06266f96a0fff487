"""The registry of all metrics, which Prometheus scrapes at `/metrics`.

Each package declares its metrics in a module `metrics`, with a function for each thing
that it counts. With several worker processes, each process writes its own files
(`prepare_workers`), and the process that is scraped adds them up.
docs/metrics.md lists every metric.
"""

import atexit
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    disable_created_metrics,
    multiprocess,
    values,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

T = TypeVar("T")

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

OTHER: Final = "_OTHER"
"""OpenTelemetry's label for unknown methods; also used for paths without a route."""
METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
SUCCESS: Final = "success"
HTTP_BUCKETS_S: Final = tuple(
    float(bound)
    for bound in "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10".split()
)
"""OpenTelemetry's advice for durations of HTTP."""

Derive = Callable[[Metric], Metric]
"""Compute a metric from another one when Prometheus scrapes."""

disable_created_metrics()  # type: ignore[no-untyped-call]


class Declared(Generic[T]):
    """The metrics of one package; `current` holds the objects to count with."""

    def __init__(self, make: Callable[[CollectorRegistry], T]) -> None:
        self._make = make
        self.current: T

    def make(self, registry: CollectorRegistry) -> None:
        """Create the metrics in a registry, with nothing counted yet."""
        self.current = self._make(registry)


class Registry:
    """All declared metrics; `create_again` makes them shared between workers."""

    def __init__(self) -> None:
        self._declared: list[Declared[Any]] = []
        self._derived: dict[str, Derive] = {}
        self._before_scrape: list[Callable[[], None]] = []
        self._create()

    def declare(self, make: Callable[[CollectorRegistry], T]) -> Declared[T]:
        """Add the metrics that `make` creates in a registry."""
        declared = Declared(make)
        self._declared.append(declared)
        declared.make(self._registry)
        return declared

    def derive(self, name: str, derive: Derive) -> None:
        """Replace the metric `name` by one that is computed from it at each scrape.

        With several workers and the mode `liveall`, each sample has the label `pid` of
        its worker. A callback of a gauge would not do: it exists in the worker that set
        it only.
        """
        self._derived[name] = derive

    def before_scrape(self, write: Callable[[], None]) -> None:
        """Call `write` before each scrape, to write batches into the metrics."""
        self._before_scrape.append(write)

    def prepare_scrape(self) -> CollectorRegistry:
        """Return the registry to scrape, after all batches are written."""
        for write in self._before_scrape:
            write()
        return self._scraped

    def create_again(self) -> None:
        """Create all metrics again, with nothing counted yet."""
        self._create()
        for declared in self._declared:
            declared.make(self._registry)

    def _create(self) -> None:
        self._registry = CollectorRegistry()
        counted: Collector = self._registry
        if folder := os.environ.get(FOLDER_VARIABLE):
            Path(folder).mkdir(parents=True, exist_ok=True)
            counted = _AllWorkers(None)  # type: ignore[no-untyped-call]
        else:
            # With several workers it would describe only the one that is scraped.
            ProcessCollector(registry=self._registry)
        self._scraped = CollectorRegistry()
        self._scraped.register(_WithDerived(counted, self._derived))


class _AllWorkers(multiprocess.MultiProcessCollector):
    """The metrics of all workers, of which some may have just started or ended."""

    def collect(self) -> Iterable[Metric]:
        # An empty file is one that a worker has just made. The library cannot read it.
        files = [
            str(file) for file in Path(self._path).glob("*.db") if _has_content(file)
        ]
        metrics: Iterable[Metric] = self.merge(files)  # type: ignore[no-untyped-call]
        return metrics


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


class _WithDerived(Collector):
    """The metrics of another collector; derived ones replace those they are of."""

    def __init__(self, counted: Collector, derived: dict[str, Derive]) -> None:
        self._counted = counted
        self._derived = derived

    def collect(self) -> Iterator[Metric]:
        for metric in self._counted.collect():
            derive = self._derived.get(metric.name)
            yield derive(metric) if derive else metric


REGISTRY: Final = Registry()


def known_method(method: str) -> str:
    """Return an HTTP method, or `_OTHER` for one that no standard defines."""
    return method if method in METHODS else OTHER


def expose(accept: str) -> tuple[bytes, str]:
    """Return all metrics and their content type, in the form that `accept` names."""
    encode, content_type = choose_encoder(accept)
    return encode(REGISTRY.prepare_scrape()), content_type


def content_type_for(accept: str) -> str:
    """Return the content type of the form that `accept` names."""
    _, content_type = choose_encoder(accept)
    return content_type


def prepare_workers() -> None:
    """Count over all workers together; called once, before the first is forked.

    They write to files in `PROMETHEUS_MULTIPROC_DIR`, by default a temporary folder
    that is removed at the end. Files of an earlier run are removed now.
    """
    if FOLDER_VARIABLE not in os.environ:
        os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="copilot-usage-metrics-")
        atexit.register(_remove_folder, os.environ[FOLDER_VARIABLE], os.getpid())
    # Files of processes that no longer run would be summed for ever.
    for file in Path(os.environ[FOLDER_VARIABLE]).glob("*.db"):
        file.unlink()
    # The library reads the variable only when this module is loaded.
    importlib.reload(values)
    REGISTRY.create_again()


def keep_folder() -> None:
    """Leave a temporary folder to the program that replaces this one."""
    atexit.unregister(_remove_folder)


def child_exited(pid: int) -> None:
    """Drop the gauges of a worker that has ended; its counters stay."""
    if FOLDER_VARIABLE in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _remove_folder(folder: str, owner_pid: int) -> None:
    """Remove the temporary folder, unless this process is a fork."""
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)
