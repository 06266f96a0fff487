"""Settings: defaults, layers, and errors."""

import ast
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from service.settings import SCOPES, Settings, SettingsError, config_folder, load
from service.settings.loader import mask_secrets

DEFAULTS: Final = config_folder() / "default.toml"
SERVICE: Final = Path(__file__).parent.parent / "service"
LONG: Final = "^(.{32,})?$"
KNOWN_SCOPES: Final = ", ".join(("*", *SCOPES))
DERIVED: Final = {
    "auth.require": "auth.required",
    "periods.boundary": "settings.has_calendar",
}
"""Settings that modules read by a property."""
NAMES: Final = [
    f"{section.name}.{field.name}"
    for section in msgspec.structs.fields(Settings)
    for field in msgspec.structs.fields(section.type)
]


def dotted(values: dict[str, dict[str, Any]]) -> list[str]:
    """The keys of TOML as `section.key`."""
    return [f"{section}.{key}" for section, keys in values.items() for key in keys]


def setting(settings: Settings, name: str) -> Any:
    """The value of `section.key`."""
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)


def attributes_read() -> set[str]:
    """Every attribute that the service's modules read, those of settings aside."""
    return {
        node.attr
        for file in SERVICE.rglob("*.py")
        if "settings" not in file.relative_to(SERVICE).parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


@pytest.fixture(scope="module")
def used() -> set[str]:
    """The attributes that the service reads."""
    return attributes_read()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a settings file."""
    return tmp_path / "our.toml"


def test_default_toml_holds_every_setting_and_no_other() -> None:
    """The file of defaults and the structs name the same settings in one order."""
    assert dotted(tomllib.loads(DEFAULTS.read_text(encoding="utf-8"))) == NAMES


def test_every_setting_is_explained() -> None:
    """In default.toml a comment stands directly above each key."""
    lines = DEFAULTS.read_text(encoding="utf-8").splitlines()
    keys = [at for at, line in enumerate(lines) if line[:1].isalpha()]
    assert len(keys) == len(NAMES)
    assert [lines[at] for at in keys if not lines[at - 1].startswith("# ")] == []


def test_every_setting_is_used(used: set[str]) -> None:
    """Some module reads each setting, or what is derived from it."""
    read = (DERIVED.get(name, name).split(".")[1] for name in NAMES)
    assert [name for name in read if name not in used] == []


def test_times_name_their_unit() -> None:
    """Every time has a unit in its name."""
    settings = load().settings
    for name in NAMES:
        is_duration = isinstance(setting(settings, name), float)
        is_share = name.endswith("_rate")
        has_unit = name.endswith(("_s", "_ms"))
        assert has_unit == (is_duration and not is_share), name


@pytest.mark.parametrize("shipped", ["default.toml", "production.toml"])
def test_shipped_files_load(shipped: str) -> None:
    """Every file that is shipped can be given to --config."""
    file = config_folder() / shipped
    assert str(file) in load(file).origins.values()


def test_shipped_files_are_complete() -> None:
    """No file is shipped that the test above does not load."""
    names = {file.name for file in config_folder().glob("*.toml")}
    assert names == {"default.toml", "production.toml"}


def test_later_layers_win(file: Path) -> None:
    """Options win over the environment, it over the file, the file over defaults."""
    file.write_text("[upstream]\nattempts = 2\nconcurrency = 2\nbackoff_base_s = 0.2\n")
    environment = {
        "COPILOT_USAGE_UPSTREAM__CONCURRENCY": "3",
        "COPILOT_USAGE_UPSTREAM__BACKOFF_BASE_S": "3",
    }
    loaded = load(file, environment, {"upstream": {"backoff_base_s": 0.4}})
    upstream = loaded.settings.upstream
    assert upstream.timeout_s == load().settings.upstream.timeout_s
    assert (upstream.attempts, upstream.concurrency) == (2, 3)
    assert upstream.backoff_base_s == 0.4


def test_origins_name_the_layer_that_won(file: Path) -> None:
    """Each setting's origin is the last layer that gave it."""
    file.write_text("[server]\nport = 1\nhost = 'a.test'\n")
    environment = {"COPILOT_USAGE_SERVER__PORT": "2", "PATH": "/bin"}
    origins = load(file, environment, {"sandbox": {"enabled": True}}).origins
    assert list(origins) == NAMES
    assert origins["server.host"] == str(file)
    assert origins["server.port"] == "environment"
    assert origins["sandbox.enabled"] == "command line"
    assert origins["usage.plan"] == str(DEFAULTS)


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("logging.access", "true", True),
        ("logging.access", "0", False),
        ("server.port", "0", 0),
        ("sandbox.seed", "-7", -7),
        ("upstream.timeout_s", "2", 2.0),
        ("server.host", "12", "12"),
        ("cache.redis_url", "rediss://:a@b.test/1", "rediss://:a@b.test/1"),
        ("auth.require", "usage:read, admin", ("usage:read", "admin")),
        ("auth.require", "", ()),
    ],
)
def test_environment_is_read_by_type(name: str, text: str, value: object) -> None:
    """Text of the environment is converted to the type of the setting."""
    variable = "COPILOT_USAGE_" + name.replace(".", "__").upper()
    read = setting(load(environment={variable: text}).settings, name)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "variable, text, reason",
    [
        ("X__Y", "1", "x.y: unknown setting"),
        ("SERVER__PROT", "1", "server.prot: unknown setting"),
        ("SERVER", "1", "COPILOT_USAGE_SERVER: unknown setting"),
        ("SERVER__PORT", "http", "server.port: expected `int`, not 'http'"),
        ("SERVER__PORT", "70000", "server.port: expected `int` <= 65535, not '70000'"),
        ("SERVER__HOST", "", "server.host: expected `str` of length >= 1, not ''"),
        ("LOGGING__ACCESS", "yes", "logging.access: expected `bool`, not 'yes'"),
        (
            "UPSTREAM__TIMEOUT_S",
            "nan",
            "upstream.timeout_s: expected `float` > 0.0, not 'nan'",
        ),
        (
            "AUTH__REQUIRE",
            "usage:read,billing:read",
            f"auth.require: unknown scope 'billing:read'; known: {KNOWN_SCOPES}",
        ),
        (
            "AUTH__SESSION_SECRET",
            "too short",
            rf"auth.session_secret: expected `str` matching regex '{LONG}', not '***'",
        ),
        (
            "USAGE__PLAN",
            "cheap",
            "usage.plan: expected 'text-rules' or 'token-estimate', not 'cheap'",
        ),
        (
            "UPSTREAM__BASE_URL",
            "ftp://upstream.test",
            "upstream.base_url: expected an http or https URL with a host",
        ),
        (
            "UPSTREAM__BASE_URL",
            "http://upstream.test/?a=b",
            "upstream.base_url: expected a URL to which paths can be appended",
        ),
        (
            "UPSTREAM__BASE_URL",
            "http://upstream.test:70000",
            "upstream.base_url: port out of range 0-65535",
        ),
        (
            "CACHE__REDIS_URL",
            "http://:pa55@cache.test",
            (
                "cache.redis_url: expected a redis, rediss, unix, redis+sentinel or "
                "rediss+sentinel URL, or an empty text"
            ),
        ),
        (
            "CACHE__REDIS_URL",
            "redis://",
            "cache.redis_url: expected a URL with a host, or with a path for unix",
        ),
        (
            "CACHE__REDIS_URL",
            "redis://cache.test?password=pa55",
            "cache.redis_url: expected a URL without options",
        ),
        (
            "CACHE__REDIS_URL",
            "redis+cluster://:pa55@cache.test",
            (
                "cache.redis_url: expected one server, or Sentinels (redis+sentinel): "
                "Redis Cluster is not supported"
            ),
        ),
        (
            "CACHE__REDIS_URL",
            "redis+sentinel://:pa55@a.test,b.test",
            (
                "cache.redis_url: expected the name of the master after the "
                "Sentinels, such as /mymaster"
            ),
        ),
        (
            "CACHE__REDIS_URL",
            "redis+sentinel://:pa55@a.test,,b.test/m",
            "cache.redis_url: expected Sentinels as host:port,host:port",
        ),
        (
            "CACHE__REDIS_URL",
            "redis+sentinel:///m",
            "cache.redis_url: expected Sentinels as host:port,host:port",
        ),
        (
            "CACHE__REDIS_URL",
            "redis+sentinel://a.test:70000/m",
            "cache.redis_url: port out of range 1-65535",
        ),
        (
            "CACHE__REDIS_URL",
            "redis+sentinel://a.test/m/first",
            "cache.redis_url: expected a number of a database after the master's name",
        ),
        (
            "CACHE__REDIS_URL",
            "redis+sentinel://a.test/m?password=pa55",
            "cache.redis_url: expected a URL without options",
        ),
        (
            "STORAGE__URL",
            "mysql://me:pa55@h/d",
            (
                "storage.url: expected a URL that begins with sqlite+aiosqlite:// "
                "or postgresql+asyncpg://"
            ),
        ),
        (
            "STORAGE__URL",
            "postgresql+asyncpg://me:pa55@h:port/d",
            "storage.url: expected a URL of SQLAlchemy",
        ),
        (
            "STORAGE__URL",
            "postgresql+asyncpg://h/d?password=pa55",
            "storage.url: expected the password before the host",
        ),
        *(
            (
                "STORAGE__URL",
                url,
                "storage.url: expected a URL with a file or a database",
            )
            for url in ("sqlite+aiosqlite:///:memory:", "postgresql+asyncpg://h")
        ),
    ],
)
def test_bad_environment_is_named(variable: str, text: str, reason: str) -> None:
    """An unknown or invalid setting is named with its origin."""
    with pytest.raises(SettingsError) as raised:
        load(environment={f"COPILOT_USAGE_{variable}": text})
    assert str(raised.value) == f"{reason} (from environment)"


