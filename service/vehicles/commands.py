"""The command `copilot-usage vehicles lookup`.

It uses the database directly, whether or not a service is running.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import structlog
import typer
from msgspec.structs import replace

from service.cli import terminal
from service.cli.background import in_background
from service.cli.terminal import ConfigFile
from service.settings import Settings, VehiclesSettings, load
from service.storage.database import open_database
from service.vehicles import lookup_file as files
from service.vehicles import row_sinks
from service.vehicles.errors import (
    InvalidModelYear,
    InvalidVin,
    VehiclesError,
    VehicleUnavailable,
)
from service.vehicles.lookup import LookupFailure, Lookups, open_lookups
from service.vehicles.lookup_file import LineCounts, LineResult
from service.vehicles.model import Found, Vin

MAX_RETRIES: Final = 9
"""Retries of a batch, each after the `Retry-After` of vPIC."""
MAX_WAIT_S: Final = 60.0
"""Maximum wait before a retry."""
BATCHES_PER_CALL: Final = 2
"""Batches in flight for each call to vPIC: one is stored while the other waits."""
QUEUE_SHARE: Final = 0.125
"""Share of a look-up's deadline that a batch waits for the rate limit."""
BUFFER_FACTOR: Final = 2
"""Batches in memory for each one in flight, so that a slow one blocks no others."""
CONNECTIONS: Final = 2
"""Connections to the database; SQLite takes up to 64 MB of memory for each."""
NAME: Final = "copilot-usage"
PARQUET_SUFFIX: Final = ".parquet"
INTERRUPTED: Final = 130


class TableFormat(StrEnum):
    """Format of the output."""

    CSV = "csv"
    PARQUET = "parquet"


VinFileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A VIN in each line, or CSV; - is standard input."
    ),
]
ColumnOption = Annotated[
    str,
    typer.Option(
        "--column",
        metavar="COLUMN",
        help="Column of the VINs, by its name or number; by default it is found.",
    ),
]
FormatOption = Annotated[
    TableFormat | None,
    typer.Option("--format", help="Format; by default that of --output, or csv."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="File to write, replaced at the end; by default standard output.",
    ),
]
SandboxOption = Annotated[
    bool, typer.Option("--sandbox", help="Look up made-up vehicles in a local sandbox.")
]

OpenUpstreams = Callable[[Settings], AbstractAsyncContextManager[Settings]]
"""Starts the sandbox if it is enabled, and yields settings with its addresses."""


class VinFile(NamedTuple):
    """Name of the input, and its column of VINs, empty to find it."""

    name: str
    column: str


class TableOutput(NamedTuple):
    """Format and path of the output; None is standard output."""

    form: TableFormat
    path: Path | None


OPEN_SINK: Final[Mapping[TableFormat, row_sinks.OpenSink]] = {
    TableFormat.CSV: row_sinks.open_csv,
    TableFormat.PARQUET: row_sinks.open_parquet,
}


class BatchLookups:
    """Looks up batches of lines, and retries while vPIC is unavailable."""

    def __init__(self, lookups: Lookups, settings: VehiclesSettings) -> None:
        self._lookups = lookups
        self._slots = asyncio.Semaphore(_max_batches(settings))
        self._is_unavailable = False

    async def look_up(self, texts: Sequence[str]) -> list[LineResult]:
        """Return the result of each text. Raises `StorageError`."""
        parsed = {text: _parse(text) for text in texts}
        vins = {each for each in parsed.values() if not isinstance(each, VehiclesError)}
        async with self._slots:
            found = await self._look_up_with_retries(vins)
        results: dict[str, Found | VehiclesError] = {
            text: each if isinstance(each, VehiclesError) else found[each]
            for text, each in parsed.items()
        }
        return [files.to_result(text, results[text]) for text in texts]

    async def _look_up_with_retries(
        self, vins: set[Vin]
    ) -> dict[Vin, Found | LookupFailure]:
        found = await self._lookups.look_up_all(vins)
        for _ in range(MAX_RETRIES):
            wait_s = _retry_after_s(found)
            if wait_s is None or self._is_unavailable:
                break
            await asyncio.sleep(wait_s)
            failed = [vin for vin, each in found.items() if _has_failed(each)]
            found |= await self._lookups.look_up_all(failed)
        self._note_availability(found.values())
        return found

    def _note_availability(self, found: Collection[Found | LookupFailure]) -> None:
        """Stop retrying after retries failed, until vPIC decodes a VIN again."""
        if any(map(_has_failed, found)):
            self._is_unavailable = True
        elif any(isinstance(each, Found) and each.result == "miss" for each in found):
            self._is_unavailable = False


