"""Overview of the stream for operators: for a terminal, and as JSON."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from service.events.queue.administration import (
    Consumer,
    problem_of,
    replica_states,
)
from service.events.queue.message import subject_of
from service.events.queue.stream import NS_PER_S, differences, partitions_of
from service.events.queue.stream_api import (
    Account,
    Cluster,
    Peer,
    StreamConfig,
    StreamInfo,
    config_in,
)
from service.instants import US_PER_S, format_instant, now_us, read_instant
from service.settings import EventsSettings

EMPTY: Final = "0001-01-01"
"""Begin of the time of the oldest message if there is none."""
UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
NUMBER: Final = re.compile(r"\d+")


class Replica(Struct, frozen=True):
    """A server with a replica of the stream."""

    server: str
    role: str
    state: str
    lag: int = 0
    heard_s_ago: float | None = None


class Partition(Struct, frozen=True):
    """Messages of a partition, each of one request, and the state of its writer."""

    partition: int
    messages: int
    delivered: int
    """Messages that a writer has received and not acknowledged."""
    redelivered: int


class Overview(Struct, frozen=True):
    """The state of the stream."""

    stream: str
    server_version: str
    created_at: str
    messages: int
    bytes: int
    max_bytes: int
    oldest_at: str | None
    oldest_age_s: float | None
    max_age_s: float
    duplicate_window_s: float
    replicas: int
    replica_states: dict[str, int]
    servers: tuple[Replica, ...]
    partitions: tuple[Partition, ...]
    account_bytes: int
    account_max_bytes: int | None
    differences: tuple[str, ...]
    """Values that are not those of the settings, and problems of the leases."""
    problem: str | None
    """Why the stream acknowledges nothing."""


def overview_of(
    info: StreamInfo,
    consumers: Iterable[Consumer],
    account: Account,
    server_version: str,
    settings: EventsSettings,
) -> Overview:
    """Return the overview of a stream."""
    config, oldest_at = config_in(info), oldest_in(info)
    age_s = None if oldest_at is None else max(0.0, (now_us() - oldest_at) / US_PER_S)
    return Overview(
        stream=config.name,
        server_version=server_version,
        created_at=info.created,
        messages=info.state.messages,
        bytes=info.state.bytes,
        max_bytes=config.max_bytes,
        oldest_at=None if oldest_at is None else format_instant(oldest_at),
        oldest_age_s=None if age_s is None else round(age_s, 3),
        max_age_s=config.max_age / NS_PER_S,
        duplicate_window_s=config.duplicate_window / NS_PER_S,
        replicas=config.num_replicas,
        replica_states=replica_states(info),
        servers=tuple(_servers(info.cluster)),
        partitions=tuple(_partitions(info, config, consumers)),
        account_bytes=account.storage,
        account_max_bytes=_limit(account.limits.max_storage),
        differences=tuple(map(str, differences(config, settings))),
        problem=problem_of(info),
    )


def oldest_in(info: StreamInfo) -> int | None:
    """Return the arrival of the oldest message as an instant; None without messages."""
    if not info.state.messages or info.state.first_ts.startswith(EMPTY):
        return None
    return read_instant(info.state.first_ts)


def describe_states(states: dict[str, int]) -> str:
    """Return the replicas by state, without zeros: `2 current, 1 offline`."""
    return ", ".join(f"{n} {state}" for state, n in states.items() if n)


def summary_rows(overview: Overview) -> list[tuple[str, str]]:
    """Return the rows of the summary: name and value."""
    used = share_of(overview.bytes, overview.max_bytes)
    states = describe_states(overview.replica_states)
    rows = [
        ("stream", overview.stream),
        ("server", f"NATS {overview.server_version}"),
        ("messages", f"{overview.messages:,}"),
        ("size", f"{in_bytes(overview.bytes)} of {_maximum(overview.max_bytes)}{used}"),
        ("oldest message", _age(overview)),
        ("maximum age", _or_none(overview.max_age_s, "s")),
        ("replicas", f"{overview.replicas}: {states}"),
        ("storage of the account", _account(overview)),
    ]
    rows += [("differs", each) for each in overview.differences]
    return rows + ([("problem", overview.problem)] if overview.problem else [])


def server_rows(overview: Overview) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the servers: name, role, state, lag, last contact."""
    for each in overview.servers:
        heard = "" if each.heard_s_ago is None else f"{each.heard_s_ago:.1f} s ago"
        yield each.server, each.role, each.state, f"{each.lag:,}", heard


def partition_rows(overview: Overview) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the partitions that have messages or a writer."""
    for each in overview.partitions:
        if each.messages or each.delivered:
            yield tuple(
                f"{value:,}"
                for value in (
                    each.partition,
                    each.messages,
                    each.delivered,
                    each.redelivered,
                )
            )


def in_bytes(size: float) -> str:
    """Return a size in the largest unit in which it is at least 1."""
    unit, *larger = UNITS
    while size >= 1024 and larger:
        size, (unit, *larger) = size / 1024, larger
    return f"{size:,.0f} {unit}" if unit == UNITS[0] else f"{size:,.1f} {unit}"


def share_of(size: int, maximum: int) -> str:
    """Return the used share of a maximum, as text; empty without a maximum."""
    return f" ({size / maximum:.1%})" if maximum > 0 else ""


def version_of(info: object) -> str:
    """Return the version of a server of NATS, from `<nats server v2.9.10>`."""
    return ".".join(NUMBER.findall(str(info))[:3])


def _servers(cluster: Cluster | None) -> Iterator[Replica]:
    if cluster is None:
        return
    if cluster.leader:
        yield Replica(cluster.leader, "leader", "current")
    for peer in sorted(cluster.replicas, key=lambda each: each.name):
        heard_s_ago = peer.active / NS_PER_S
        yield Replica(peer.name, "replica", state_of(peer), peer.lag, heard_s_ago)


def state_of(peer: Peer) -> str:
    """Return the state of a replica: current, behind or offline."""
    if peer.offline:
        return "offline"
    return "current" if peer.current else "behind"


def _partitions(
    info: StreamInfo, config: StreamConfig, consumers: Iterable[Consumer]
) -> Iterator[Partition]:
    by_number: dict[int, Consumer] = {}
    for consumer in consumers:
        found = NUMBER.findall(consumer.name)
        if found:
            by_number[int(found[-1])] = consumer
    for number in range(partitions_of(config) or 0):
        found_one = by_number.get(number, Consumer(""))
        yield Partition(
            number,
            info.state.subjects.get(subject_of(config.name, number), 0),
            found_one.num_ack_pending,
            found_one.num_redelivered,
        )


def _age(overview: Overview) -> str:
    if overview.oldest_at is None or overview.oldest_age_s is None:
        return "none"
    return f"{overview.oldest_at[:19]}Z, {_duration(overview.oldest_age_s)} ago"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"


def _or_none(number: float, unit: str) -> str:
    return f"{number:g} {unit}" if number else "none"


def _maximum(size: int) -> str:
    return in_bytes(size) if size > 0 else "any"


def _account(overview: Overview) -> str:
    maximum = overview.account_max_bytes
    limit = "" if maximum is None else f" of {in_bytes(maximum)}"
    return in_bytes(overview.account_bytes) + limit


def _limit(maximum: int) -> int | None:
    return maximum if maximum >= 0 else None
