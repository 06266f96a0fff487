"""Settings of the section `server`."""

from typing import Annotated

from msgspec import Meta, Struct

from service.settings.types import (
    Bytes,
    Count,
    HeaderBytes,
    Port,
    PositiveCount,
    Seconds,
    WaitSeconds,
    check_base_url,
    check_frame_ancestor,
)


class ServerSettings(Struct, frozen=True, kw_only=True):
    """Address, workers, and limits of requests and connections."""

    host: Annotated[str, Meta(min_length=1)]
    port: Port
    public_url: str
    frame_ancestors: tuple[str, ...]
    admin_host: Annotated[str, Meta(min_length=1)]
    admin_port: Port
    workers: Annotated[int, Meta(ge=1, le=256)]
    max_in_flight: PositiveCount
    max_connections: PositiveCount
    max_connections_per_address: Count
    max_line_bytes: HeaderBytes
    max_field_bytes: HeaderBytes
    max_body_bytes: Bytes
    header_timeout_s: Seconds
    write_timeout_s: Seconds
    request_timeout_s: Seconds
    max_unsent_bytes: Bytes
    max_loop_wait_s: Seconds
    keepalive_s: Seconds
    drain_s: WaitSeconds
    shutdown_grace_s: Seconds
    reload_check_s: Seconds

    def __post_init__(self) -> None:
        if self.public_url:
            try:
                check_base_url(self.public_url)
            except ValueError as error:
                raise ValueError(f"public_url: {error}") from error
        for each in self.frame_ancestors:
            try:
                check_frame_ancestor(each)
            except ValueError as error:
                raise ValueError(f"frame_ancestors: {error}") from error
        # The grace period includes the drain. Requests in flight need the rest of it.
        if self.drain_s >= self.shutdown_grace_s:
            drain, grace = f"{self.drain_s:g}", f"{self.shutdown_grace_s:g}"
            reason = f"drain_s ({drain}) is not within shutdown_grace_s ({grace})"
            raise ValueError(reason)
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("admin_port is the same as port")