def make_cli(open_upstreams: OpenUpstreams) -> typer.Typer:
    """Return the command line of `copilot-usage vehicles`."""
    cli = typer.Typer(help="Look up vehicles by their VIN.", no_args_is_help=True)

    @cli.command("lookup")
    def look_up(  # noqa: PLR0913 - one for each option
        file: VinFileArgument,
        *,
        form: FormatOption = None,
        output: OutputOption = None,
        column: ColumnOption = "",
        config: ConfigFile = None,
        sandbox: SandboxOption = False,
    ) -> None:
        """Look up the vehicle of each VIN in a file, and write a table of them.

        Results are cached, so a run that was interrupted continues where it stopped.
        Lines may have columns with commas, semicolons or tabs between them, and a
        header. A column model_year is a hint, unless the file is output of this
        command. The output has the columns vin, make, model, model_year, body_class,
        error, which is empty if the vehicle is known, warnings, detail and source. The
        exit status is 1 if vPIC was unavailable for some VINs, or if no line was a VIN.
        The limit vehicles.requests_per_s is for this command alone; a service has its
        own.
        """
        table = _table_output(form, output)
        options = {"sandbox": {"enabled": True}} if sandbox else {}
        settings = load(config, os.environ, options).settings
        counts = LineCounts()
        try:
            _run(VinFile(file, column), table, settings, open_upstreams, counts)
        except KeyboardInterrupt:
            _report(f"stopped; the results so far are cached; {counts.summary()}")
            raise typer.Exit(INTERRUPTED) from None
        _report(counts.summary())
        if counts.has_no_vin:
            _report("no line was a VIN; --column selects the column of the VINs")
        if counts.failed or counts.has_no_vin:
            raise typer.Exit(1)

    return cli


def _table_output(form: TableFormat | None, output: Path | None) -> TableOutput:
    is_parquet = output is not None and output.suffix.lower() == PARQUET_SUFFIX
    form = form or (TableFormat.PARQUET if is_parquet else TableFormat.CSV)
    if form is TableFormat.PARQUET and output is None and sys.stdout.isatty():
        reason = "a terminal cannot show Parquet; name a file with --output"
        raise typer.BadParameter(reason)
    return TableOutput(form, output)


def _run(
    file: VinFile,
    table: TableOutput,
    settings: Settings,
    open_upstreams: OpenUpstreams,
    counts: LineCounts,
) -> None:
    # The rows and the last line have the outcome; log lines would repeat it.
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    is_csv, is_file = table.form is TableFormat.CSV, table.path is not None
    with (
        terminal.input_from(file.name) as source,
        terminal.output_to(table.path, is_streamed=is_csv) as out,
        in_background(_open_batch_lookups(settings, open_upstreams)) as background,
        terminal.progress_on(
            source, "Looking up", is_output_elsewhere=is_file
        ) as lines,
        OPEN_SINK[table.form](out) as sink,
    ):

        def start(texts: Sequence[str]) -> Future[list[LineResult]]:
            return background.start(lambda lookups: lookups.look_up(texts))

        max_pending = BUFFER_FACTOR * _max_batches(settings.vehicles)
        files.look_up_file(lines, sink, start, max_pending, counts, file.column)


@asynccontextmanager
async def _open_batch_lookups(
    settings: Settings, open_upstreams: OpenUpstreams
) -> AsyncIterator[BatchLookups]:
    """Open look-ups on the database, with the rate limit of all workers together."""
    # No client waits here, so an expired entry is only used if vPIC is unavailable.
    deadline_s = settings.vehicles.deadline_s
    patient = replace(
        settings.vehicles, stale_wait_s=deadline_s, storage_wait_s=deadline_s
    )
    command = replace(
        settings,
        server=replace(settings.server, workers=1),
        limits=replace(settings.limits, queue_wait_s=deadline_s),
        vehicles=patient,
    )
    async with (
        open_upstreams(command) as with_addresses,
        open_database(replace(settings.storage, connections=CONNECTIONS)) as database,
        open_lookups(with_addresses, database, None) as lookups,
    ):
        yield BatchLookups(lookups, settings.vehicles)


def _parse(text: str) -> Vin | InvalidVin | InvalidModelYear:
    try:
        return files.parse_line(text)
    except (InvalidVin, InvalidModelYear) as error:
        return error


def _max_batches(settings: VehiclesSettings) -> int:
    """Return how many batches are in flight: no more than the rate limit lets wait."""
    batches = BATCHES_PER_CALL * settings.concurrency
    if not settings.requests_per_s:
        return batches
    in_time = settings.requests_per_s * settings.deadline_s * QUEUE_SHARE
    return max(1, min(batches, int(in_time)))


def _has_failed(result: Found | LookupFailure) -> bool:
    return isinstance(result, VehicleUnavailable)


def _retry_after_s(found: Mapping[Vin, Found | LookupFailure]) -> float | None:
    """Return the wait before a retry; None if none failed, or vPIC gave no time."""
    waits = [
        each.retry_after_s
        for each in found.values()
        if isinstance(each, VehicleUnavailable) and each.retry_after_s is not None
    ]
    return min(max(waits), MAX_WAIT_S) if waits else None


def _report(text: str) -> None:
    typer.echo(f"{NAME}: {text}", err=True)
