"""Settings of the section `events`."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from service.settings.types import (
    NOT_A_URL,
    Bytes,
    LongSeconds,
    PositiveCount,
    Seconds,
    WaitSeconds,
    check_origin,
    split_url,
)

EVERY_ORIGIN: Final = "*"
QUEUE_SCHEMES: Final = ("nats", "tls")
MIN_AGE_S: Final = 0.1
"""NATS accepts no shorter age or duplicate window."""

StreamName = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]


class EventsSettings(Struct, frozen=True, kw_only=True):
    """Collection of events."""

    enabled: bool
    types_folder: str
    unknown_types: Literal["accept", "fail"]
    future_skew_s: WaitSeconds
    max_clock_skew_s: WaitSeconds
    max_events: PositiveCount
    max_body_bytes: Bytes
    body_timeout_s: Seconds
    commit_wait_ms: Annotated[float, Meta(ge=0, le=1_000)]
    commit_max_events: PositiveCount
    max_backlog: PositiveCount
    max_backlog_bytes: Bytes
    max_queries: Annotated[int, Meta(ge=1, le=100)]
    query_timeout_s: Seconds
    key_ttl_s: WaitSeconds
    key_grace_s: LongSeconds
    key_rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)]
    cors_origins: tuple[str, ...]
    retention_s: LongSeconds
    retention_interval_s: Seconds
    queue_url: str
    queue_token: str
    queue_credentials_file: str
    queue_ca_file: str
    queue_stream: StreamName
    queue_partitions: Annotated[int, Meta(ge=1, le=1_024)]
    queue_replicas: Annotated[int, Meta(ge=1, le=5)]
    queue_max_bytes: Bytes
    queue_max_age_s: LongSeconds
    queue_duplicate_window_s: Annotated[float, Meta(ge=MIN_AGE_S, le=86_400)]
    queue_writer: bool
    queue_lease_s: Annotated[float, Meta(ge=1, le=3_600)]
    stored_wait_s: Seconds

    @property
    def queue_servers(self) -> tuple[str, ...]:
        """The URLs of the servers of the queue; empty without a queue."""
        return tuple(each.strip() for each in self.queue_url.split(",") if each.strip())

    def __post_init__(self) -> None:
        if self.queue_url and not self.queue_servers:
            raise ValueError("queue_url: expected at least one URL, or an empty text")
        if 0 < self.queue_max_age_s < MIN_AGE_S:
            raise ValueError(f"queue_max_age_s: expected 0, or at least {MIN_AGE_S:g}")
        for server in self.queue_servers:
            _check_server(server)
        if self.cors_origins != (EVERY_ORIGIN,):
            for each in self.cors_origins:
                check_origin(each)


def _check_server(url: str) -> None:
    """Raise `ValueError` for a URL that is not one of a NATS server."""
    try:
        parts = split_url(url)
    except ValueError as error:
        if str(error) != NOT_A_URL:
            raise ValueError(f"queue_url: {error}") from None
        # The client library takes a password as it is, so nothing can be encoded.
        raise ValueError(
            "queue_url: expected URLs such as nats://user:password@host:4222; "
            "a password cannot have any of , / ? # [ ]"
        ) from None
    if parts.scheme not in QUEUE_SCHEMES or not parts.hostname:
        raise ValueError("queue_url: expected nats or tls URLs with a host")
    if parts.path or parts.query or parts.fragment:
        raise ValueError("queue_url: expected URLs without a path")
    # A user without a password would be a token, which `config` would print.
    if parts.username is not None and not parts.password:
        raise ValueError("queue_url: expected a password, or events.queue_token")
