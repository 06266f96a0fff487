"""A run of bulk pricing, from its input to its published output.

A run that was interrupted continues: units and parts with a record are not computed
again, if input and options are the same.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct

from service.usage.bulk.engines import Engine, OpenEngine
from service.usage.bulk.errors import OtherRun, OutputExists, RunInProgress
from service.usage.bulk.inputs import divide, list_files
from service.usage.bulk.model import (
    InputFile,
    InputFormat,
    PartRecord,
    UnitRecord,
    WrittenFile,
)
from service.usage.bulk.output import (
    FORMAT_VERSION,
    FirstRows,
    Manifest,
    ManifestInput,
    UnreadableFile,
    digest_of,
    to_text,
    write_manifest,
    write_rejected,
    write_totals,
)
from service.usage.bulk.parts import plan_tasks, write_parts
from service.usage.bulk.repeats import find_repeated
from service.usage.bulk.report_files import (
    read_reports,
    store_reports,
)
from service.usage.bulk.units import RECORD, Job, price_unit
from service.usage.bulk.workspace import MANIFEST, Workspace

RUN_FILE: Final = "run"
LOCK_FILE: Final = "lock"


class Numbered(Protocol):
    """A task, or its record."""

    @property
    def number(self) -> int:
        """The place among the tasks of its phase, from 0."""


Task = TypeVar("Task", bound=Numbered)
Record = TypeVar("Record", bound=Numbered)

Watch = Callable[[str, int, int], object]
"""Is told the phase, the finished tasks and all tasks, after each one."""


class Request(Struct, frozen=True):
    """The options of a run."""

    inputs: tuple[str, ...]
    output: str
    plan_id: str
    format: InputFormat | None = None
    reports: str | None = None
    software: str = ""
    """Version of this software, which decides about the bytes of the output."""
    is_forced: bool = False
    """Replace output that exists, and work of other runs."""


class _Identity(Struct, frozen=True):
    """What must be the same for a run to continue."""

    software: str
    format_version: int
    plan_id: str
    reports: str
    files: tuple[InputFile, ...]


def price_files(request: Request, open_engine: OpenEngine, watch: Watch) -> Manifest:
    """Price all messages of the input, and publish the output."""
    files = tuple(list_files(request.inputs, request.format))
    space = Workspace(request.output)
    if not request.is_forced and _is_complete(space):
        raise OutputExists(f"{request.output} exists; --force replaces it")
    with _work_folder(space):
        job = Job(space, files, request.plan_id, request.software)
        _begin(job, request)
        with open_engine() as engine:
            manifest = _compute(job, engine, watch)
        write_manifest(job, manifest)
        _publish(space)
    return manifest


def _is_complete(space: Workspace) -> bool:
    """Return whether the output exists; without a manifest, that of a store is not."""
    return space.exists(space.target if space.is_local else space.in_output(MANIFEST))


@contextmanager
def _work_folder(space: Workspace) -> Iterator[None]:
    """Create the work folder, which only one process uses at a time."""
    space.prepare()
    if not space.is_local:
        yield
        return
    with Path(space.in_work(LOCK_FILE)).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            reason = f"another process works on {space.target}"
            raise RunInProgress(reason) from error
        yield


def _begin(job: Job, request: Request) -> None:
    """Continue the run of the work folder, or begin one; raises `OtherRun`."""
    space = job.workspace
    reports = read_reports(request.reports) if request.reports else {}
    identity = _Identity(
        job.software, FORMAT_VERSION, job.plan_id, _fingerprint(reports), job.files
    )
    stored = space.load(space.in_work(RUN_FILE), _Identity)
    if stored == identity:
        return
    if stored is not None:
        if not request.is_forced:
            raise OtherRun(
                f"{space.work} has an unfinished run with other input or options; "
                "--force discards it"
            )
        for name in ("units", "parts", "output"):
            space.remove(space.in_work(name))
        space.prepare()
    store_reports(space, dict(reports))
    space.store(space.in_work(RUN_FILE), identity)


def _fingerprint(reports: dict[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(reports.items())).encode()).hexdigest()


class _Run(Generic[Task, Record]):
    """Runs a phase: a function on many tasks, of which some have records already."""

    def __init__(
        self,
        work: Callable[[Job, Task], Record],
        tasks: Sequence[Task],
        known: Iterable[Record | None],
    ) -> None:
        self._work, self._tasks = work, tasks
        self._records = {each.number: each for each in known if each is not None}

    def finish(self, job: Job, engine: Engine, watch: Watch) -> list[Record]:
        """Return the records of all tasks, in their order."""
        records, count = self._records, len(self._tasks)
        missing = [each for each in self._tasks if each.number not in records]
        watch(self._work.__name__, len(records), count)
        for each in engine.run(self._work, job, missing):
            records[each.number] = each
            watch(self._work.__name__, len(records), count)
        return [records[each.number] for each in self._tasks]


def _compute(job: Job, engine: Engine, watch: Watch) -> Manifest:
    space = job.workspace
    tasks = divide(job.files)
    priced = (space.load(space.of_unit(t.number, RECORD), UnitRecord) for t in tasks)
    units = _Run(price_unit, tasks, priced).finish(job, engine, watch)
    repeated = find_repeated(space, units)
    parts = plan_tasks(units, repeated)
    written = (space.load(space.of_task(t.number), PartRecord) for t in parts)
    records = _Run(write_parts, parts, written).finish(job, engine, watch)
    first_rows = FirstRows(units)
    removed = [row for record in records for row in record.repeated]
    files = [each for record in records for each in record.files]
    files.append(write_totals(job, records))
    rejected = write_rejected(job, units, removed, first_rows)
    if rejected is not None:
        files.append(rejected)
    return _summarize(job, units, records, files, first_rows)


def _summarize(
    job: Job,
    units: Sequence[UnitRecord],
    records: Sequence[PartRecord],
    files: Sequence[WrittenFile],
    first_rows: FirstRows,
) -> Manifest:
    totals = [each for record in records for each in record.totals]
    repeated = sum(len(record.repeated) for record in records)
    unreadable = tuple(
        UnreadableFile(job.files[each.piece.file].path, each.error)
        for unit in units
        for each in unit.pieces
        if each.error
    )
    inputs = tuple(
        ManifestInput(
            each.path,
            each.format.value,
            each.size_bytes,
            each.version,
            first_rows.rows.get(index, 0),
        )
        for index, each in enumerate(job.files)
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        software=job.software,
        plan=job.plan_id,
        messages=sum(each.messages for each in totals),
        credits=to_text(sum(each.hundredths for each in totals)),
        priced_by_report=sum(each.messages for each in totals if each.report >= 0),
        rejected=sum(each.rejected for each in units) + repeated,
        unreadable=unreadable,
        days=len({each.day for each in totals}),
        digest=digest_of(files),
        inputs=inputs,
        outputs=tuple(files),
    )


def _publish(space: Workspace) -> None:
    """Let the complete output appear under its name, and remove the work."""
    if space.is_local:
        old = Path(space.in_work("replaced"))
        if space.exists(space.target):
            shutil.rmtree(old, ignore_errors=True)
            os.replace(space.target, old)  # noqa: PTH105
        os.replace(space.output, space.target)  # noqa: PTH105
    space.remove(space.work)
