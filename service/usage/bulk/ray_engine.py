"""The engine of Ray: an existing cluster, or one of this machine for one run.

Each task of the run is a task of Ray. Workers read the input and write the output
themselves, so that only the small records travel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from typing import Any, Final, TypeVar

from service.usage.bulk.cluster import Cluster, connected_ray
from service.usage.bulk.errors import RunFailed
from service.usage.bulk.units import Job
from service.usage.bulk.worker import use_one_core
from service.usage.bulk.workspace import Workspace

Task = TypeVar("Task")
Record = TypeVar("Record")

TASKS_PER_CORE: Final = 2
"""One that runs, and one that waits, so that a worker never waits for a task."""
MAX_DEATHS: Final = 3
"""Workers that may die with the same task before the run fails."""
LOOK_S: Final = 2.0
"""Time without a record after which the cluster is checked."""
NAME: Final = "copilot-usage"


class RayEngine:
    """Runs tasks in workers of a cluster, each with one core."""

    def __init__(self, cluster: Cluster, workers: int | None) -> None:
        self._cluster, self._ray, self._workers = cluster, cluster.ray, workers

    def run(
        self,
        work: Callable[[Job, Task], Record],
        job: Job,
        tasks: Sequence[Task],
    ) -> Iterator[Record]:
        """Yield the record of each task; Ray runs tasks of a dead worker again."""
        remote = self._ray.remote(num_cpus=1, max_retries=MAX_DEATHS)(run_task)
        shared = self._ray.put(job)
        waiting = iter(tasks)
        running: list[Any] = []
        while True:
            for _ in range(self._bound() - len(running)):
                if (task := next(waiting, None)) is None:
                    break
                running.append(remote.remote(work, shared, task))
            if not running:
                return
            done, running = self._ray.wait(running, timeout=LOOK_S)
            self._cluster.check()
            for each in done:
                yield self._get(each)

    def _bound(self) -> int:
        """Return how many tasks may be in the cluster, which can grow and shrink."""
        if self._workers is not None:
            return self._workers
        return self._cluster.cores * TASKS_PER_CORE

    def _get(self, done: Any) -> Any:
        """Return a record; raises the error of the task as it was raised there."""
        try:
            while True:
                with suppress(self._ray.exceptions.GetTimeoutError):
                    return self._ray.get(done, timeout=LOOK_S)
                self._cluster.check()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error


@contextmanager
def open_ray(address: str | None, workers: int | None) -> Iterator[RayEngine]:
    """Connect to a cluster, or start one of this machine and end it afterwards.

    Raises `RunFailed` where Ray fails, also during the run.
    """
    with connected_ray(address, workers) as cluster:
        try:
            yield RayEngine(cluster, workers)
        except cluster.ray.exceptions.RayError as error:
            raise RunFailed(f"Ray failed: {explain(error)}") from error


def explain(error: Exception) -> str:
    """Return the kind and the first line of an error of Ray."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def run_task(work: Callable[[Job, Task], Record], job: Job, task: Task) -> Record:
    """Run a task in a worker; raises `RunFailed` if the worker lacks something."""
    _prepare(job.workspace, job.software)
    return work(job, task)


@cache
def _prepare(space: Workspace, software: str) -> None:
    """Check once in each worker that its output can be a part of the whole one."""
    use_one_core()
    own = version(NAME)
    if own != software:
        raise RunFailed(
            f"a worker has {NAME} {own}, and the command {software}; install the same"
        )
    if not space.has_begun():
        raise RunFailed(
            f"a worker does not see {space.work}; the output must be in an object "
            "store, or in a folder that all machines of the cluster share"
        )
