"""The command line: `copilot-usage serve`, `sandbox`, `rate`, `config`, `keys`, ….

It declares the commands, and the exit status of each error: 1 for a failure while
running, 2 for an invalid option, setting or file.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from service.cli import terminal
from service.cli.terminal import ConfigFile
from service.events import queue_commands
from service.events.errors import QueueUnavailable
from service.keys import commands as key_commands
from service.keys.errors import BadKey, KeyNotFound
from service.keys.store import SANDBOX_KEY
from service.observability import log_output, logs
from service.sandbox import command as sandbox_command
from service.sandbox.embedded import with_sandbox
from service.server import lifecycle
from service.server import runner as serving
from service.server.checks import OPTION, VALID
from service.server.listener import CannotStart
from service.server.session_secret import with_session_secret
from service.settings import LoadedSettings, Settings, SettingsError, load
from service.storage.backup import BackupFailed, back_up
from service.storage.database import migrate as migrate_storage
from service.storage.errors import StorageError, UnknownRevision
from service.usage import message_file
from service.usage import rate_file as files
from service.usage.budgets import commands as budget_commands
from service.usage.budgets.errors import BudgetError
from service.usage.bulk import command as bulk_command
from service.usage.bulk import errors as bulk_errors
from service.usage.errors import UnknownPlan
from service.usage.parameters import find_plan
from service.usage.periods import commands as period_commands
from service.usage.periods.errors import PeriodNotKept, PeriodReplaced
from service.usage.pricing.plans import TEXT_RULES
from service.usage.snapshots.errors import ChunkDamaged
from service.vehicles import commands as vehicle_commands
from service.vehicles import lookup_file as vin_files
from service.web.static_pages import FOLDER, PAGE_PATH
from service.web.system import NAME, VERSION
from service.writer_app import create_writer_app

PAGE_FILE: Final = FOLDER / "index.html"
WRITER_PATHS: Final = {"health": "/health/ready", "metrics": "/metrics"}
START_PATHS: Final = {"usage": "/usage", "documentation": "/docs"}
EXIT_STATUS: Final[dict[type[Exception], int]] = {
    BackupFailed: 1,
    bulk_errors.BulkError: 1,
    message_file.BadMessage: 1,
    CannotStart: 1,
    QueueUnavailable: 1,
    StorageError: 1,
    terminal.OutputFailed: 1,
    ChunkDamaged: 1,
    period_commands.NotVerified: 1,
    PeriodReplaced: 1,
    queue_commands.NotFinished: 1,
    BadKey: 2,
    bulk_errors.BadInput: 2,
    bulk_errors.BadReports: 2,
    bulk_errors.NoEngine: 2,
    bulk_errors.OtherRun: 2,
    bulk_errors.OutputExists: 2,
    BudgetError: 2,
    key_commands.NoDatabase: 2,
    KeyNotFound: 2,
    PeriodNotKept: 2,
    queue_commands.NoQueue: 2,
    queue_commands.NotConfirmed: 2,
    message_file.UnreadableMessageFile: 2,
    sandbox_command.BadOption: 2,
    SettingsError: 2,
    UnknownPlan: 2,
    UnknownRevision: 2,
    terminal.NoInput: 2,
    terminal.UnwritableOutput: 2,
    vin_files.VinFileError: 2,
}

HOST: Final = typer.Option(help="Address to listen on.")
PORT: Final = typer.Option(
    min=0, max=65_535, help="Port to listen on; 0 selects a free one."
)
SandboxOption = Annotated[
    bool, typer.Option("--sandbox", help="Run against the embedded sandbox.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, max=256, help="Number of worker processes.")
]
CheckOption = Annotated[
    bool,
    typer.Option(OPTION, help="Only check whether the service would start."),
]
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="JSON or NDJSON; - is standard input.")
]
PlanOption = Annotated[
    str, typer.Option(metavar="NAME", help="Plan, with or without its version.")
]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="Add the steps of each price (NDJSON).")
]


class RateFormat(StrEnum):
    """Output formats of `rate`."""

    NDJSON = "ndjson"
    CSV = "csv"


cli = typer.Typer(
    name=NAME,
    help="Report the credits that Copilot has used in the current billing period.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"{NAME} {VERSION}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


@cli.command()
def serve(  # noqa: PLR0913 - each argument is an option
    config: ConfigFile = None,
    *,
    sandbox: SandboxOption = False,
    host: Annotated[str | None, HOST] = None,
    port: Annotated[int | None, PORT] = None,
    workers: WorkersOption = None,
    check: CheckOption = False,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C; SIGHUP reloads code and settings."""
    settings = _load(
        config,
        server={"host": host, "port": port, "workers": workers},
        sandbox={"enabled": sandbox or None},
    ).settings
    log_output.replace_streams()
    logging = settings.logging
    logs.configure(logging.level, logging.format, logging.max_queue_bytes)
    if check:
        asyncio.run(serving.check(settings))
        typer.echo(VALID)
        return

    def announce(url: str) -> None:
        terminal.announce(url, _start_paths(), *_notes(settings), err=True)
        lifecycle.log_started(url)

    settings = with_session_secret(settings)
    if settings.server.workers > 1:
        from service.server.workers import run as run_workers

        run_workers(settings, announce)
    else:
        serving.serve(settings, announce)


