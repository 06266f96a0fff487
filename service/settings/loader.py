"""Reading of settings, in layers.

A later layer overrides an earlier one: default.toml, the `--config` file,
`COPILOT_USAGE_*` variables, command-line options. An unknown or invalid setting stops
the start.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec

from service.settings.model import Settings

ENVIRONMENT_PREFIX: Final = "COPILOT_USAGE_"
SECRET_WORDS: Final = ("password", "secret", "token", "key")
NAMED_SETTINGS: Final = {
    "auth": "auth.require",
    "upstream": "upstream.base_url",
    "vehicles": "vehicles.base_url",
    "cache": "cache.redis_url",
    "events": "events.cors_origins",
    "periods": "periods.length",
    "storage": "storage.url",
}
"""The setting to name in an error of a whole section."""
# Up to the last @, so that no part of a password is shown if it contains an unescaped
# @.
PASSWORD_IN_URL: Final = re.compile(r"(?<=//)([^/?#:@]*):[^\n]*@")


class SettingsError(Exception):
    """A setting is unknown, missing or invalid; the text names it in one line."""


class Layer(NamedTuple):
    """A source of settings: `values[section][key]`, and the name of the source."""

    origin: str
    values: Mapping[str, Mapping[str, Any]]
    is_text: bool = False


class LoadedSettings(NamedTuple):
    """The settings in force, and for each `section.key` the origin of its value."""

    settings: Settings
    origins: dict[str, str]


def config_folder() -> Path:
    """Return the folder of the shipped TOML files, in the wheel or the checkout."""
    installed = Path(__file__).parents[1] / "config_files"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "config"


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> LoadedSettings:
    """Read and check all layers; raises `SettingsError` for the first bad setting."""
    layers = [_file_layer(config_folder() / "default.toml")]
    if file is not None:
        layers.append(_file_layer(file))
    layers.append(_environment_layer(environment or {}))
    layers.append(Layer("command line", options or {}))
    return _merge(layers)


def mask_secrets(name: str, value: object) -> object:
    """Return a value without secrets, and without passwords in URLs."""
    if not isinstance(value, str) or not value:
        return value  # neither a number such as key_ttl_s nor an empty text is secret
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


def _merge(layers: list[Layer]) -> LoadedSettings:
    merged: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for section, key, value in _checked(layer):
            merged.setdefault(section, {})[key] = value
            origins[f"{section}.{key}"] = layer.origin
    # Each value is valid by now. This finds missing ones, and errors across settings.
    try:
        return LoadedSettings(msgspec.convert(merged, Settings), origins)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, origins)) from error


def _checked(layer: Layer) -> Iterator[tuple[str, str, Any]]:
    """Yield section, key and converted value; raises `SettingsError`."""
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
    # The environment has only text, so a list is comma-separated.
    if layer.is_text and get_origin(expected) is tuple:
        value = [each.strip() for each in str(value).split(",") if each.strip()]
    try:
        return msgspec.convert(value, expected, strict=not layer.is_text)
    except msgspec.ValidationError as error:
        # The error must not print a secret.
        shown = mask_secrets(name, value)
        expectation = _choices(expected) or _sentence(error)
        reason = f"{name}: {expectation}, not {shown!r} (from {layer.origin})"
        raise SettingsError(reason) from error


def _sentence(error: msgspec.ValidationError) -> str:
    text = str(error).split(" - at ")[0].split(", got ")[0]
    return text[:1].lower() + text[1:]


def _choices(expected: object) -> str:
    """Return the values of a `Literal` setting in words; empty for other types."""
    if get_origin(expected) is not Literal:
        return ""
    return "expected " + " or ".join(map(repr, get_args(expected)))


def _explain(error: msgspec.ValidationError, origins: Mapping[str, str]) -> str:
    """Return the text of an error of a section, such as a missing key."""
    text = _sentence(error)
    section = str(error).partition(" - at `$.")[2].rstrip("`")
    key, colon, rest = text.partition(": ")
    if colon and f"{section}.{key}" in origins:
        return f"{section}.{key}: {rest} (from {origins[f'{section}.{key}']})"
    if name := NAMED_SETTINGS.get(section):
        return f"{name}: {text} (from {origins.get(name, 'nowhere')})"
    # Errors across sections name their setting themselves.
    return f"{section}: {text}" if section else text
