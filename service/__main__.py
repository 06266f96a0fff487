"""The command line: `copilot-usage serve`, `sandbox`, `rate`, `config`, `keys` …

It only declares the commands, and what their errors mean to whoever called: 1 is a
failure on the way, 2 an option, a setting or a file that is of no use.
"""

import asyncio
import os
import platform
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
import typer

from service import logs, serving, terminal
from service.app import called, create_app
from service.events import commands as key_commands
from service.events.keys import SANDBOX_KEY, BadKey, KeyNotFound
from service.sandbox import command as sandbox_command
from service.settings import Loaded, Settings, SettingsError, load
from service.storage.database import migrate as migrate_storage
from service.storage.errors import StorageError
from service.terminal import ConfigFile
from service.usage import files
from service.usage.cache import find_plan
from service.usage.errors import UnknownPlan
from service.usage.pricing.plans import TEXT_RULES
from service.vehicles import commands as vehicle_commands
from service.vehicles import files as vin_files
from service.web.dashboard import FOLDER, PAGE_PATH
from service.web.index import NAME, VERSION
from service.workers import run as run_workers

PAGE_FILE: Final = FOLDER / "index.html"
WHERE_TO_LOOK: Final = {"usage": "/usage", "documentation": "/docs"}
EXIT_STATUS: Final[dict[type[Exception], int]] = {
    files.BadMessage: 1,
    serving.CannotStart: 1,
    StorageError: 1,
    terminal.OutputFailed: 1,
    BadKey: 2,
    KeyNotFound: 2,
    files.UnreadableFile: 2,
    sandbox_command.BadOption: 2,
    SettingsError: 2,
    UnknownPlan: 2,
    terminal.NoInput: 2,
    terminal.UnusableOutput: 2,
    vin_files.UnreadableFile: 2,
}

HOST: Final = typer.Option(help="The address to listen on.")
PORT: Final = typer.Option(
    min=0, max=65_535, help="The port to listen on; 0 takes a free one."
)


class RateFormat(StrEnum):
    """What `rate` writes."""

    NDJSON = "ndjson"
    CSV = "csv"


log = structlog.get_logger()

cli = typer.Typer(
    name=NAME,
    help="What Copilot has used of its credits in the current billing period.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"{NAME} {VERSION}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


@cli.command()
def serve(
    config: ConfigFile = None,
    *,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Run against an upstream of our own.")
    ] = False,
    host: Annotated[str | None, HOST] = None,
    port: Annotated[int | None, PORT] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes that serve.")
    ] = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    settings = _load(
        config,
        server={"host": host, "port": port, "workers": workers},
        sandbox={"enabled": sandbox or None},
    ).settings
    logs.configure(settings.logging.level, settings.logging.format)

    def announce(url: str) -> None:
        terminal.announce(url, _where_to_look(), *_notes(settings), err=True)
        log_start(url)

    if settings.server.workers > 1:
        run_workers(settings, announce)
    else:
        serving.run(serving.listening(create_app(settings), settings.server), announce)


@cli.command(cls=sandbox_command.SandboxCommand)
@sandbox_command.takes_sandbox_options
def sandbox(
    host: Annotated[str, HOST] = "127.0.0.1",
    port: Annotated[int, PORT] = 8001,
    **chosen: Any,
) -> None:
    """Serve only the sandbox upstream, until SIGTERM or Ctrl-C.

    A fault strikes the given share of the requests; all of them, where none is given.
    """
    options = sandbox_command.sandbox_options(chosen)
    serving.run(
        sandbox_command.playing(options, host, port),
        lambda url: terminal.announce(url, sandbox_command.PATHS, err=False),
    )


@cli.command()
def rate(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON or NDJSON; - is standard input.")
    ],
    *,
    plan: Annotated[
        str, typer.Option(metavar="NAME", help="The plan, with or without its version.")
    ] = TEXT_RULES.name,
    form: Annotated[
        RateFormat, typer.Option("--format", help="What to write.")
    ] = RateFormat.NDJSON,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add the steps of each price (NDJSON).")
    ] = False,
) -> None:
    """Price a file of messages, without a server, onto standard output.

    FILE holds {"messages": […]}, a list, or one message a line: {"id", "text"} and, if
    you like, "timestamp" and "report_id". There is no upstream to ask for reports, so
    every message is priced by its text; the last line on standard error says how many
    name a report. The first bad line ends the run, and those before it are priced.
    """
    if explain and form is RateFormat.CSV:
        raise typer.BadParameter("--explain has no place in CSV; use --format ndjson")
    ndjson = files.EXPLAINED_NDJSON if explain else files.NDJSON
    output = files.CSV if form is RateFormat.CSV else ndjson
    chosen = find_plan(plan)
    with (
        terminal.input_from(file) as source,
        terminal.progress_on(source) as watched,
        terminal.standard_output() as sink,
    ):
        tally = files.rate_file(watched, sink, chosen, output)
    typer.echo(f"{NAME}: plan: {chosen.id}; {tally.summary()}", err=True)


@cli.command("config")
def show_config(config: ConfigFile = None) -> None:
    """Print the settings in force and where each came from; secrets are masked."""
    terminal.print_settings(_load(config))


@cli.command()
def migrate(config: ConfigFile = None) -> None:
    """Bring the database of events into the shape that this version needs.

    For PostgreSQL, before this version is served; SQLite is migrated at the start.
    """
    settings = _load(config).settings
    revision = asyncio.run(migrate_storage(settings.storage))
    typer.echo(f"The database has the shape {revision}.")


cli.add_typer(key_commands.cli, name="keys")
cli.add_typer(vehicle_commands.make_cli(called), name="vehicles")


def main() -> None:
    """The console script."""
    try:
        cli(prog_name=NAME)
    except tuple(EXIT_STATUS) as error:
        typer.echo(f"{NAME}: {error}", err=True)
        ancestry = (EXIT_STATUS.get(each) for each in type(error).__mro__)
        sys.exit(next(filter(None, ancestry)))


def _where_to_look() -> dict[str, str]:
    """Name the paths to open first; the dashboard's only if it is built."""
    page = {"dashboard": PAGE_PATH} if PAGE_FILE.is_file() else {}
    return page | WHERE_TO_LOOK


def _notes(settings: Settings) -> Iterator[str]:
    """Name what is missing, and what the sandbox generates."""
    if not PAGE_FILE.is_file():
        yield "dashboard: not built; make dashboard builds it"
    if settings.sandbox.enabled:
        yield "data: a made-up period of the sandbox"
        if settings.events.enabled:
            yield f"key for /events, in the sandbox only: {SANDBOX_KEY}"


def log_start(url: str) -> None:
    """Write the first line of the log: the version that is served, and where."""
    log.info(
        "service.started",
        **{
            "service.version": VERSION,
            "process.runtime.version": platform.python_version(),
            "process.pid": os.getpid(),
            "url.full": url,
        },
    )


def _load(config: Path | None, **options: dict[str, Any]) -> Loaded:
    """The settings under these options; those that are None were not given."""
    given = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in options.items()
    }
    return load(config, os.environ, given)


if __name__ == "__main__":
    main()