@cli.command()
def writer(
    config: ConfigFile = None,
    *,
    host: Annotated[str | None, HOST] = None,
    port: Annotated[int | None, PORT] = None,
) -> None:
    """Store the events of the queue until SIGTERM or Ctrl-C, for services that do not.

    Any number of writers share the work. Each serves its health and its metrics.
    """
    settings = _load(config, server={"host": host, "port": port}).settings
    log_output.replace_streams()
    logging = settings.logging
    logs.configure(logging.level, logging.format, logging.max_queue_bytes)

    def announce(url: str) -> None:
        terminal.announce(url, WRITER_PATHS, err=True)
        lifecycle.log_started(url)

    serving.serve(settings, announce, create_writer_app)


@cli.command(cls=sandbox_command.SandboxCommand)
@sandbox_command.takes_sandbox_options
def sandbox(
    host: Annotated[str, HOST] = "127.0.0.1",
    port: Annotated[int, PORT] = 8001,
    **chosen: Any,
) -> None:
    """Serve only the sandbox upstream, until SIGTERM or Ctrl-C.

    A fault affects the given share of the requests, or all of them without a share.
    """
    options = sandbox_command.sandbox_options(chosen)
    log_output.replace_streams()
    serving.run(
        sandbox_command.serve_sandbox(options, host, port),
        lambda url: terminal.announce(url, sandbox_command.PATHS, err=False),
    )


@cli.command()
def rate(
    file: FileArgument,
    *,
    plan: PlanOption = TEXT_RULES.name,
    form: Annotated[
        RateFormat, typer.Option("--format", help="Output format.")
    ] = RateFormat.NDJSON,
    explain: ExplainOption = False,
) -> None:
    """Price a file of messages to standard output, without a server.

    FILE contains {"messages": […]}, a list, or one message per line: {"id", "text"}
    and, optionally, "timestamp" and "report_id". Reports are not fetched, so every
    message is priced by its text. The last line on standard error counts the messages
    that name a report. The first bad line ends the run, after the lines before it are
    priced.
    """
    if explain and form is RateFormat.CSV:
        raise typer.BadParameter("--explain needs --format ndjson, and not csv")
    ndjson = files.EXPLAINED_NDJSON if explain else files.NDJSON
    output = files.CSV if form is RateFormat.CSV else ndjson
    chosen_plan = find_plan(plan)
    with (
        terminal.input_from(file) as source,
        terminal.progress_on(source) as watched,
        terminal.standard_output() as sink,
    ):
        tally = files.rate_file(watched, sink, chosen_plan, output)
    typer.echo(f"{NAME}: plan: {chosen_plan.id}; {tally.summary()}", err=True)


cli.command("price")(bulk_command.price)


@cli.command("config")
def show_config(config: ConfigFile = None) -> None:
    """Print the settings in effect and their sources; secrets are masked."""
    terminal.print_settings(_load(config))


@cli.command()
def migrate(
    config: ConfigFile = None,
    *,
    to: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Revision to upgrade or downgrade to."),
    ] = None,
    drop_rows: Annotated[
        bool,
        typer.Option("--drop-rows", help="Drop rows that the revision cannot store."),
    ] = False,
) -> None:
    """Migrate the database to the schema that this version needs, or to REVISION.

    PostgreSQL needs this before the version is served; SQLite is migrated at the start.
    A file of SQLite that cannot shrink is rewritten, once. To go back to an older
    version, downgrade with this version first.
    """
    settings = _load(config).settings
    migrated = asyncio.run(migrate_storage(settings.storage, to, drop_rows=drop_rows))
    typer.echo(f"The database has the schema {migrated.revision}.")
    if migrated.is_rewritten:
        typer.echo("The file was rewritten; it now gives free space back.")


@cli.command()
def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The copy; it must not exist yet.")
    ],
    config: ConfigFile = None,
) -> None:
    """Copy the database of SQLite to FILE, also while a service writes to it.

    The copy has everything that was stored when the command began. Use pg_dump for
    PostgreSQL.
    """
    size = back_up(_load(config).settings.storage, file)
    typer.echo(f"The copy {file} has {size:,} bytes.")


cli.add_typer(key_commands.cli, name="keys")
cli.add_typer(budget_commands.cli, name="budgets")
cli.add_typer(period_commands.cli, name="periods")
cli.add_typer(queue_commands.cli, name="queue")
cli.add_typer(vehicle_commands.make_cli(with_sandbox), name="vehicles")


def main() -> None:
    """Run the command that the arguments name; exits with its status."""
    log_output.open_closed_streams()
    try:
        cli(prog_name=NAME)
    except tuple(EXIT_STATUS) as error:
        typer.echo(f"{NAME}: {error}", err=True)
        ancestry = (EXIT_STATUS.get(each) for each in type(error).__mro__)
        sys.exit(next(filter(None, ancestry)))


def _start_paths() -> dict[str, str]:
    """Return the paths to open first; the dashboard's only if it is built."""
    page = {"dashboard": PAGE_PATH} if PAGE_FILE.is_file() else {}
    return page | START_PATHS


def _notes(settings: Settings) -> Iterator[str]:
    """Yield notes on missing parts, and on the sandbox."""
    if not PAGE_FILE.is_file():
        yield "dashboard: not built; make dashboard builds it"
    if settings.sandbox.enabled:
        yield "data: a generated period of the sandbox"
        yield f"key with every scope, in the sandbox only: {SANDBOX_KEY}"


def _load(config: Path | None, **options: dict[str, Any]) -> LoadedSettings:
    """Return the settings with these options; None leaves a setting unchanged."""
    chosen = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in options.items()
    }
    return load(config, os.environ, chosen)
