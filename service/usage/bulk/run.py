"""A run of bulk pricing, from its input to its published output.

A run that was interrupted continues: units and parts with a record are not computed
again, if input and options are the same.
"""

import fcntl
import os
import posixpath
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from service.usage.bulk.engines import Engine, OpenEngine
from service.usage.bulk.errors import (
    BadInput,
    OtherRun,
    OutputExists,
    RunFailed,
    RunInProgress,
)
from service.usage.bulk.inputs import divide, list_files
from service.usage.bulk.model import (
    REJECTED_FILE,
    InputFile,
    InputFormat,
    KeysRecord,
    PartRecord,
    UnitRecord,
    WrittenFile,
)
from service.usage.bulk.output import (
    FORMAT_VERSION,
    TOTALS,
    Manifest,
    ManifestInput,
    Places,
    UnreadableFile,
    digest_of,
    find_other_file,
    read_manifest,
    to_text,
    write_manifest,
    write_rejected,
    write_totals,
)
from service.usage.bulk.parts import (
    PART_PATH,
    REPEATED_ROW,
    load_written,
    plan_tasks,
    write_parts,
)
from service.usage.bulk.repeats import compare_ids, plan_ranges, store_repeated
from service.usage.bulk.report_files import (
    REPORTS_FILE,
    digest_of_reports,
    read_reports,
    store_reports,
    stored_reports,
)
from service.usage.bulk.report_keys import KEYS, Resolve, list_keys, resolve_keys
from service.usage.bulk.units import RECORD, DayBounds, Job, price_unit
from service.usage.bulk.workspace import (
    MANIFEST,
    MESSAGES_FOLDER,
    RUN_FILE,
    WORK_FOLDERS,
    Workspace,
    name_of,
)

LOCK_FILE: Final = "lock"
REPLACED: Final = "replaced"
BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")


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
    upstream: str = ""
    """The address from which reports are fetched; empty without such calls."""
    is_forced: bool = False
    """Replace output that exists, and work of other runs."""


class _Identity(Struct, frozen=True):
    """The input and options, which must be the same for a run to continue."""

    software: str
    format_version: int
    plan_id: str
    reports: str
    files: tuple[InputFile, ...]


class _Begun(Struct, frozen=True):
    """The run of the work folder, and the start of the machine that began it."""

    identity: _Identity
    boot: str
    is_ready: bool = True
    """False while files of an earlier run may be there."""


def price_files(
    request: Request,
    open_engine: OpenEngine,
    watch: Watch,
    resolve: Resolve | None = None,
) -> Manifest:
    """Price all messages of the input, and publish the output.

    `resolve` returns reports that are not in a file.
    """
    space = Workspace(request.output)
    _check_target(space, request)
    files = _list_files(space, request)
    with _work_folder(space):
        # Another run may have published this output since.
        _check_target(space, request)
        job = Job(space, request.plan_id, request.software)
        begun = _begin(job, files, request)
        with open_engine() as engine:
            manifest = _compute(_Phases(engine, watch), job, files, resolve)
        if _list_files(space, request) != files:
            # Also if the same files come back, units may have rows of the others.
            _clear(space)
            raise RunFailed("the input has changed; --force begins anew")
        if space.load(space.in_work(RUN_FILE), _Begun) != begun:
            # A store has no lock: another process can discard the work with `--force`.
            raise RunInProgress(f"another run works on {space.target}")
        # Someone may have put files there meanwhile.
        _check_target(space, request)
        write_manifest(job, manifest)
        _publish(space)
    return manifest


def _list_files(space: Workspace, request: Request) -> tuple[InputFile, ...]:
    """Return the files of the input, without those of an output inside of it."""
    found = list_files(request.inputs, request.format)
    is_own = _own_paths(space)
    files = tuple(each for each in found if not is_own(each.path))
    if not files:
        raise BadInput(f"{request.output}: the output has all files of the input")
    return files


