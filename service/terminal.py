"""What the commands show to people, and how they write for programs."""

import errno
import json
import os
import secrets
import shutil
import sys
import tempfile
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
STANDARD_INPUT: Final = "-"
WIDE_CHARS: Final = 2_000
"""Wider than any row: a program gets each on a line of its own."""


class NoInput(Exception):
    """The input that was named cannot be opened."""


class OutputFailed(Exception):
    """The output takes no more, and not because its reader has left."""


class UnusableOutput(OutputFailed):
    """The output that was named cannot be written at all."""


@contextmanager
def input_from(name: str) -> Iterator[BinaryIO]:
    """The file of this name, or standard input for `-`; raises `NoInput`."""
    if name == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        source = Path(name).open("rb")  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:  # the latter of a NUL in it
        reason = getattr(error, "strerror", None) or str(error)
        raise NoInput(f"{name}: {reason}") from error
    with source:
        yield source


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
def output_to(path: Path | None, *, is_streamed: bool = True) -> Iterator[BinaryIO]:
    """A file, or standard output for None: in parts if `is_streamed`, else whole.

    A file is written beside its name, and takes it at the end: until then, and where
    anything fails, what was there stays. Raises `OutputFailed`.
    """
    if path is not None:
        with _replacing(path) as sink:
            yield sink
    elif is_streamed:
        with standard_output() as sink:
            yield sink
    else:
        with _named("temporary file"), tempfile.TemporaryFile() as whole:
            yield whole
            whole.seek(0)
            with standard_output() as sink:
                shutil.copyfileobj(whole, sink)


@contextmanager
def progress_on(
    source: BinaryIO, what: str = "Pricing", *, is_output_elsewhere: bool = False
) -> Iterator[BinaryIO]:
    """Show how much of a file is read, where that is a terminal's only content."""
    is_free = is_output_elsewhere or not sys.stdout.isatty()
    is_shown = sys.stderr.isatty() and is_free
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not is_shown
    ) as progress:
        size_bytes = os.fstat(source.fileno()).st_size
        watched = progress.wrap_file(source, size_bytes, description=what)
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
        (name, _as_toml(mask_secrets(name, _value(loaded, name))), printable(origin))
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


def printable(text: str) -> str:
    """What a terminal would take for a command is shown as a question mark."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    with _named(path, UnusableOutput):
        target = path.resolve(strict=False)  # a link stays one
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # What is no file, such as a pipe, cannot be replaced.
        is_other = target.exists() and not target.is_file()
        name = f"{target.name}.{secrets.token_hex(4)}.part"
        part = target if is_other else target.with_name(name)
        sink = part.open("wb")
    try:
        with _named(path), sink:
            yield sink
            if not is_other:
                _put_in_place(sink, part, target)
    except BaseException:
        if not is_other:
            part.unlink(missing_ok=True)
        raise


def _put_in_place(sink: BinaryIO, part: Path, target: Path) -> None:
    sink.flush()
    os.fsync(sink.fileno())
    if target.exists():
        shutil.copymode(target, part)
    part.replace(target)


@contextmanager
def _named(what: object, failed: type[OutputFailed] = OutputFailed) -> Iterator[None]:
    """Name what could not be written."""
    try:
        yield
    except OSError as error:
        raise failed(f"{what}: {error.strerror}") from error


def _discard_output() -> None:
    """Keep Python from writing, at its end, what cannot be written."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