@pytest.mark.parametrize(
    "content, reason",
    [
        ("[server]\nprot = 1", "server.prot: unknown setting"),
        ("[serve]\nport = 1", "serve.port: unknown setting"),
        ("server = 1", "server: unknown setting"),
        ("[[server]]\nport = 1", "server: unknown setting"),
        ("[server]\nport = '1'", "server.port: expected `int`, not '1'"),
        ("[logging]\naccess = 1", "logging.access: expected `bool`, not 1"),
    ],
)
def test_bad_files_are_named(content: str, reason: str, file: Path) -> None:
    """A file's bad setting is named with the file."""
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        load(file)
    assert str(raised.value) == f"{reason} (from {file})"


@pytest.mark.parametrize(
    "content, reason",
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param(b"[server", "not TOML", id="not TOML"),
        pytest.param(b"[server]\nhost = '\xff'", "cannot be read", id="not UTF-8"),
    ],
)
def test_unreadable_files_are_named(
    content: bytes | None, reason: str, file: Path
) -> None:
    """A file that cannot be read at all is named, in one line."""
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as raised:
        load(file)
    assert str(raised.value).startswith(f"{file}: {reason}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name, value, shown",
    [
        ("upstream.base_url", "http://me:pa55@up.test/a", "http://me:***@up.test/a"),
        ("upstream.base_url", "http://me@up.test", "http://me@up.test"),
        ("cache.redis_url", "redis://:pa55@a.test/0", "redis://:***@a.test/0"),
        (
            "cache.redis_url",
            "redis+sentinel://me:pa55@[::1]:1,b.test/m",
            "redis+sentinel://me:***@[::1]:1,b.test/m",
        ),
        ("cache.sentinel_password", "pa55", "***"),
        ("upstream.base_url", "http://[::1", "http://[::1"),
        ("events.api_key", "pa55", "***"),
        ("auth.session_secret", "pa55", "***"),
        ("auth.session_secret", "", ""),
        ("cache.max_keys", 5, 5),
        ("storage.url", "sqlite+aiosqlite:///a@b.db", "sqlite+aiosqlite:///a@b.db"),
        (
            "storage.url",
            "postgresql+asyncpg://me:p/a#5@5@h/d",
            "postgresql+asyncpg://me:***@h/d",
        ),
    ],
)
def test_secrets_are_masked(name: str, value: object, shown: object) -> None:
    """Secrets, and passwords in URLs, are hidden; all else is shown as it is."""
    assert mask_secrets(name, value) == shown


