"""Settings: frozen structs filled from TOML files, the environment and options.

The defaults live in `config/default.toml` alone, beside the comments that explain
them. Later layers win: default.toml, the `--config` file, `COPILOT_USAGE_*` variables,
command-line options. Anything unknown or impossible stops the start.
"""

import importlib.util
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

ENVIRONMENT_PREFIX: Final = "COPILOT_USAGE_"
SECRET_WORDS: Final = ("password", "secret", "token", "key")
REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
STORAGE_SCHEMES: Final = ("sqlite+aiosqlite", "postgresql+asyncpg")
URL_SETTINGS: Final = {
    "upstream": "upstream.base_url",
    "vehicles": "vehicles.base_url",
    "cache": "cache.redis_url",
    "storage": "storage.url",
}
"""What is at fault where a section as a whole is impossible."""
LONGEST_LOOKUP_S: Final = 600
"""Beyond any patience; removals are remembered for longer than this."""
# Up to the last @: where a password has characters that it should not have, rather
# too much is hidden than a part of it shown.
PASSWORD_IN_URL: Final = re.compile(r"(?<=//)([^/?#:@]*):[^\n]*@")

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
WaitSeconds = Annotated[float, Meta(ge=0, le=86_400)]
LongSeconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Share = Annotated[float, Meta(ge=0, le=1)]
Threshold = Annotated[float, Meta(gt=0, le=1)]
Bytes = Annotated[int, Meta(ge=1)]
HeaderBytes = Annotated[int, Meta(ge=256, le=1_048_576)]


class Server(Struct, frozen=True, kw_only=True):
    """Where and how to serve, and how much a caller may ask of a connection."""

    host: Annotated[str, Meta(min_length=1)]
    port: Port
    workers: Annotated[int, Meta(ge=1, le=256)]
    max_in_flight: Count
    max_line_bytes: HeaderBytes
    max_field_bytes: HeaderBytes
    max_body_bytes: Bytes
    header_timeout_s: Seconds
    write_timeout_s: Seconds
    keepalive_s: Seconds
    drain_s: WaitSeconds
    shutdown_grace_s: Seconds

    def __post_init__(self) -> None:
        if self.drain_s >= self.shutdown_grace_s:
            raise ValueError("drain_s is not within shutdown_grace_s")


class Limits(Struct, frozen=True, kw_only=True):
    """How often one caller may ask."""

    rate_per_s: Annotated[float, Meta(ge=0, le=1_000_000)]
    burst: Count
    max_clients: Count
    by_credentials: bool
    trusted_proxies: tuple[str, ...]

    def __post_init__(self) -> None:
        for network in self.trusted_proxies:
            ip_network(network)  # raises where it is none


class Upstream(Struct, frozen=True, kw_only=True):
    """How to call the messages and reports APIs."""

    base_url: str
    concurrency: Count
    attempts: Annotated[int, Meta(ge=1, le=20)]
    backoff_base_s: WaitSeconds
    backoff_max_s: WaitSeconds
    retry_after_max_s: WaitSeconds
    retry_rate: Share
    retry_floor: Annotated[int, Meta(ge=0, le=1_000_000)]
    retry_window_s: Seconds
    timeout_s: Seconds
    deadline_s: Seconds
    max_body_bytes: Bytes

    def __post_init__(self) -> None:
        _check_base_url(self.base_url)


class Breaker(Struct, frozen=True, kw_only=True):
    """When upstream counts as ill, and how long it is then left in peace."""

    window_calls: Count
    minimum_calls: Count
    failure_rate: Threshold
    slow_rate: Threshold
    slow_call_s: Seconds
    open_s: Seconds
    half_open_calls: Count

    def __post_init__(self) -> None:
        if self.minimum_calls > self.window_calls:
            raise ValueError("minimum_calls is larger than window_calls")


class Usage(Struct, frozen=True, kw_only=True):
    """How a period is priced."""

    plan: Literal["text-rules", "token-estimate"]
    source: Literal["upstream", "events"]
    on_report_error: Literal["fail", "text"]
    own_process_bytes: Bytes


