"""The engine of one machine: a process for each core."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Final, TypeVar

from service.usage.bulk.errors import RunFailed
from service.usage.bulk.units import Job
from service.usage.bulk.worker import use_one_core

Task = TypeVar("Task")
Record = TypeVar("Record")

TASKS_PER_WORKER: Final = 2
"""One that runs, and one that waits, so that a worker never waits for a task."""
MAX_DEATHS: Final = 3
"""Workers that may die one after the other before the run fails."""
_PR_SET_PDEATHSIG: Final = 1


class LocalEngine:
    """Runs tasks in processes of this machine."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = self._start()

    def run(
        self,
        work: Callable[[Job, Task], Record],
        job: Job,
        tasks: Sequence[Task],
    ) -> Iterator[Record]:
        """Yield the record of each task; tasks of a dead worker are run again."""
        waiting = list(reversed(tasks))
        running: dict[Future[Record], Task] = {}
        deaths = 0
        while waiting or running:
            while waiting and len(running) < TASKS_PER_WORKER * self._workers:
                task = waiting.pop()
                try:
                    running[self._pool.submit(work, job, task)] = task
                except BrokenProcessPool:
                    waiting.append(task)
                    break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            lost = [each for each in done if _is_lost(each)]
            for each in done - set(lost):
                del running[each]
                deaths = 0
                yield each.result()
            if lost or (not running and waiting):
                deaths += 1
                waiting += [running.pop(each) for each in list(running)]
                self._replace(deaths)

    def close(self) -> None:
        """End the workers, whatever they do."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        # A forked process would have the threads' locks of this one.
        return ProcessPoolExecutor(
            self._workers, get_context("spawn"), _prepare_worker, (os.getpid(),)
        )

    def _replace(self, deaths: int) -> None:
        """Start other workers in the place of dead ones."""
        self.close()
        if deaths > MAX_DEATHS:
            raise RunFailed(
                f"workers died {deaths} times one after the other; they may lack memory"
            )
        self._pool = self._start()


@contextmanager
def open_local(workers: int) -> Iterator[LocalEngine]:
    """Start the engine, and end its workers afterwards."""
    engine = LocalEngine(workers)
    try:
        yield engine
    finally:
        engine.close()


def _is_lost(future: "Future[Record]") -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _prepare_worker(parent: int) -> None:
    """Let the worker end with its parent, ignore Ctrl-C, and use one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
    use_one_core()