def test_errors_contain_no_secrets() -> None:
    """An invalid URL is shown without its password."""
    with pytest.raises(SettingsError) as raised:
        load(environment={"COPILOT_USAGE_SERVER__PORT": "http://me:pa55@up.test"})
    assert str(raised.value) == (
        "server.port: expected `int`, not 'http://me:***@up.test' (from environment)"
    )


@pytest.mark.parametrize(
    "password", ["pa55/1", "pa55[1", "pa55]1", "℀pa55", "[::pa55]"]
)
@pytest.mark.parametrize(
    "setting, scheme",
    [
        ("upstream.base_url", "http"),
        ("vehicles.base_url", "https"),
        ("server.public_url", "https"),
        ("cache.redis_url", "redis"),
        ("telemetry.otlp_endpoint", "http"),
        ("events.queue_url", "nats"),
    ],
)
def test_an_error_of_a_url_does_not_quote_it(
    setting: str, scheme: str, password: str
) -> None:
    """Characters that end the host early make no part of a password public."""
    section, key = setting.split(".")
    options = {section: {key: f"{scheme}://me:{password}@up.test:80"}}
    with pytest.raises(SettingsError, match=rf"^{setting}: ") as raised:
        load(options=options)
    assert "pa55" not in str(raised.value)


def test_a_comma_ends_a_url_of_the_queue() -> None:
    """Also within a password, of which the error shows nothing."""
    options = {"events": {"queue_url": "nats://me:pa55,1@up.test"}}
    with pytest.raises(
        SettingsError, match="a password cannot have any of ,"
    ) as raised:
        load(options=options)
    assert "pa55" not in str(raised.value)


