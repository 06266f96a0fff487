"""Requests to the administration of streams, and its typed answers.

They are encoded by msgspec and not by the client library, which drops what it does not
know: an update would then reset settings of newer servers.
"""

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from nats import errors as nats_errors
from nats.aio.client import Client

from service.events.errors import QueueUnavailable, StreamUnusable
from service.events.queue.connection import describe, translated

API_S: Final = 5.0
"""Time limit of one request; without a leader the servers do not answer some."""
PREFIX: Final = "$JS.API"
NOT_FOUND: Final = frozenset({10014, 10037, 10059})
"""Codes of a consumer, a message and a stream that do not exist."""
NAME_TAKEN: Final = 10058
"""Code of a new stream whose name has a stream with another configuration."""

OFF: Final = "no reachable NATS server has JetStream: add `jetstream {}` to its file"
SINGLE: Final = (
    "the server has no cluster, so it keeps one copy: start a cluster of three "
    "servers, or set events.queue_replicas = 1"
)
"""A single server accepts a change to more replicas, and still keeps one copy."""
HINTS: Final = {
    10005: "too few servers have JetStream and room for events.queue_max_bytes",
    10008: "most servers of the cluster are away, so it has no quorum",
    10009: "most servers of the cluster are away, so it has no quorum",
    10023: "lower events.queue_max_bytes, or raise max_file_store of the servers",
    10027: "raise max_streams of the account",
    10028: "lower events.queue_max_bytes, or raise the limits of the account",
    10039: "enable JetStream for the account of this user",
    10047: "lower events.queue_max_bytes, or raise max_file_store of the servers",
    10059: "`copilot-usage queue create` creates it, as a start of the service does",
    10065: "another stream has these subjects: choose another events.queue_stream",
    10074: "start a cluster of three servers, or set events.queue_replicas = 1",
    10076: "the server has had an error of its disk, and has switched JetStream off",
}
"""Hints for operators, by the codes of the server."""
PERMANENT: Final = frozenset({10023, 10027, 10028, 10039, 10047, 10065, 10074})
"""Codes that repeat until an operator changes the servers or the settings."""

T = TypeVar("T", bound="Answer")


class ApiError(Struct, frozen=True):
    """The error of an answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Answer(Struct, frozen=True, kw_only=True):
    """Common part of all answers."""

    error: ApiError | None = None


class StreamNotFound(QueueUnavailable):
    """The stream does not exist, or no message or consumer of it has this name."""


class NameTaken(QueueUnavailable):
    """A stream of this name was created with another configuration."""


class Peer(Struct, frozen=True):
    """A server that has a replica, but is not the leader."""

    name: str
    current: bool = False
    offline: bool = False
    lag: int = 0
    """Operations that the replica has not applied yet."""
    active: int = 0
    """Nanoseconds since the leader has last heard of it."""


class Cluster(Struct, frozen=True):
    """The servers that have a stream's replicas; absent for a single server."""

    name: str = ""
    leader: str = ""
    replicas: tuple[Peer, ...] = ()


class StreamConfig(Struct, frozen=True, kw_only=True):
    """The part of a stream's configuration that the service sets. Times are in ns."""

    name: str
    description: str = ""
    subjects: tuple[str, ...] = ()
    retention: str = "workqueue"
    storage: str = "file"
    discard: str = "new"
    num_replicas: int = 1
    max_bytes: int = -1
    max_age: int = 0
    max_msgs: int = -1
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    max_consumers: int = -1
    duplicate_window: int = 0
    no_ack: bool = False
    sealed: bool = False


class State(Struct, frozen=True):
    """Content of a stream."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    first_ts: str = ""
    consumer_count: int = 0
    subjects: dict[str, int] = {}
    """Number of messages by subject, if they were requested."""


class StreamInfo(Answer, frozen=True, kw_only=True):
    """Configuration, content and replicas of a stream."""

    config: msgspec.Raw = msgspec.Raw(b"{}")
    """As the server has it, with settings that this version does not know."""
    state: State = State()
    cluster: Cluster | None = None
    created: str = ""


class Limits(Struct, frozen=True):
    """Limits of an account; negative values are none."""

    max_storage: int = -1


class Account(Answer, frozen=True, kw_only=True):
    """Storage of an account."""

    storage: int = 0
    streams: int = 0
    limits: Limits = Limits()


class Done(Answer, frozen=True, kw_only=True):
    """The answer to a removal."""

    success: bool = False
    purged: int = 0


async def call(client: Client, subject: str, answer: type[T], body: Any = None) -> T:
    """Send a request, and return its answer.

    Raises `StreamNotFound`, `NameTaken`, `StreamUnusable` for what an operator has to
    change, and `QueueUnavailable`.
    """
    payload = b"" if body is None else msgspec.json.encode(body)
    try:
        with translated():
            message = await client.request(f"{PREFIX}.{subject}", payload, API_S)
    except QueueUnavailable as error:
        if isinstance(error.__cause__, nats_errors.NoRespondersError):
            raise StreamUnusable(OFF) from error
        if isinstance(error.__cause__, TimeoutError):
            raise _silence(client) from error
        raise
    try:
        decoded = msgspec.json.decode(message.data, type=answer)
    except ValueError as error:
        raise QueueUnavailable(f"an unexpected answer of NATS: {error}") from error
    if decoded.error is not None:
        raise _failure(decoded.error)
    return decoded


async def read_stream(
    client: Client, name: str, *, with_subjects: bool = False
) -> StreamInfo:
    """Return what the servers know of a stream."""
    body = {"subjects_filter": ">"} if with_subjects else None
    return await call(client, f"STREAM.INFO.{name}", StreamInfo, body)


def config_in(info: StreamInfo) -> StreamConfig:
    """Return the configuration of a stream, as far as the service knows it."""
    return msgspec.json.decode(info.config, type=StreamConfig)


def _silence(client: Client) -> QueueUnavailable:
    """Return the error of a request that was not answered in time."""
    # The server sends it on the connection, and not as an answer.
    last = "" if client.last_error is None else describe(client.last_error)
    if last.startswith("permissions violation"):
        return StreamUnusable(f"the NATS user needs more permissions: {last}")
    return QueueUnavailable(
        "JetStream has not answered: most servers of the cluster are away"
    )


def _failure(error: ApiError) -> QueueUnavailable:
    hint = HINTS.get(error.err_code)
    text = f"{error.description}: {hint}" if hint else error.description
    if error.err_code in NOT_FOUND:
        return StreamNotFound(text)
    if error.err_code == NAME_TAKEN:
        return NameTaken(text)
    return (
        StreamUnusable(text) if error.err_code in PERMANENT else QueueUnavailable(text)
    )
