"""What the commands show to people, and how they write for programs."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from service.settings import Loaded, mask_secrets

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML file over the defaults."),
]
"""The option of every command that has settings."""
WIDE_CHARS: Final = 2_000
"""Wider than any row: a program gets each on a line of its own."""


class OutputFailed(Exception):
    """Standard output takes no more, and not because its reader has left."""


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Standard output for bytes, flushed at the end.

    A reader that leaves early, such as `head`, ends the command quietly.
    """
    sink = sys.stdout.buffer
    try:
        try:
            yield sink
        finally:
            sink.flush()
    except OSError as error:
        _discard_output()
        if isinstance(error, BrokenPipeError):
            raise typer.Exit from error
        raise OutputFailed(f"standard output: {error.strerror}") from error


@contextmanager
def progress_on(source: BinaryIO) -> Iterator[BinaryIO]:
    """Show how much of a file is read, where that is a terminal's only content."""
    is_shown = sys.stderr.isatty() and not sys.stdout.isatty()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not is_shown
    ) as progress:
        size_bytes = os.fstat(source.fileno()).st_size
        watched = progress.wrap_file(source, size_bytes, description="Pricing")
        # Pipes have no size; without a total the bar only moves.
        progress.tasks[0].total = size_bytes or None
        yield watched


def announce(url: str, paths: Mapping[str, str], *notes: str, err: bool) -> None:
    """Say where a server listens, what is to be found there, and what else to know."""
    typer.echo(f"Listening on {url}, until Ctrl-C", err=err)
    for what, path in paths.items():
        typer.echo(f"  {what}: {url}{path}", err=err)
    for note in notes:
        typer.echo(f"  {note}", err=err)


def print_settings(loaded: Loaded) -> None:
    """Each setting, its value and its origin: a table for people, TOML for programs."""
    rows = [
        (name, _as_toml(mask_secrets(name, _value(loaded, name))), _printable(origin))
        for name, origin in loaded.origins.items()
    ]
    if sys.stdout.isatty():
        print_table(("setting", "value", "from"), rows)
        return
    for name, value, origin in rows:
        typer.echo(f"{name} = {value}  # {origin}")


def print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Rows under the names of their columns, folded where a terminal is too narrow."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    width = None if sys.stdout.isatty() else WIDE_CHARS
    Console(width=width).print(table)


def _value(loaded: Loaded, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(loaded.settings, section), key)


def _as_toml(value: object) -> str:
    # JSON writes strings, numbers and truth as TOML does, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _printable(text: str) -> str:
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def _discard_output() -> None:
    """Keep Python from writing, at its end, what cannot be written."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
