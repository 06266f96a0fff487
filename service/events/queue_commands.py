"""The commands of `copilot-usage queue`: show, create, resize, drain, messages, ….

They use the NATS servers of `events.queue_url`, whether or not a service is running.
What discards events asks for the name of the stream first.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
import typer
from msgspec.structs import replace

from service.cli import terminal
from service.cli.terminal import ConfigFile
from service.events.errors import QueueUnavailable
from service.settings import EventsSettings, load
from service.settings.events import MIN_AGE_S

if TYPE_CHECKING:
    from service.events.queue.administration import Administration
    from service.events.queue.overview import Overview
    from service.events.queue.stream_api import StreamInfo

T = TypeVar("T")

SERVER_COLUMNS: Final = ("server", "role", "state", "lag", "heard")
PARTITION_COLUMNS: Final = ("partition", "messages", "delivered", "redelivered")
MESSAGES: Final = 10
MAX_BYTES: Final = 2**63 - 1
MAX_AGE_S: Final = 31_536_000
"""As of the setting."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Do not ask; for scripts that have checked.")
]
PartitionOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Only this partition.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.0, metavar="SECONDS", help="Give up after this time.")
]

cli = typer.Typer(
    help="The queue of events: its stream, its backlog, its limits.",
    no_args_is_help=True,
)

Work = Callable[["Administration", EventsSettings], Coroutine[Any, Any, T]]


class NoQueue(Exception):
    """The settings name no queue, or no such partition."""


class NotFinished(Exception):
    """The command has waited for as long as it may."""


class NotConfirmed(Exception):
    """The operator has not confirmed that events are discarded."""


@cli.command()
def show(config: ConfigFile = None, *, as_json: JsonOption = False) -> None:
    """Show size and age of the backlog, the limits, the replicas and the partitions.

    The status is 1 if the stream acknowledges nothing, for want of a leader.
    """
    overview = _run(config, _overview)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(overview), indent=2))
    else:
        _print(overview)
    if overview.problem:
        raise QueueUnavailable(overview.problem)


def _print(overview: "Overview") -> None:
    from service.events.queue import overview as shown

    terminal.print_table(("name", "value"), shown.summary_rows(overview))
    if overview.servers:
        typer.echo()
        terminal.print_table(SERVER_COLUMNS, list(shown.server_rows(overview)))
    if rows := list(shown.partition_rows(overview)):
        typer.echo()
        terminal.print_table(PARTITION_COLUMNS, rows)


@cli.command()
def create(config: ConfigFile = None) -> None:
    """Create the stream with the limits of the settings, unless it exists.

    The service does so at its start. An existing stream is compared and not changed.
    """

    async def work(queue: "Administration", settings: EventsSettings) -> "StreamInfo":
        from service.events.queue.stream import ensure_stream

        return await ensure_stream(queue.client, settings)

    info = _run(config, work)
    from service.events.queue.stream_api import config_in

    made = config_in(info)
    typer.echo(
        f"Stream {made.name}: replicas {made.num_replicas}, "
        f"maximum size {made.max_bytes:,} bytes, messages {info.state.messages:,}"
    )


@cli.command()
def resize(  # noqa: PLR0913 - each argument is an option
    config: ConfigFile = None,
    *,
    max_bytes: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_BYTES, help="Maximum size of the stream."),
    ] = None,
    max_age: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=MAX_AGE_S,
            metavar="SECONDS",
            help="Age at which events are discarded, stored or not; 0 for none.",
        ),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=5, help="Number of servers with a copy.")
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=1_024, help="Number of partitions; needs no messages."),
    ] = None,
    timeout: TimeoutOption = 300.0,
    yes: YesOption = False,
) -> None:
    """Change limits, replicas or partitions of the stream, then those of the settings.

    Ends when all replicas are current. A maximum size below the present size is
    refused, because the stream would discard the oldest events.
    """
    if max_age is not None and not (max_age == 0 or max_age >= MIN_AGE_S):
        raise typer.BadParameter(f"--max-age is 0, or at least {MIN_AGE_S:g}")
    changes = _changes(max_bytes, max_age, replicas, partitions)
    if not changes:
        raise typer.BadParameter("name at least one value that is to be changed")
    if max_age:
        _confirm(config, f"Events older than {max_age:g} s will be lost.", yes=yes)

    async def work(queue: "Administration", _settings: EventsSettings) -> None:
        from service.events.queue.administration import replica_states
        from service.events.queue.overview import describe_states

        await queue.resize(changes)
        progress = _Progress(
            lambda info: f"replicas: {describe_states(replica_states(info))}"
        )
        await _in_time(queue.until_replicated(progress.show), timeout)

    _run(config, work)
    typer.echo("Resized. Change the settings of all services in the same way.")


@cli.command()
def drain(config: ConfigFile = None, *, timeout: TimeoutOption = 3_600.0) -> None:
    """Wait until writers have stored all messages, and show the progress.

    Stop the collectors first, or give them an empty events.queue_url; keep writers.
    """

    async def work(queue: "Administration", _settings: EventsSettings) -> None:
        progress = _Progress(
            lambda info: f"{info.state.messages:,} messages, {info.state.bytes:,} bytes"
        )
        is_empty = queue.until(lambda info: not info.state.messages, progress.show)
        await _in_time(is_empty, timeout)

    _run(config, work)
    typer.echo("The stream has no messages.")


