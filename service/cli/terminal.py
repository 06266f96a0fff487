"""Input and output of the commands, for people and for programs."""

import errno
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from service.settings import LoadedSettings
from service.settings.loader import mask_secrets

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML file over the defaults."),
]
"""The option of all commands with settings."""
STANDARD_INPUT: Final = "-"
WIDE_CHARS: Final = 2_000
"""Wider than any row, so that a program gets each row on one line."""


class NoInput(Exception):
    """The input file cannot be opened."""


class OutputFailed(Exception):
    """Writing has failed, for another reason than a closed pipe."""


class UnwritableOutput(OutputFailed):
    """The output file cannot be opened."""


@contextmanager
def input_from(name: str) -> Iterator[BinaryIO]:
    """Open a file, or standard input for `-`; raises `NoInput`."""
    if name == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        source = Path(name).open("rb")  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:  # for a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise NoInput(f"{name}: {reason}") from error
    with source:
        yield source


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Open standard output for bytes, flushed at the end.

    A closed pipe, for example of `head`, ends the command without an error.
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
    """Open a file, or standard output for None, which gets parts if `is_streamed`.

    A file is written under a temporary name and renamed at the end, so that an error
    leaves an existing file unchanged. Raises `OutputFailed`.
    """
    if path is not None:
        opened = _replacing(path)
    elif is_streamed:
        opened = standard_output()
    else:
        opened = _whole_output()
    with opened as sink:
        yield sink


@contextmanager
def _whole_output() -> Iterator[BinaryIO]:
    """Collect output in a temporary file, and copy it if nothing has failed."""
    with _naming("temporary file"), tempfile.TemporaryFile() as whole:
        yield whole
        whole.seek(0)
        with standard_output() as sink:
            shutil.copyfileobj(whole, sink)


@contextmanager
def progress_on(
    source: BinaryIO, label: str = "Pricing", *, is_output_elsewhere: bool = False
) -> Iterator[BinaryIO]:
    """Show a progress bar on a terminal to which nothing else is written."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    is_free = is_output_elsewhere or not sys.stdout.isatty()
    is_shown = sys.stderr.isatty() and is_free
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not is_shown
    ) as progress:
        size_bytes = os.fstat(source.fileno()).st_size
        watched = progress.wrap_file(source, size_bytes, description=label)
        # Pipes have no size; without a total the bar only moves.
        progress.tasks[0].total = size_bytes or None
        yield watched


@contextmanager
def progress_of(steps: int, label: str) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal; call what is yielded after each step."""
    from rich.console import Console
    from rich.progress import Progress

    is_shown = sys.stderr.isatty()
    with Progress(
        console=Console(stderr=True), transient=True, disable=not is_shown
    ) as progress:
        task = progress.add_task(label, total=steps)
        yield lambda: progress.advance(task)


def announce(url: str, paths: Mapping[str, str], *notes: str, err: bool) -> None:
    """Print the URL of a server, its first paths, and further notes."""
    typer.echo(f"Listening on {url}, until Ctrl-C", err=err)
    for label, path in paths.items():
        typer.echo(f"  {label}: {url}{path}", err=err)
    for note in notes:
        typer.echo(f"  {note}", err=err)


def print_settings(loaded: LoadedSettings) -> None:
    """Print each setting with value and origin: a table, or TOML in a pipe."""
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
    """Print rows under column names, wrapped to the width of a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    width = None if sys.stdout.isatty() else WIDE_CHARS
    Console(width=width).print(table)


def _value(loaded: LoadedSettings, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(loaded.settings, section), key)


def _as_toml(value: object) -> str:
    # TOML has the syntax of JSON for these values, except for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def printable(text: str) -> str:
    """Return text with control characters replaced by question marks."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    with _naming(path, UnwritableOutput):
        target = path.resolve(strict=False)  # keeps a symbolic link
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # A pipe, for example, cannot be replaced by a file.
        is_special = target.exists() and not target.is_file()
        name = f"{target.name}.{secrets.token_hex(4)}.part"
        part = target if is_special else target.with_name(name)
        sink = part.open("wb")
    try:
        with _naming(path), sink:
            yield sink
            if not is_special:
                _put_in_place(sink, part, target)
    except BaseException:
        if not is_special:
            part.unlink(missing_ok=True)
        raise


def _put_in_place(sink: BinaryIO, part: Path, target: Path) -> None:
    sink.flush()
    # Renaming an unsynced file could leave an empty one after a crash.
    os.fsync(sink.fileno())
    if target.exists():
        shutil.copymode(target, part)
    part.replace(target)


@contextmanager
def _naming(
    output: object, failed: type[OutputFailed] = OutputFailed
) -> Iterator[None]:
    """Raise `failed` with the name of the output for an `OSError`."""
    try:
        yield
    except OSError as error:
        raise failed(f"{output}: {error.strerror}") from error


def _discard_output() -> None:
    """Redirect standard output, so that Python's final flush does not fail."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
