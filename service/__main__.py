"""The command line: `copilot-usage serve`, `sandbox`, `rate` and `config`."""

import os
from pathlib import Path
from typing import Annotated, Any, Final

import rich
import typer
import uvloop
from aiohttp import web
from rich.table import Table

from service import logs
from service.app import create_app
from service.settings import Loaded, Settings, SettingsError, load, mask_secrets

LISTEN_BACKLOG: Final = 1024
EXIT_BAD_SETTINGS: Final = 2

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML file over the defaults."),
]

cli = typer.Typer(
    name="copilot-usage",
    help="What Copilot has used of its credits in the current billing period.",
    no_args_is_help=True,
    add_completion=False,
)


@cli.command()
def serve(
    config: ConfigFile = None,
    *,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Run against an upstream of our own.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on.")] = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    options: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port},
        "sandbox": {"enabled": sandbox or None},
    }
    settings = _load_or_exit(config, options).settings
    logs.configure(settings.logging.level, settings.logging.format)
    _serve(settings)


@cli.command("config")
def show_config(config: ConfigFile = None) -> None:
    """Print the settings in force and where each came from; secrets are masked."""
    loaded = _load_or_exit(config)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name, origin in loaded.origins.items():
        section, key = name.split(".")
        value = getattr(getattr(loaded.settings, section), key)
        table.add_row(name, str(mask_secrets(name, value)), origin)
    rich.print(table)


def main() -> None:
    """The console script."""
    cli()


def _load_or_exit(
    config: Path | None, options: dict[str, dict[str, Any]] | None = None
) -> Loaded:
    """The settings, or one line on standard error and exit status 2."""
    given = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in (options or {}).items()
    }
    try:
        return load(config, os.environ, given)
    except SettingsError as error:
        typer.echo(f"copilot-usage: {error}", err=True)
        raise typer.Exit(EXIT_BAD_SETTINGS) from None


def _serve(settings: Settings) -> None:
    server = settings.server
    url = f"http://{server.host}:{server.port}"
    if logs.is_console(settings.logging.format):
        rich.print(f"Serving [bold]{url}/usage[/]; documentation at {url}/docs")
    web.run_app(
        create_app(settings),
        host=server.host,
        port=server.port,
        shutdown_timeout=server.shutdown_grace_s,
        access_log=None,
        backlog=LISTEN_BACKLOG,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
