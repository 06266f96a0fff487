"""The commands of `copilot-usage vehicles`: lookup.

They work on the database itself, whether or not a service runs on it.
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

from service import terminal
from service.background import in_background
from service.settings import Settings, Vehicles, load
from service.storage.database import open_database
from service.terminal import ConfigFile
from service.vehicles import files
from service.vehicles.errors import InvalidVin, VehiclesError, VehicleUnavailable
from service.vehicles.files import Result, Tally
from service.vehicles.lookup import Lookups, Refused, open_lookups
from service.vehicles.model import Found, Vin
from service.vehicles.vin import parse_vins
from service.vehicles.vpic import PATIENCE

WAITS: Final = 9
"""How often a batch waits for as long as it is told to, before it has failed."""
MAX_WAIT_S: Final = 60.0
"""The longest of these waits."""
AT_ONCE: Final = 2
"""Batches for each that may be in flight: what is told is kept meanwhile."""
AHEAD: Final = 2
"""Batches that are held for each of these: one that is slow stops no others."""
CONNECTIONS: Final = 2
"""To the database; SQLite holds up to 64 MB in memory for each."""
NAME: Final = "copilot-usage"
PARQUET_SUFFIX: Final = ".parquet"
INTERRUPTED: Final = 130


class FileFormat(StrEnum):
    """What `lookup` writes."""

    CSV = "csv"
    PARQUET = "parquet"


VinFile = Annotated[
    str, typer.Argument(metavar="FILE", help="One VIN a line; - is standard input.")
]
Format = Annotated[
    FileFormat | None,
    typer.Option("--format", help="What to write; else as --output is called, or csv."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="The file to write, replaced at the end; else standard output.",
    ),
]
Sandbox = Annotated[bool, typer.Option("--sandbox", help="Ask an upstream of our own.")]

Called = Callable[[Settings], AbstractAsyncContextManager[Settings]]
"""Opens whom settings call, and gives the settings that say where."""


class Wanted(NamedTuple):
    """What is to be written, and where: standard output, if no path is given."""

    form: FileFormat
    path: Path | None


OPEN_SINK: Final[Mapping[FileFormat, files.OpenSink]] = {
    FileFormat.CSV: files.open_csv,
    FileFormat.PARQUET: files.open_parquet,
}


class Asking:
    """Looks VINs up in batches, and waits while vPIC wants to be left in peace."""

    def __init__(self, lookups: Lookups, settings: Vehicles) -> None:
        self._lookups = lookups
        self._slots = asyncio.Semaphore(_batches_at_once(settings))
        self._is_away = False

    async def look_up(self, texts: Sequence[str]) -> list[Result]:
        """What comes of each text. Raises `StorageError`."""
        parsed = parse_vins(texts)
        vins = {each for each in parsed.values() if not isinstance(each, InvalidVin)}
        async with self._slots:
            told = await self._ask(vins)
        came: dict[str, Found | VehiclesError] = {
            text: each if isinstance(each, InvalidVin) else told[each]
            for text, each in parsed.items()
        }
        return [files.to_result(text, came[text]) for text in texts]

    async def _ask(self, vins: set[Vin]) -> dict[Vin, Found | Refused]:
        """Ask, and once more after each wait."""
        told = await self._lookups.look_up_all(vins)
        for _ in range(WAITS):
            wait_s = _wait_s(told)
            if wait_s is None or self._is_away:
                break
            await asyncio.sleep(wait_s)
            failed = [vin for vin, each in told.items() if _has_failed(each)]
            told |= await self._lookups.look_up_all(failed)
        self._note(told.values())
        return told

    def _note(self, told: Collection[Found | Refused]) -> None:
        """Wait no more once it was in vain, until vPIC tells something again."""
        if any(map(_has_failed, told)):
            self._is_away = True
        elif any(isinstance(each, Found) and each.result == "miss" for each in told):
            self._is_away = False


def make_cli(called: Called) -> typer.Typer:
    """The commands; `called` is how the sandbox is opened where it is asked for."""
    cli = typer.Typer(help="Vehicles by their VIN.", no_args_is_help=True)

    @cli.command("lookup")
    def look_up(
        file: VinFile,
        *,
        form: Format = None,
        output: Output = None,
        config: ConfigFile = None,
        sandbox: Sandbox = False,
    ) -> None:
        """Look up the vehicle of each VIN in a file, and write a table of them.

        What is kept is not asked for again: begun anew, it goes on where it was. The
        columns are vin, make, model, model_year, body_class and error, which is empty
        where the vehicle is known. The status is 1 where vPIC could not be asked for
        some. vehicles.requests_per_s is for this command alone, beside what a service
        asks.
        """
        wanted = _wanted(form, output)
        options = {"sandbox": {"enabled": True}} if sandbox else {}
        settings = load(config, os.environ, options).settings
        tally = Tally()
        try:
            _run(file, wanted, settings, called, tally)
        except KeyboardInterrupt:
            _say(f"stopped, and what was told is kept; {tally.summary()}")
            raise typer.Exit(INTERRUPTED) from None
        _say(tally.summary())
        if tally.failed:
            raise typer.Exit(1)

    return cli


def _wanted(form: FileFormat | None, output: Path | None) -> Wanted:
    is_parquet = output is not None and output.suffix.lower() == PARQUET_SUFFIX
    form = form or (FileFormat.PARQUET if is_parquet else FileFormat.CSV)
    if form is FileFormat.PARQUET and output is None and sys.stdout.isatty():
        reason = "Parquet is not for a terminal: name a file with --output"
        raise typer.BadParameter(reason)
    return Wanted(form, output)


def _run(
    name: str, wanted: Wanted, settings: Settings, called: Called, tally: Tally
) -> None:
    # What a service logs is told here by rows and the last line.
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    is_streamed = wanted.form is FileFormat.CSV
    is_elsewhere = wanted.path is not None
    with (
        terminal.input_from(name) as source,
        terminal.output_to(wanted.path, is_streamed=is_streamed) as out,
        in_background(_opened(settings, called)) as background,
        terminal.progress_on(
            source, "Looking up", is_output_elsewhere=is_elsewhere
        ) as watched,
        OPEN_SINK[wanted.form](out) as sink,
    ):

        def ask(texts: Sequence[str]) -> Future[list[Result]]:
            return background.start(lambda asking: asking.look_up(texts))

        most = AHEAD * _batches_at_once(settings.vehicles)
        files.look_up_file(watched, sink, ask, most, tally)


@asynccontextmanager
async def _opened(settings: Settings, called: Called) -> AsyncIterator[Asking]:
    """Ask over the database of the settings, with the pace of all workers."""
    # Nobody is kept waiting: what is kept for too long is given only if it must be.
    patient = replace(settings.vehicles, stale_wait_s=settings.vehicles.deadline_s)
    server = replace(settings.server, workers=1)
    alone = replace(settings, server=server, vehicles=patient)
    async with (
        called(alone) as calling,
        open_database(replace(settings.storage, connections=CONNECTIONS)) as database,
        open_lookups(calling, database, None) as lookups,
    ):
        yield Asking(lookups, settings.vehicles)


def _batches_at_once(settings: Vehicles) -> int:
    """As many as keep vPIC busy, but none that would wait too long for its turn."""
    most = AT_ONCE * settings.concurrency
    in_time = settings.requests_per_s * settings.deadline_s * PATIENCE / 2
    return max(1, min(most, int(in_time))) if settings.requests_per_s else most


def _has_failed(came: Found | Refused) -> bool:
    return isinstance(came, VehicleUnavailable)


def _wait_s(told: Mapping[Vin, Found | Refused]) -> float | None:
    """How long to wait before those that failed; None if none did or nobody knows."""
    waits = [
        each.retry_after_s
        for each in told.values()
        if isinstance(each, VehicleUnavailable) and each.retry_after_s is not None
    ]
    return min(max(waits), MAX_WAIT_S) if waits else None


def _say(what: str) -> None:
    typer.echo(f"{NAME}: {what}", err=True)