@cli.command()
def messages(
    config: ConfigFile = None,
    *,
    partition: PartitionOption = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Maximum number of messages; 0 for all.")
    ] = MESSAGES,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object a line, with the events."),
    ] = False,
) -> None:
    """List messages that wait, the oldest first, without taking them.

    With --json and --limit 0, the output is a copy of all events that are not stored.
    """
    from service.events.queue import contents

    rows: list[tuple[str, ...]] = []

    async def work(queue: "Administration", settings: EventsSettings) -> None:
        subject = _subject(settings, partition)
        async for each in queue.messages(subject, limit or None):
            if as_json:
                typer.echo(contents.as_json(each))
            else:
                rows.append(contents.row_of(each))

    _run(config, work)
    if not as_json:
        terminal.print_table(contents.COLUMNS, rows)


@cli.command()
def discard(
    config: ConfigFile = None,
    *,
    sequence: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only this message.")
    ] = None,
    partition: PartitionOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The messages of all partitions.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Discard messages that no writer has stored: their events are lost.

    Copy them first: `copilot-usage queue messages --json --limit 0 > FILE`.
    """
    if [sequence is not None, partition is not None, everything].count(True) != 1:
        raise typer.BadParameter("choose one of --sequence, --partition and --all")
    _confirm(config, "Events that no writer has stored will be lost.", yes=yes)

    async def work(queue: "Administration", settings: EventsSettings) -> int:
        if sequence is None:
            return await queue.purge(_subject(settings, partition))
        await queue.discard_message(sequence)
        return 1

    typer.echo(f"Messages discarded: {_run(config, work):,}")


@cli.command()
def delete(
    config: ConfigFile = None,
    *,
    with_events: Annotated[
        bool,
        typer.Option(
            "--with-events", help="Also if there are messages: they are lost."
        ),
    ] = False,
    yes: YesOption = False,
) -> None:
    """Delete the stream, which must have no messages."""
    _confirm(config, "The stream will be deleted.", yes=yes)

    async def work(queue: "Administration", _settings: EventsSettings) -> "StreamInfo":
        return await queue.delete(with_events=with_events)

    info = _run(config, work)
    typer.echo(f"Deleted the stream. Messages in it: {info.state.messages:,}")


class _Progress:
    """Prints the state on standard error when it changes."""

    def __init__(self, describe: Callable[["StreamInfo"], str]) -> None:
        self._describe = describe
        self._last = ""

    def show(self, info: "StreamInfo") -> None:
        """Print a state that is not the one before."""
        text = self._describe(info)
        if text != self._last:
            self._last = text
            typer.echo(text, err=True)


async def _in_time(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        raise NotFinished(f"not finished after {timeout_s:g} s") from None


async def _overview(queue: "Administration", settings: EventsSettings) -> "Overview":
    from service.events.queue.administration import problem_of
    from service.events.queue.overview import overview_of, version_of

    version = version_of(queue.client.connected_server_version)
    info = await queue.read()
    try:
        consumers, account = await queue.consumers(), await queue.account()
        problems = await queue.lease_problems(info)
    except QueueUnavailable as error:
        # Without a leader, the servers leave some requests without an answer.
        raise QueueUnavailable(problem_of(info) or str(error)) from error
    shown = overview_of(info, consumers, account, version, settings)
    return replace(shown, differences=(*shown.differences, *problems))


def _run(config: ConfigFile, work: Work[T]) -> T:
    """Return the result of work on the queue of the settings."""
    settings = _settings(config)

    async def run() -> T:
        from service.events.queue.administration import open_administration

        async with open_administration(settings) as queue:
            return await work(queue, settings)

    return asyncio.run(run())


def _settings(config: ConfigFile) -> EventsSettings:
    settings = load(config, os.environ).settings.events
    if not settings.queue_servers:
        raise NoQueue("events.queue_url is empty: there is no queue")
    return settings


def _changes(
    max_bytes: int | None,
    max_age_s: float | None,
    replicas: int | None,
    partitions: int | None,
) -> dict[str, Any]:
    """Return the changes by the names of the stream's configuration."""
    changes: dict[str, Any] = {}
    if max_bytes is not None:
        changes["max_bytes"] = max_bytes
    if max_age_s is not None:
        changes["max_age"] = int(max_age_s * 1_000_000_000)
    if replicas is not None:
        changes["num_replicas"] = replicas
    if partitions is not None:
        changes["description"] = f"partitions={partitions}"
    return changes


def _confirm(config: ConfigFile, consequence: str, *, yes: bool) -> None:
    """Ask for the name of the stream, unless `yes`; raises `NotConfirmed`."""
    if yes:
        return
    stream = _settings(config).queue_stream
    if not sys.stdin.isatty():
        raise NotConfirmed(f"{consequence} Without a terminal, this needs --yes")
    answer = typer.prompt(f"{consequence} Type the name of the stream, {stream}")
    if answer.strip() != stream:
        raise NotConfirmed("nothing was changed: that is not the name of the stream")


def _subject(settings: EventsSettings, partition: int | None) -> str:
    from service.events.queue.message import subject_of

    if partition is None:
        return f"{settings.queue_stream}.*"
    if partition >= settings.queue_partitions:
        raise NoQueue(f"the partitions are 0 to {settings.queue_partitions - 1}")
    return subject_of(settings.queue_stream, partition)
