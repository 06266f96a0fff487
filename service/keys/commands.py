"""The commands of `copilot-usage keys`: add, list, revoke.

They change the database directly, whether or not a service is running. A running
service notices a change within `events.key_ttl_s`.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import typer
from sqlalchemy.engine import make_url

from service.cli import terminal
from service.cli.terminal import ConfigFile
from service.instants import format_instant
from service.keys.store import (
    DEFAULT_SCOPES,
    READ_ALL,
    add_key,
    in_order,
    list_keys,
    revoke_keys,
)
from service.settings import SCOPES, load
from service.storage.database import Database, open_database, sqlite_file
from service.web.auth import ApiKey

COLUMNS: Final = ("id", "application", "scopes", "rate", "made", "revoked")
READ_SCOPES: Final = ("events:read", READ_ALL)
"""Scopes that `--read-all` adds."""

cli = typer.Typer(
    help="API keys: who may do what.",
    no_args_is_help=True,
)


@cli.command("add")
def add(  # noqa: PLR0913 - each argument is an option
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The application that gets the key.")
    ],
    config: ConfigFile = None,
    *,
    scopes: Annotated[
        str,
        typer.Option(
            metavar="SCOPES",
            help=f"What the key permits, comma-separated: {', '.join(SCOPES)}.",
        ),
    ] = ",".join(DEFAULT_SCOPES),
    read_all: Annotated[
        bool,
        typer.Option(
            "--read-all", help="Add the scopes events:read and events:read-all."
        ),
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Requests a second, instead of events.key_rate_per_s."
        ),
    ] = None,
    create: Annotated[
        bool,
        typer.Option("--create", help="Create the database if this folder has none."),
    ] = False,
) -> None:
    """Create a key and print it; it cannot be shown again.

    An application may have several keys, so a key can be replaced without downtime.
    """

    chosen = [each.strip() for each in scopes.split(",") if each.strip()]
    permitted = [*chosen, *(READ_SCOPES if read_all else ())]

    async def run() -> None:
        async with _database(config, may_create=create) as database:
            text = await add_key(database, name, permitted, rate)
            typer.echo(
                f"A key of {name}, in {database}; it is not shown again:\n{text}"
            )

    asyncio.run(run())


@cli.command("list")
def show(config: ConfigFile = None) -> None:
    """List all keys, revoked ones too, without the secret keys themselves."""

    async def run() -> list[ApiKey]:
        async with _database(config, must_exist=True) as database:
            return await list_keys(database)

    terminal.print_table(COLUMNS, [_row(key) for key in asyncio.run(run())])


@cli.command("revoke")
def revoke(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The id of a key, or an application for all its keys."
        ),
    ],
    config: ConfigFile = None,
) -> None:
    """Revoke a key, or all keys of an application, permanently."""

    async def run() -> int:
        async with _database(config, must_exist=True) as database:
            return await revoke_keys(database, name)

    typer.echo(f"Keys revoked: {asyncio.run(run())}")


class NoDatabase(Exception):
    """The file of SQLite is not in this folder: the service may run in another one."""


@asynccontextmanager
async def _database(
    config: ConfigFile, *, must_exist: bool = False, may_create: bool = True
) -> AsyncIterator[Database]:
    """Open the database of the settings; raises `NoDatabase` unless `may_create`."""
    settings = load(config, os.environ).settings.storage
    file = sqlite_file(make_url(settings.url))
    is_here = file is not None and not file.is_absolute()
    if file and is_here and not (may_create or await asyncio.to_thread(file.exists)):
        raise NoDatabase(
            f"storage.url: there is no {file.absolute()}; "
            "run this in the folder of the service, or add --create for a new database"
        )
    async with open_database(settings, must_exist=must_exist) as database:
        yield database


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.id,
        key.application,
        ",".join(in_order(key.scopes)),
        "default" if key.rate_per_s is None else f"{key.rate_per_s:g}/s",
        _to_second(key.created_at),
        "" if key.revoked_at is None else _to_second(key.revoked_at),
    )


def _to_second(instant: int) -> str:
    return format_instant(instant)[:19] + "Z"
