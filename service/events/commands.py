"""The commands of `copilot-usage keys`: add, list, revoke.

They work on the database itself, whether or not a service runs on it; one that does
notices within `events.key_ttl_s`.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import typer

from service import terminal
from service.events.keys import Key, add_key, list_keys, revoke_keys
from service.instants import format_instant
from service.settings import load
from service.storage.database import Database, open_database
from service.terminal import ConfigFile

COLUMNS: Final = ("id", "application", "rights", "rate", "made", "revoked")

cli = typer.Typer(
    help="The keys with which applications send and ask for events.",
    no_args_is_help=True,
)


@cli.command("add")
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The application whose key it is.")
    ],
    config: ConfigFile = None,
    *,
    read_all: Annotated[
        bool, typer.Option("--read-all", help="It may read every application's events.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Requests a second; else events.key_rate_per_s."
        ),
    ] = None,
) -> None:
    """Make a key and print it, the only time that it can be seen.

    An application may have several, so that a new one is in use before the old is
    revoked.
    """

    async def run() -> None:
        async with _database(config) as database:
            text = await add_key(database, name, can_read_all=read_all, rate_per_s=rate)
            typer.echo(
                f"A key of {name}, in {database}; it is not shown again:\n{text}"
            )

    asyncio.run(run())


@cli.command("list")
def show(config: ConfigFile = None) -> None:
    """List all keys, those revoked too; what is kept of a key cannot show it."""

    async def run() -> list[Key]:
        async with _database(config, must_exist=True) as database:
            return await list_keys(database)

    terminal.print_table(COLUMNS, [_row(key) for key in asyncio.run(run())])


@cli.command("revoke")
def revoke(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A key's id, or an application: all of its."
        ),
    ],
    config: ConfigFile = None,
) -> None:
    """Revoke a key for good, or all keys of an application."""

    async def run() -> int:
        async with _database(config, must_exist=True) as database:
            return await revoke_keys(database, name)

    typer.echo(f"Keys revoked: {asyncio.run(run())}")


@asynccontextmanager
async def _database(
    config: ConfigFile, *, must_exist: bool = False
) -> AsyncIterator[Database]:
    """The database that a service with these settings would use."""
    settings = load(config, os.environ).settings.storage
    async with open_database(settings, must_exist=must_exist) as database:
        yield database


def _row(key: Key) -> tuple[str, ...]:
    return (
        key.id,
        key.application,
        "read-all" if key.can_read_all else "own",
        "default" if key.rate_per_s is None else f"{key.rate_per_s:g}/s",
        _moment(key.created_at),
        "" if key.revoked_at is None else _moment(key.revoked_at),
    )


def _moment(instant: int) -> str:
    """To the second: people read it."""
    return format_instant(instant)[:19] + "Z"