def _own_paths(space: Workspace) -> Callable[[str], bool]:
    """Return a function that tells files of the complete output, also through links."""
    if not space.is_local:
        own = name_of(space.url, f"{space.target}/")
        return lambda path: path.startswith(own)
    real = cache(os.path.realpath)
    below = f"{real(space.target)}/"

    def is_own(path: str) -> bool:
        folder = real(posixpath.dirname(path))
        return "://" not in path and f"{folder}/".startswith(below)

    return is_own


def _check_target(space: Workspace, request: Request) -> None:
    """Raise `OutputExists`, unless output of this command is to be replaced.

    All of a folder is removed then, so it may have no files of others. In an object
    store, only the files of this command are removed.

    Raises `BadInput` where no work folder can be beside the output.
    """
    if "/" not in space.target:
        raise BadInput(f"{request.output}: expected a folder, and no root or bucket")
    if space.is_local and os.path.islink(space.target):  # noqa: PTH114
        raise OutputExists(f"{request.output} is a link; expected a folder, or none")
    sign = space.target if space.is_local else space.in_target(MANIFEST)
    if not space.exists(sign):
        _check_parts(space, request)
        return
    manifest = read_manifest(space)
    if manifest is None:
        reason = "exists, and is no output of this command"
        raise OutputExists(f"{request.output} {reason}")
    other = find_other_file(space, manifest) if space.is_local else None
    if other is not None:
        reason = f"has a file that is not of this command: {other}"
        raise OutputExists(f"{request.output} {reason}")
    if not request.is_forced:
        raise OutputExists(f"{request.output} exists; --force replaces it")


def _check_parts(space: Workspace, request: Request) -> None:
    """Raise `OutputExists` if a store without a manifest has names of the output.

    They are of the run in the work folder, if there is one: it has begun without them.
    """
    if space.is_local or space.has_begun():
        return
    names = map(space.in_target, (TOTALS, REJECTED_FILE))
    found = [each for each in names if space.exists(each)]
    found += space.list_files(space.in_target(MESSAGES_FOLDER))
    if found:
        reason = f"has no {MANIFEST}, but a file that may be of others"
        raise OutputExists(f"{request.output} {reason}: {found[0]}")


@contextmanager
def _work_folder(space: Workspace) -> Iterator[None]:
    """Create the work folder, which only one process uses at a time.

    Raises `OutputExists` where others have a folder of this name.
    """
    if space.is_local and not _is_own_work(Path(space.work)):
        raise OutputExists(f"{space.work} exists, and is no work of this command")
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


def _is_own_work(folder: Path) -> bool:
    """Return whether a folder has the lock of a run, or no files of others.

    A kill before the lock is made, or while the work is removed, leaves no lock.
    """
    if not folder.exists() or (folder / LOCK_FILE).exists():
        return True
    own = {*WORK_FOLDERS, REPLACED, RUN_FILE, REPORTS_FILE}
    names = (each.name for each in folder.iterdir())
    return own.issuperset(names)


def _begin(job: Job, files: tuple[InputFile, ...], request: Request) -> _Begun:
    """Continue the run of the work folder, or begin one; raises `OtherRun`."""
    space = job.workspace
    reports = read_reports(request.reports) if request.reports else {}
    source = request.upstream or digest_of_reports(reports)
    begun = _Begun(
        _Identity(job.software, FORMAT_VERSION, job.plan_id, source, files),
        # After a crash of the machine, files that were not synced may be damaged.
        _boot_id() if space.is_local else "",
    )
    stored = space.load(space.in_work(RUN_FILE), _Begun)
    if stored == begun:
        return begun
    if stored and stored.identity != begun.identity and not request.is_forced:
        raise OtherRun(
            f"{space.work} has an unfinished run with other input or options; "
            "--force discards it"
        )
    # After a kill, a store may have a part of the earlier output, without its manifest.
    space.store(space.in_work(RUN_FILE), msgspec.structs.replace(begun, is_ready=False))
    # Also without a run: its file is removed before all others, or may be damaged.
    _clear(space)
    store_reports(space, reports)
    space.store(space.in_work(RUN_FILE), begun)
    return begun


