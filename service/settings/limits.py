"""Settings of the section `limits`."""

from ipaddress import ip_network
from typing import Annotated

from msgspec import Meta, Struct

from service.settings.types import PositiveCount, Seconds


class LimitsSettings(Struct, frozen=True, kw_only=True):
    """Limits of the request rate of a client, and of waiting requests."""

    rate_per_s: Annotated[float, Meta(ge=0, le=1_000_000)]
    burst: PositiveCount
    shared: bool
    max_clients: PositiveCount
    by_credentials: bool
    trusted_proxies: tuple[str, ...]
    max_queue: PositiveCount
    queue_wait_s: Seconds

    def __post_init__(self) -> None:
        for network in self.trusted_proxies:
            ip_network(network)  # raises for an invalid network
