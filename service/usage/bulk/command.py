"""The command `copilot-usage price`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service.cli.terminal import ConfigFile
from service.settings import Settings, load
from service.usage.bulk.errors import RunFailed
from service.usage.bulk.model import REJECTED_FILE, InputFormat
from service.usage.bulk.worker import count_cores
from service.usage.parameters import find_plan
from service.usage.pricing.plans import TEXT_RULES

if TYPE_CHECKING:
    from service.usage.bulk.engines import OpenEngine
    from service.usage.bulk.output import Manifest
    from service.usage.bulk.report_keys import Resolve
    from service.usage.bulk.run import Watch

NAME: Final = "copilot-usage"
INTERRUPTED: Final = 130
LABELS: Final = {
    "list_keys": "Finding reports",
    "price_unit": "Pricing",
    "compare_ids": "Comparing ids",
    "write_parts": "Writing",
}
"""What each phase does, by the name of its function."""


class EngineName(StrEnum):
    """Engines that run the work."""

    LOCAL = "local"
    RAY = "ray"


def price(  # noqa: PLR0913 - one for each option
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Files, folders, patterns or URLs of messages."
        ),
    ],
    *,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write."),
    ],
    plan: Annotated[
        str, typer.Option(metavar="NAME", help="Plan, with or without its version.")
    ] = TEXT_RULES.name,
    reports: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Reports with id, name and credit_cost, in a file."
        ),
    ] = None,
    fetch_reports: Annotated[
        bool,
        typer.Option("--fetch-reports", help="Fetch reports from upstream.base_url."),
    ] = False,
    config: ConfigFile = None,
    input_format: Annotated[
        InputFormat | None, typer.Option(help="Format, instead of that of the suffix.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="This machine, or a cluster of Ray.")
    ] = EngineName.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a cluster of Ray, or auto; else its own."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Workers; one for each core.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace output, and unfinished other work.")
    ] = False,
) -> None:
    """Price files of messages, with all cores, into a folder of Parquet.

    Messages have the fields id, text, timestamp and, optionally, report_id. The format
    is Parquet, NDJSON or CSV, by the suffix. The folder appears when it is complete. A
    run that was interrupted continues where it stopped, if the same command is given
    again. Rows that break the contract, and unreadable files, are listed in the output,
    and the exit status is 1.
    """
    from service.usage.bulk.run import Request, price_files

    if fetch_reports and reports is not None:
        raise typer.BadParameter("--fetch-reports and --reports exclude each other")
    settings = load(config, os.environ, {}).settings if fetch_reports else None
    if address is not None and engine is not EngineName.RAY:
        raise typer.BadParameter("--address needs --engine ray")
    request = Request(
        tuple(inputs),
        output,
        find_plan(plan).id,
        input_format,
        reports,
        version(NAME),
        settings.upstream.base_url if settings else "",
        is_forced=force,
    )
    try:
        with _progress() as watch, _fetching(settings) as resolve:
            opening = _choose(engine, address, workers)
            manifest = price_files(request, opening, watch, resolve)
    except KeyboardInterrupt:
        _report("stopped; the same command continues the run")
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is not None:
            reason += f": {error.filename}"
        raise RunFailed(f"{reason}; the same command continues the run") from error
    _show(manifest, output)
    if manifest.rejected or manifest.unreadable:
        raise typer.Exit(1)


@contextmanager
def _fetching(settings: Settings | None) -> "Iterator[Resolve | None]":
    """Open the upstream of reports, if they are to be fetched."""
    if settings is None:
        yield None
        return
    from service.usage.bulk.report_fetching import fetching

    with fetching(settings) as resolve:
        yield resolve


def _choose(
    engine: EngineName, address: str | None, workers: int | None
) -> "OpenEngine":
    if engine is EngineName.RAY:
        from service.usage.bulk.ray_engine import open_ray

        return partial(open_ray, address, workers)
    from service.usage.bulk.local import open_local

    return partial(open_local, workers or count_cores())


def _show(manifest: "Manifest", output: str) -> None:
    rejected = str(manifest.rejected)
    if manifest.rejected:
        rejected += f", in {output.rstrip('/')}/{REJECTED_FILE}"
    for each in manifest.unreadable:
        _report(f"unreadable: {each.path}: {each.reason}")
    _report(
        f"plan: {manifest.plan}; messages: {manifest.messages}; "
        f"credits: {manifest.credits}; rejected: {rejected}; "
        f"unreadable: {len(manifest.unreadable)}"
    )


@contextmanager
def _progress() -> "Iterator[Watch]":
    """Show a progress bar on a terminal, and lines elsewhere."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    if not sys.stderr.isatty():
        yield _print_progress
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        shown: dict[str, TaskID] = {}

        def watch(phase: str, done: int, total: int) -> None:
            if phase not in shown:
                shown[phase] = progress.add_task(LABELS[phase])
            progress.update(shown[phase], completed=done, total=total)

        yield watch


def _print_progress(phase: str, done: int, total: int) -> None:
    """Print a line at each tenth of a phase."""
    if done == total or done * 10 // max(total, 1) != (done - 1) * 10 // max(total, 1):
        _report(f"{LABELS[phase].lower()}: {done} of {total}")


def _report(text: str) -> None:
    typer.echo(f"{NAME}: {text}", err=True)