def _clear(space: Workspace) -> None:
    """Remove the work of another run, and what this command has written to a store."""
    for name in WORK_FOLDERS:
        space.remove(space.in_work(name))
    if not space.is_local:
        # The manifest is first: without it, the output counts as incomplete.
        for name in (MANIFEST, TOTALS, REJECTED_FILE):
            space.remove_file(space.in_target(name))
        for path in space.list_files(space.in_target(MESSAGES_FOLDER)):
            if PART_PATH.search(path):
                space.remove_file(path)
    space.prepare()


def _boot_id() -> str:
    """Return an id of the machine's start; empty on systems without one."""
    try:
        return BOOT_ID_FILE.read_text().strip()
    except OSError:
        return ""


class _Phases:
    """Runs phases: each is a function on many tasks, whose records are stored."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine, self._watch = engine, watch

    def run(
        self,
        work: Callable[[Job, Task], Record],
        job: Job,
        tasks: Sequence[Task],
        known: Iterable[Record | None] = (),
        check: Callable[[Record], object] = lambda _: None,
    ) -> list[Record]:
        """Return the records of all tasks, in their order; known ones are not run.

        `check` is called with each record, and ends the phase by an error.
        """
        records = {}
        for each in known:
            if each is not None:
                check(each)
                records[each.number] = each
        missing = [each for each in tasks if each.number not in records]
        if not tasks:
            return []
        self._watch(work.__name__, len(records), len(tasks))
        for each in self._engine.run(work, job, missing):
            check(each)
            records[each.number] = each
            self._watch(work.__name__, len(records), len(tasks))
        return [records[each.number] for each in tasks]


def _compute(
    phases: _Phases, job: Job, inputs: Sequence[InputFile], resolve: Resolve | None
) -> Manifest:
    space, units = job.workspace, divide(inputs)
    if resolve is not None:
        listed = (space.load(space.of_unit(u.number, KEYS), KeysRecord) for u in units)
        resolve_keys(job, phases.run(list_keys, job, units, listed), resolve)
    job = msgspec.structs.replace(job, reports=digest_of_reports(stored_reports(space)))
    priced = (space.load(space.of_unit(u.number, RECORD), UnitRecord) for u in units)
    bounds = DayBounds()
    records = phases.run(
        price_unit, job, units, priced, lambda each: bounds.add(each.segments)
    )
    ranges = phases.run(compare_ids, job, plan_ranges(records))
    tasks = plan_tasks(records, store_repeated(job, records, ranges))
    written = (load_written(space, each) for each in tasks)
    parts = phases.run(write_parts, job, tasks, written)
    places = Places(inputs, records)
    removed = np.frombuffer(b"".join(p.repeated for p in parts), REPEATED_ROW)
    files = [each for part in parts for each in part.files]
    files.append(write_totals(job, parts))
    rejected = write_rejected(job, records, removed, places)
    if rejected is not None:
        files.append(rejected)
    return _summarize(job, records, parts, files, places)


def _summarize(
    job: Job,
    units: Sequence[UnitRecord],
    records: Sequence[PartRecord],
    files: Sequence[WrittenFile],
    places: Places,
) -> Manifest:
    totals = [each for record in records for each in record.totals]
    repeated = sum(len(each.repeated) for each in records) // REPEATED_ROW.itemsize
    unreadable = tuple(
        UnreadableFile(places.files[each.piece.file].path, each.error)
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
            places.rows[index],
        )
        for index, each in enumerate(places.files)
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
    # If earlier output cannot be removed, the run continues from here.
    if space.is_local and space.exists(space.target):
        old = Path(space.in_work(REPLACED))
        shutil.rmtree(old, ignore_errors=True)
        os.replace(space.target, old)  # noqa: PTH105
    # Before all others: the files of a work folder are complete only together.
    space.remove_file(space.in_work(RUN_FILE))
    if space.is_local:
        os.replace(space.output, space.target)  # noqa: PTH105
    space.remove(space.work)