class Cache(Struct, frozen=True, kw_only=True):
    """How long answers and reports are held."""

    ttl_s: WaitSeconds
    stale_while_revalidate_s: WaitSeconds
    stale_if_error_s: LongSeconds
    stale_wait_s: WaitSeconds
    confirm_shrink_s: WaitSeconds
    pause_after_failure_s: WaitSeconds
    report_ttl_s: LongSeconds
    missing_report_ttl_s: LongSeconds
    max_reports: Count
    redis_url: str

    def __post_init__(self) -> None:
        if not self.redis_url:
            return
        parts = urlsplit(self.redis_url)
        if parts.scheme not in REDIS_SCHEMES:
            raise ValueError("expected a redis, rediss or unix URL, or nothing")
        if not (parts.path if parts.scheme == "unix" else parts.hostname):
            raise ValueError("expected a URL that says where Redis is")
        if parts.query or parts.fragment:
            raise ValueError("expected a URL without options")
        _ = parts.port  # raises where it is no port


class Storage(Struct, frozen=True, kw_only=True):
    """Where events and vehicles are kept."""

    url: str
    connections: Annotated[int, Meta(ge=1, le=1_000)]
    lock_timeout_s: Seconds
    timeout_s: Seconds

    def __post_init__(self) -> None:
        scheme = self.url.partition("://")[0]
        if scheme not in STORAGE_SCHEMES:
            allowed = " or ".join(f"{each}://" for each in STORAGE_SCHEMES)
            raise ValueError(f"expected a URL that begins with {allowed}")
        try:
            url = make_url(self.url)
        except (ArgumentError, ValueError) as error:  # such as a port that is none
            raise ValueError("expected a URL of SQLAlchemy") from error
        if url.database in {None, "", ":memory:"}:
            raise ValueError("expected a URL with a file or a database")
        if "password" in url.query:
            raise ValueError("expected the password before the host")


class Events(Struct, frozen=True, kw_only=True):
    """How events are collected."""

    enabled: bool
    types_folder: str
    unknown_types: Literal["accept", "fail"]
    future_skew_s: WaitSeconds
    max_events: Count
    max_body_bytes: Bytes
    body_timeout_s: Seconds
    commit_wait_ms: Annotated[float, Meta(ge=0, le=1_000)]
    commit_max_events: Count
    max_backlog: Count
    key_ttl_s: WaitSeconds
    key_rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)]
    retention_s: LongSeconds
    retention_interval_s: Seconds


class Vehicles(Struct, frozen=True, kw_only=True):
    """How vehicles are looked up, and how long what was learnt is believed."""

    enabled: bool
    base_url: str
    ttl_s: Annotated[float, Meta(ge=0, le=315_360_000)]
    missing_ttl_s: LongSeconds
    stale_wait_s: WaitSeconds
    held_s: WaitSeconds
    max_held: Count
    requests_per_s: Annotated[float, Meta(ge=0, le=1_000_000)]
    concurrency: Count
    attempts: Annotated[int, Meta(ge=1, le=20)]
    timeout_s: Seconds
    deadline_s: Annotated[float, Meta(gt=0, le=LONGEST_LOOKUP_S)]
    max_body_bytes: Bytes
    offline: bool

    def __post_init__(self) -> None:
        _check_base_url(self.base_url)


class Logging(Struct, frozen=True, kw_only=True):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["auto", "json", "console"]
    access: bool
    steps_per_refresh: Annotated[int, Meta(ge=0, le=1_000_000)]


class Telemetry(Struct, frozen=True, kw_only=True):
    """Whether and how spans are made, and where they are sent."""

    traces: bool
    otlp_endpoint: str
    service_name: Annotated[str, Meta(min_length=1)]
    sample_rate: Share

    def __post_init__(self) -> None:
        parts = urlsplit(self.otlp_endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("otlp_endpoint: expected an http or https URL with a host")
        if self.traces and not is_installed("opentelemetry.sdk"):
            raise ValueError("traces: needs copilot-usage[otel] to be installed")


class Sandbox(Struct, frozen=True, kw_only=True):
    """The embedded upstream to run against."""

    enabled: bool
    messages: Annotated[int, Meta(ge=0, le=1_000_000)]
    reports: Annotated[int, Meta(ge=0, le=1_000_000)]
    seed: int
    latency_ms: Annotated[float, Meta(ge=0, le=60_000)]
    error_rate: Share


class Settings(Struct, frozen=True, kw_only=True):
    """All settings, by section."""

    server: Server
    limits: Limits
    upstream: Upstream
    breaker: Breaker
    usage: Usage
    cache: Cache
    storage: Storage
    events: Events
    vehicles: Vehicles
    logging: Logging
    telemetry: Telemetry
    sandbox: Sandbox

    def __post_init__(self) -> None:
        if self.usage.source == "events" and not self.events.enabled:
            raise ValueError("usage.source: events are not enabled")
        if self.vehicles.offline and not is_installed("ultravin"):
            missing = "needs copilot-usage[vin-offline] to be installed"
            raise ValueError(f"vehicles.offline: {missing}")

    @property
    def needs_storage(self) -> bool:
        """Whether anything is kept in the database."""
        return self.events.enabled or self.vehicles.enabled


class SettingsError(Exception):
    """A setting is unknown, missing or impossible; the text names it in one line."""


class Layer(NamedTuple):
    """One source of settings: `values[section][key]`, and a name to show for it."""

    origin: str
    values: Mapping[str, Mapping[str, Any]]
    is_text: bool = False


class Loaded(NamedTuple):
    """The settings in force, and for each `section.key` the origin of its value."""

    settings: Settings
    origins: dict[str, str]


def config_folder() -> Path:
    """Where the shipped TOML files are: inside the wheel, or beside the checkout."""
    installed = Path(__file__).parent / "config_files"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "config"


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Loaded:
    """Read and check all layers; `SettingsError` names the first bad setting."""
    layers = [_file_layer(config_folder() / "default.toml")]
    if file is not None:
        layers.append(_file_layer(file))
    layers.append(_environment_layer(environment or {}))
    layers.append(Layer("command line", options or {}))
    return _merge(layers)


def _check_base_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected an http or https URL with a host")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL to which paths can be appended")
    _ = parts.port  # raises where it is no port


