"""Settings: frozen structs filled from TOML files, the environment and options.

The defaults are in `config/default.toml` alone, next to the comments that explain
them. Each section is a module of this package; `loader` reads and checks them.
"""

from service.settings.auth import SCOPES, AuthSettings, Scope
from service.settings.cache import CacheSettings
from service.settings.events import EVERY_ORIGIN, EventsSettings
from service.settings.health import HealthSettings
from service.settings.limits import LimitsSettings
from service.settings.loader import LoadedSettings, SettingsError, config_folder, load
from service.settings.logging import LoggingSettings
from service.settings.model import Settings
from service.settings.periods import PERIOD_LENGTH, PeriodsSettings
from service.settings.sandbox import SandboxSettings
from service.settings.server import ServerSettings
from service.settings.storage import StorageSettings
from service.settings.telemetry import TelemetrySettings
from service.settings.upstream import BreakerSettings, UpstreamSettings
from service.settings.usage import UsageSettings
from service.settings.vehicles import VehiclesSettings
from service.settings.webhooks import WebhooksSettings

__all__ = [
    "EVERY_ORIGIN",
    "PERIOD_LENGTH",
    "SCOPES",
    "AuthSettings",
    "BreakerSettings",
    "CacheSettings",
    "EventsSettings",
    "HealthSettings",
    "LimitsSettings",
    "LoadedSettings",
    "LoggingSettings",
    "PeriodsSettings",
    "SandboxSettings",
    "Scope",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "StorageSettings",
    "TelemetrySettings",
    "UpstreamSettings",
    "UsageSettings",
    "VehiclesSettings",
    "WebhooksSettings",
    "config_folder",
    "load",
]
