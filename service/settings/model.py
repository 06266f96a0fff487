"""All settings, by section."""

from operator import attrgetter
from typing import Final

from msgspec import Struct

from service.settings.auth import AuthSettings
from service.settings.cache import CacheSettings
from service.settings.events import EventsSettings
from service.settings.health import HealthSettings
from service.settings.limits import LimitsSettings
from service.settings.logging import LoggingSettings
from service.settings.periods import PeriodsSettings
from service.settings.redis_urls import is_sentinel_url
from service.settings.sandbox import SandboxSettings
from service.settings.server import ServerSettings
from service.settings.storage import StorageSettings
from service.settings.telemetry import TelemetrySettings
from service.settings.types import is_installed
from service.settings.upstream import BreakerSettings, UpstreamSettings
from service.settings.usage import UsageSettings
from service.settings.vehicles import VehiclesSettings
from service.settings.webhooks import WebhooksSettings

_WITHIN: Final = (
    ("upstream.timeout_s", "upstream.deadline_s"),
    ("vehicles.timeout_s", "vehicles.deadline_s"),
)
"""Limits of one try, and of the whole call that it belongs to."""

SCOPES_WITHOUT_STORAGE: Final = frozenset({"usage:read", "metrics:read"})
"""Scopes of endpoints that use no database themselves."""


class Settings(Struct, frozen=True, kw_only=True):
    """All settings, by section."""

    server: ServerSettings
    auth: AuthSettings
    health: HealthSettings
    limits: LimitsSettings
    upstream: UpstreamSettings
    breaker: BreakerSettings
    usage: UsageSettings
    periods: PeriodsSettings
    webhooks: WebhooksSettings
    cache: CacheSettings
    storage: StorageSettings
    events: EventsSettings
    vehicles: VehiclesSettings
    logging: LoggingSettings
    telemetry: TelemetrySettings
    sandbox: SandboxSettings

    def __post_init__(self) -> None:
        if self.usage.source == "events" and not self.events.enabled:
            raise ValueError("usage.source: events are not enabled")
        if self.vehicles.offline and not is_installed("ultravin"):
            reason = "needs copilot-usage[vin-offline] to be installed"
            raise ValueError(f"vehicles.offline: {reason}")
        cache = self.cache
        if cache.sentinel_password and not is_sentinel_url(cache.redis_url):
            reason = "needs a redis+sentinel URL as cache.redis_url"
            raise ValueError(f"cache.sentinel_password: {reason}")
        if cache.sentinel_username and not cache.sentinel_password:
            raise ValueError("cache.sentinel_username: needs cache.sentinel_password")
        if self.events.queue_url and not is_installed("nats"):
            reason = "needs copilot-usage[nats] to be installed"
            raise ValueError(f"events.queue_url: {reason}")
        for inner, outer in _WITHIN:
            value, bound = attrgetter(inner, outer)(self)
            if value > bound:
                raise ValueError(f"{inner} ({value:g}) is above {outer} ({bound:g})")

    @property
    def has_calendar(self) -> bool:
        """Return whether periods are calendar months."""
        if self.periods.boundary == "auto":
            return self.usage.source == "events"
        return self.periods.boundary == "calendar"

    @property
    def needs_storage(self) -> bool:
        """Return whether a part of the service needs the database.

        Keys are a reason if an endpoint needs one that is useful without a database.
        """
        return self.periods.enabled or not self.can_start_without_storage

    @property
    def can_start_without_storage(self) -> bool:
        """Return whether all that needs the database can wait for it: kept periods."""
        is_stored = self.events.enabled or self.vehicles.enabled
        needs_keys = not self.auth.required.isdisjoint(SCOPES_WITHOUT_STORAGE)
        return not is_stored and not needs_keys
