"""The commands of `copilot-usage periods`: list, show, export, verify.

They read the database directly, whether or not a service is running.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

import msgspec
import typer
from msgspec import structs

from service.cli import terminal
from service.cli.terminal import ConfigFile
from service.settings import load
from service.storage.database import Database, open_database
from service.usage.parameters import find_plan
from service.usage.periods.errors import PeriodNotKept
from service.usage.periods.export_files import FILES, ExportFormat
from service.usage.periods.listing import Listing
from service.usage.periods.model import KeptPeriod, PeriodItem
from service.usage.periods.reading.chunk_cache import ChunkCache
from service.usage.periods.reading.kept_items import read_items
from service.usage.periods.statements.verification import Result, Verification, Verified
from service.usage.periods.store import PeriodStore

T = TypeVar("T")

COLUMNS: Final = (
    "period",
    "status",
    "from",
    "to",
    "messages",
    "credits_used",
    "digest",
)
RESULT_COLUMNS: Final = ("period", "result", "row", "message_id", "what")
PAGE: Final = 1_000

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line.")
]
PeriodArgument = Annotated[
    str, typer.Argument(metavar="PERIOD", help="The id of a kept period.")
]

cli = typer.Typer(help="Kept periods: what was used in each.", no_args_is_help=True)


class NotVerified(Exception):
    """A statement differs from what is kept, or is not in the chain."""


@cli.command("list")
def show_all(config: ConfigFile = None, *, as_json: JsonOption = False) -> None:
    """List the kept periods, the newest first."""

    async def run(database: Database) -> list[PeriodItem]:
        listing, items = Listing(database), list[PeriodItem]()
        page = await listing.page(None, PAGE)
        while page.items:
            items += page.items
            page = await listing.page(page.last, PAGE)
        return items

    items = _run(config, run)
    if as_json:
        _print_json(items)
        return
    rows = [[str(_named(item).get(name, "")) for name in COLUMNS] for item in items]
    terminal.print_table(COLUMNS, [tuple(row) for row in rows])


@cli.command()
def show(
    period: PeriodArgument, config: ConfigFile = None, *, as_json: JsonOption = False
) -> None:
    """Show one period: its dates, its totals, and its digest."""

    async def run(database: Database) -> PeriodItem:
        return await Listing(database).item(await _find(database, period))

    item = _run(config, run)
    if as_json:
        _print_json([item])
        return
    rows = [(name, str(value)) for name, value in _named(item).items()]
    terminal.print_table(("name", "value"), rows)


@cli.command()
def export(
    period: PeriodArgument,
    config: ConfigFile = None,
    *,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="Format of the file.")
    ] = ExportFormat.CSV,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file; by default, the output."
        ),
    ] = None,
) -> None:
    """Export all messages of a period with the steps of their prices.

    The file is that of GET /usage/export. It is complete, or it is not written.
    """
    # Parquet on standard output is whole too: a part of it cannot be read.
    is_streamed = form is ExportFormat.CSV
    with terminal.output_to(output, is_streamed=is_streamed) as sink:
        _run(config, lambda database: _export(database, period, form, sink))


@cli.command()
def verify(
    config: ConfigFile = None,
    *,
    digest: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="A digest that was noted: it must be in the chain."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the digests of all closed periods again, and compare them.

    For each period, the first row that differs is named. The exit status is then 1.
    """

    async def run(database: Database) -> list[Verified]:
        verification = Verification(database)
        chunks = await verification.open()
        with terminal.progress_of(chunks, "Verifying") as advance:
            return [each async for each in verification.run(advance)]

    results = _run(config, run)
    if as_json:
        _print_json(results)
    else:
        terminal.print_table(RESULT_COLUMNS, [_result_row(each) for each in results])
    different = [each.period for each in results if each.result is Result.DIFFERENT]
    if different:
        raise NotVerified(f"periods that differ: {', '.join(different)}")
    if digest is not None and digest.lower() not in {each.digest for each in results}:
        raise NotVerified(f"no statement has the digest {digest}")


async def _export(
    database: Database, name: str, form: ExportFormat, sink: BinaryIO
) -> None:
    period = await _find(database, name)
    # A newer version of the service may have priced it by a plan of its own.
    file = FILES[form](find_plan(period.plan).id)
    async for rows in read_items(ChunkCache(PeriodStore(database)), period):
        sink.write(file.add(rows))
    sink.write(file.end())


async def _find(database: Database, name: str) -> KeptPeriod:
    """Return a period; raises `PeriodNotKept`."""
    store = PeriodStore(database)
    period = await store.find(name)
    if period is None:
        newest = await store.newest(None, 5)
        raise PeriodNotKept(name, [each.period for each in newest])
    return period


def _run(config: ConfigFile, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Return the result of work with the database of the settings, which exists."""

    async def run() -> T:
        async with _database(config) as database:
            return await work(database)

    return asyncio.run(run())


@asynccontextmanager
async def _database(config: ConfigFile) -> AsyncIterator[Database]:
    settings = load(config, os.environ).settings.storage
    async with open_database(settings, must_exist=True) as database:
        yield database


def _named(item: PeriodItem) -> dict[str, Any]:
    """Return the values of an item by the names of the API."""
    named: dict[str, Any] = msgspec.to_builtins(item)
    return named


def _result_row(verified: Verified) -> tuple[str, ...]:
    found = verified.difference
    values = structs.astuple(found) if found else ("", None, None)
    what, row, message_id = ("" if each is None else str(each) for each in values)
    return verified.period, verified.result, row, message_id, what


def _print_json(items: list[Any]) -> None:
    for item in items:
        typer.echo(msgspec.json.encode(item))
