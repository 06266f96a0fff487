"""The interface of engines, which run functions on many tasks at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from service.usage.bulk.units import Job

Task = TypeVar("Task")
Record = TypeVar("Record")


class Engine(Protocol):
    """Runs tasks in workers, which see the files of the input and of the work.

    The function is one of a module, so that it can be pickled by its name. A task can
    run more than once, because a worker can die: its result is the same each time.
    """

    def run(
        self,
        work: Callable[[Job, Task], Record],
        job: Job,
        tasks: Sequence[Task],
    ) -> Iterator[Record]:
        """Yield the record of each task, in any order.

        Raises the error of a task, and `RunFailed` if workers die again and again.
        """


OpenEngine = Callable[[], AbstractContextManager[Engine]]
"""Starts an engine, and ends its workers afterwards."""