@pytest.mark.parametrize(
    "options, reason",
    [
        (
            {"breaker": {"minimum_calls": 9, "window_calls": 8}},
            "breaker: minimum_calls is larger than window_calls",
        ),
        (
            {"usage": {"source": "events"}, "events": {"enabled": False}},
            "usage.source: events are not enabled",
        ),
        (
            {"server": {"drain_s": 5.0, "shutdown_grace_s": 5.0}},
            "server: drain_s (5) is not within shutdown_grace_s (5)",
        ),
        (
            {"upstream": {"timeout_s": 9.5, "deadline_s": 9.0}},
            "upstream.timeout_s (9.5) is above upstream.deadline_s (9)",
        ),
        (
            {"vehicles": {"deadline_s": 1.0}},
            "vehicles.timeout_s (15) is above vehicles.deadline_s (1)",
        ),
        (
            {"cache": {"sentinel_password": "pa55", "redis_url": "redis://a.test"}},
            ("cache.sentinel_password: needs a redis+sentinel URL as cache.redis_url"),
        ),
        (
            {
                "cache": {
                    "sentinel_username": "me",
                    "redis_url": "redis+sentinel://a.test/m",
                }
            },
            "cache.sentinel_username: needs cache.sentinel_password",
        ),
    ],
)
def test_settings_that_contradict_each_other(
    options: dict[str, dict[str, object]], reason: str
) -> None:
    """Values that contradict each other are named together."""
    with pytest.raises(SettingsError) as raised:
        load(options=options)
    assert str(raised.value) == reason