def is_installed(module: str) -> bool:
    """Whether a module of an extra is there."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package above it
        return False


def mask_secrets(name: str, value: object) -> object:
    """The value as it may be shown: secrets, and passwords inside URLs, are hidden."""
    if not isinstance(value, str):
        return value  # a number is none, though it be key_ttl_s
    if any(word in name.rsplit(".", 1)[-1].split("_") for word in SECRET_WORDS):
        return "***"
    return PASSWORD_IN_URL.sub(r"\1:***@", value)


def _file_layer(file: Path) -> Layer:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not TOML: {error}") from error
    for section, keys in values.items():
        if not isinstance(keys, dict):
            raise SettingsError(f"{section}: unknown setting (from {file})")
    return Layer(str(file), values)


def _environment_layer(environment: Mapping[str, str]) -> Layer:
    values: dict[str, dict[str, str]] = {}
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            section, separator, key = path.partition("__")
            if not separator:
                raise SettingsError(f"{name}: unknown setting (from environment)")
            values.setdefault(section, {})[key] = value
    return Layer("environment", values, is_text=True)


def _merge(layers: list[Layer]) -> Loaded:
    merged: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for section, key, value in _checked(layer):
            merged.setdefault(section, {})[key] = value
            origins[f"{section}.{key}"] = layer.origin
    try:
        return Loaded(msgspec.convert(merged, Settings), origins)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, origins)) from error


def _checked(layer: Layer) -> Iterator[tuple[str, str, Any]]:
    """Each value of a layer with the type of its setting; unknown ones are refused."""
    sections = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for section, values in layer.values.items():
        struct = sections.get(section)
        known = (
            {f.name: f.type for f in msgspec.structs.fields(struct)} if struct else {}
        )
        for key, value in values.items():
            name = f"{section}.{key}"
            if key not in known:
                raise SettingsError(f"{name}: unknown setting (from {layer.origin})")
            yield section, key, _convert(name, value, known[key], layer)


def _convert(name: str, value: object, expected: object, layer: Layer) -> object:
    if layer.is_text and get_origin(expected) is tuple:
        value = [each.strip() for each in str(value).split(",") if each.strip()]
    try:
        return msgspec.convert(value, expected, strict=not layer.is_text)
    except msgspec.ValidationError as error:
        shown = mask_secrets(name, value)
        wanted = _choices(expected) or _sentence(error)
        reason = f"{name}: {wanted}, not {shown!r} (from {layer.origin})"
        raise SettingsError(reason) from error


def _sentence(error: msgspec.ValidationError) -> str:
    text = str(error).split(" - at ")[0].split(", got ")[0]
    return text[:1].lower() + text[1:]


def _choices(expected: object) -> str:
    """The values of a setting that has only some; empty for any other."""
    if get_origin(expected) is not Literal:
        return ""
    return "expected " + " or ".join(map(repr, get_args(expected)))


def _explain(error: msgspec.ValidationError, origins: Mapping[str, str]) -> str:
    """Name the setting behind an error of the whole, such as a missing key."""
    text = _sentence(error)
    section = str(error).partition(" - at `$.")[2].rstrip("`")
    if url := URL_SETTINGS.get(section):
        return f"{url}: {text} (from {origins.get(url, 'nowhere')})"
    # What is wrong with the whole names its setting by itself.
    return f"{section}: {text}" if section else text
