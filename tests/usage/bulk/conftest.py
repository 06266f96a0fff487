"""Runs of bulk pricing in the tests: in this process, without workers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from service.usage.bulk.engines import Engine
from service.usage.bulk.output import Manifest
from service.usage.bulk.report_keys import Resolve
from service.usage.bulk.run import Request, price_files
from service.usage.bulk.units import Job

Task = TypeVar("Task")
Record = TypeVar("Record")


class InlineEngine:
    """Runs the tasks one after the other, in this process."""

    def run(
        self, work: Callable[[Job, Task], Record], job: Job, tasks: Sequence[Task]
    ) -> Iterator[Record]:
        for task in tasks:
            yield work(job, task)


@contextmanager
def open_inline() -> Iterator[Engine]:
    yield InlineEngine()


def price(
    *inputs: Path, output: Path, resolve: Resolve | None = None, **options: Any
) -> Manifest:
    """Price files in this process."""
    chosen = {"plan_id": "text-rules/1", **options}
    request = Request(tuple(map(str, inputs)), str(output), **chosen)
    return price_files(request, open_inline, lambda *_: None, resolve)


def read_output(output: Path) -> list[dict[str, Any]]:
    """Return the priced messages, by day and in the order of the input."""
    files = sorted(output.glob("messages/*/*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
