"""The report ids of the input, which are resolved once each before any pricing."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

import pyarrow.compute as pc

from service.usage.bulk.errors import RunFailed, UnreadablePiece
from service.usage.bulk.model import KeysRecord, Unit
from service.usage.bulk.reading import read_report_keys
from service.usage.bulk.report_files import store_reports, stored_reports
from service.usage.bulk.units import Job
from service.usage.snapshots.build import ReportPrice

KEYS: Final = "keys"
"""Suffix of the record of a unit's report ids."""
MAX_KEYS: Final = 1_000_000
"""Upper bound of different report ids, which bounds the memory of each worker."""
RESOLVED_AT_ONCE: Final = 1_000
"""Reports that are resolved together."""
STORED_SHARE: Final = 10
"""A kill loses at most about this part of the reports: all are written each time."""

Resolve = Callable[[Sequence[str]], dict[str, ReportPrice | None]]
"""Returns the report of each key, None for one that does not exist."""


def list_keys(job: Job, unit: Unit) -> KeysRecord:
    """Return the report ids of a unit, and store them."""
    keys: set[str] = set()
    for file, piece in zip(unit.files, unit.pieces, strict=True):
        # A piece that cannot be read is reported when it is priced.
        with suppress(UnreadablePiece):
            for batch in read_report_keys(file, piece):
                keys.update(pc.unique(batch.drop_null()).to_pylist())
                _check_count(keys)
    record = KeysRecord(unit.number, tuple(sorted(keys)))
    job.workspace.store(job.workspace.of_unit(unit.number, KEYS), record)
    return record


def resolve_keys(job: Job, records: Iterable[KeysRecord], resolve: Resolve) -> None:
    """Resolve the report ids that are not stored yet, and store their reports."""
    keys = {key for record in records for key in record.keys}
    _check_count(keys)
    reports = stored_reports(job.workspace)
    missing = iter(sorted(keys - set(reports)))
    next_store = 0
    try:
        while some := list(islice(missing, RESOLVED_AT_ONCE)):
            reports.update(resolve(some))
            if len(reports) >= next_store:
                store_reports(job.workspace, reports)
                next_store = len(reports) + len(reports) // STORED_SHARE
    finally:
        store_reports(job.workspace, reports)


def _check_count(keys: set[str]) -> None:
    if len(keys) > MAX_KEYS:
        raise RunFailed(f"the messages have more than {MAX_KEYS:,} report ids")
