"""The stream: created if it is absent, and compared with the settings if it exists.

It is never changed at a start: `copilot-usage queue resize` changes it.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import structlog
from nats.aio.client import Client

from service.events.errors import StreamUnusable
from service.events.queue.stream_api import (
    SINGLE,
    NameTaken,
    StreamConfig,
    StreamInfo,
    StreamNotFound,
    call,
    config_in,
    read_stream,
)
from service.settings import EventsSettings

OLDEST_SERVER: Final = (2, 9)
SAFE_SERVER: Final = (2, 12, 3)
"""The first release without known faults that lose events when servers fail.

`docs/decisions/event-queue.md` names its sources.
"""
NS_PER_S: Final = 1_000_000_000
PARTITIONS: Final = "partitions="
"""Begin of the stream's description, which has the number of partitions."""
MIN_PAYLOAD_BYTES: Final = 65_536
"""Smallest maximum size of messages that carries any useful number of events."""

log = structlog.get_logger()


class Effect(StrEnum):
    """Effect of a difference between a stream and the settings."""

    UNUSABLE = "unusable"
    """Events would be lost, or not be stored: the service does not use the stream."""
    WARNING = "warning"
    """The stream is used as it is."""


class Difference(NamedTuple):
    """A value of the stream that is not that of the settings."""

    setting: str
    actual: object
    expected: object
    effect: Effect

    def __str__(self) -> str:
        return f"{self.setting} is {self.actual} and not {self.expected}"


def config_of(settings: EventsSettings) -> StreamConfig:
    """Return the configuration of a new stream."""
    return StreamConfig(
        name=settings.queue_stream,
        description=f"{PARTITIONS}{settings.queue_partitions}",
        subjects=(f"{settings.queue_stream}.*",),
        num_replicas=settings.queue_replicas,
        max_bytes=settings.queue_max_bytes,
        max_age=int(settings.queue_max_age_s * NS_PER_S),
        duplicate_window=duplicate_window_ns(settings),
    )


def duplicate_window_ns(settings: EventsSettings) -> int:
    """Return the duplicate window; the servers accept none above the maximum age."""
    seconds = settings.queue_duplicate_window_s
    if settings.queue_max_age_s:
        seconds = min(seconds, settings.queue_max_age_s)
    return int(seconds * NS_PER_S)


async def ensure_stream(client: Client, settings: EventsSettings) -> StreamInfo:
    """Create the stream if it is absent, and return what the servers know of it.

    Raises `StreamUnusable` if the servers or the stream cannot be used as they are, and
    `QueueUnavailable`.
    """
    check_server(client)
    try:
        info = await read_stream(client, settings.queue_stream)
    except StreamNotFound:
        info = await create_stream(client, settings)
    report(info, settings)
    return info


async def create_stream(client: Client, settings: EventsSettings) -> StreamInfo:
    """Create the stream, unless another process has just done so."""
    name, config = settings.queue_stream, config_of(settings)
    try:
        created = await call(client, f"STREAM.CREATE.{name}", StreamInfo, config)
    except NameTaken:
        return await read_stream(client, name)
    log.info(
        "events.queue_stream_created",
        stream=name,
        replicas=config.num_replicas,
        max_bytes=config.max_bytes,
    )
    return created


def check_server(client: Client) -> None:
    """Raise `StreamUnusable` for a server that is too old, or takes small messages."""
    version = client.connected_server_version
    number = version.major, version.minor, version.patch
    actual = ".".join(map(str, number))
    if number[:2] < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise StreamUnusable(f"the NATS server is {actual}; {oldest} is the oldest")
    if client.max_payload < MIN_PAYLOAD_BYTES:
        raise StreamUnusable(
            f"max_payload of the NATS server is {client.max_payload}; "
            f"at least {MIN_PAYLOAD_BYTES} bytes are needed"
        )
    if number < SAFE_SERVER and actual not in _old_servers:
        _old_servers.add(actual)
        safe = ".".join(map(str, SAFE_SERVER))
        log.warning("events.queue_server_old", version=actual, safe_version=safe)


def report(info: StreamInfo, settings: EventsSettings) -> None:
    """Log the differences to the settings, each set of them once in a process.

    Raises `StreamUnusable` for one with which the service cannot work.
    """
    found = tuple(differences(config_in(info), settings))
    unusable = [str(each) for each in found if each.effect is Effect.UNUSABLE]
    if info.cluster is None and settings.queue_replicas > 1:
        unusable.append(SINGLE)
    if unusable:
        raise StreamUnusable(f"stream {settings.queue_stream}: {'; '.join(unusable)}")
    if _logged.get(settings.queue_stream, ()) != found:
        _logged[settings.queue_stream] = found
        for each in found:
            log.warning(
                "events.queue_stream_differs",
                stream=settings.queue_stream,
                setting=each.setting,
                actual=each.actual,
                expected=each.expected,
            )


def differences(config: StreamConfig, settings: EventsSettings) -> Iterator[Difference]:
    """Compare the configuration of a stream with the settings."""
    expected = config_of(settings)
    for name in ("retention", "storage", "discard", "subjects", "no_ack", "sealed"):
        yield from _differs(name, config, expected, Effect.UNUSABLE)
    partitions = partitions_of(config)
    if partitions != settings.queue_partitions:
        yield Difference(
            "events.queue_partitions",
            "unknown" if partitions is None else partitions,
            settings.queue_partitions,
            Effect.UNUSABLE,
        )
    if config.num_replicas != expected.num_replicas:
        too_few = config.num_replicas < expected.num_replicas
        yield Difference(
            "events.queue_replicas",
            config.num_replicas,
            expected.num_replicas,
            Effect.UNUSABLE if too_few else Effect.WARNING,
        )
    yield from _differing_limits(config, expected)


def partitions_of(config: StreamConfig) -> int | None:
    """Return the number of partitions; None if the service has not made the stream."""
    number = config.description.removeprefix(PARTITIONS)
    is_ours = config.description.startswith(PARTITIONS) and number.isdecimal()
    return int(number) if is_ours else None


def _differing_limits(
    config: StreamConfig, expected: StreamConfig
) -> Iterator[Difference]:
    """Yield limits that differ: the stream is used, whatever they are."""
    for name, setting in SETTINGS.items():
        if getattr(config, name) != getattr(expected, name):
            times = name in IN_NS
            yield Difference(
                setting,
                _value(getattr(config, name), in_ns=times),
                _value(getattr(expected, name), in_ns=times),
                Effect.WARNING,
            )
    # A limit that no setting has is one of an operator: -1 is none.
    for name in ("max_msgs", "max_msgs_per_subject", "max_msg_size"):
        yield from _differs(name, config, expected, Effect.WARNING)


def _differs(
    name: str, config: StreamConfig, expected: StreamConfig, effect: Effect
) -> Iterator[Difference]:
    actual, wanted = getattr(config, name), getattr(expected, name)
    if actual != wanted:
        yield Difference(name, _value(actual), _value(wanted), effect)


def _value(value: object, *, in_ns: bool = False) -> object:
    if in_ns and isinstance(value, int):
        return value / NS_PER_S
    return ",".join(value) if isinstance(value, tuple) else value


SETTINGS: Final = {
    "max_bytes": "events.queue_max_bytes",
    "max_age": "events.queue_max_age_s",
    "duplicate_window": "events.queue_duplicate_window_s",
}
"""Settings of the limits, by the names of the stream's configuration."""
IN_NS: Final = frozenset({"max_age", "duplicate_window"})

_logged: Final[dict[str, tuple[Difference, ...]]] = {}
_old_servers: Final[set[str]] = set()
"""Versions that were logged in this process."""
