"""Event types: loading of schemas, and the errors of data."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.events.model import MAX_ERRORS
from service.events.schemas import (
    MAX_MESSAGE_CHARS,
    MAX_PATH_CHARS,
    EventTypes,
    load_types,
)
from service.settings import SettingsError, config_folder
from tests.conftest import MakeSettings

PAGE = {"host": "www.example.com", "path": "/"}


@pytest.fixture
def load_schema(tmp_path: Path, settings: MakeSettings) -> Any:
    """Load types with this schema for the type a/b."""

    def load(schema: object, **events: Any) -> EventTypes:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        file = tmp_path / "a" / "b.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8", errors="surrogateescape")
        return load_types(settings(events=events).events, tmp_path)

    return load


@pytest.mark.parametrize(
    "category, name, data",
    [
        ("page interaction", "pageview", PAGE),
        ("page interaction", "cta click", PAGE | {"element": "chat bubble"}),
        ("form interaction", "submit", PAGE | {"form": {"first_name": "John"}}),
        ("copilot", "message", {"text": "Rent?"}),
        ("copilot", "message", {"text": "", "report_id": 5392}),
    ],
)
def test_shipped_types_accept_documented_events(
    types: EventTypes, category: str, name: str, data: dict[str, Any]
) -> None:
    """Each type accepts its data and further members, and requires its first member."""
    assert types.check(category, name, data) == []
    assert types.check(category, name, data | {"more": {}}) == []
    (first, *_) = data
    without = {key: data[key] for key in data if key != first}
    (error,) = types.check(category, name, without)
    assert (error.code, error.path) == ("schema", "/data")
    assert f'"{first}" is a required property' in error.message


def test_all_shipped_types_are_loaded(types: EventTypes) -> None:
    """Every file is a type."""
    files = list((config_folder() / "event_types").rglob("*.json"))

    assert len(types) == len(files) == 4


def test_unknown_types_may_fail(load_schema: Any) -> None:
    """With `unknown_types = "fail"` the error lists the known types."""
    types = load_schema({"type": "object"}, unknown_types="fail")

    (error,) = types.check("a", "other", {})

    assert (error.code, error.path) == ("unknown_type", "/name")
    assert error.message == "known types: a/b"
    assert types.check("a", "b", {}) == []


@pytest.mark.parametrize(
    "schema, reason",
    [
        pytest.param("{", "Input data was truncated", id="no JSON"),
        pytest.param({"type": "text"}, '"text" is not valid', id="no such type"),
        pytest.param({"pattern": "("}, "is not a", id="bad pattern"),
        pytest.param({"$ref": "#/$defs/none"}, "does not exist", id="nowhere"),
        pytest.param(
            {"$ref": "http://127.0.0.1:9/s"}, "may refer to itself only", id="web"
        ),
        pytest.param(
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            "expected https://json-schema.org/draft/2020-12/schema",
            id="another dialect",
        ),
    ],
)
def test_a_bad_schema_is_named(load_schema: Any, schema: object, reason: str) -> None:
    """The service does not start; one line names the file and the reason."""
    with pytest.raises(SettingsError) as raised:
        load_schema(schema)

    (line,) = str(raised.value).splitlines()
    assert line.startswith("events.types_folder: ")
    assert str(Path("a") / "b.json") in line
    assert reason in line


def test_a_missing_folder_is_named(settings: MakeSettings, tmp_path: Path) -> None:
    """A missing folder is an error."""
    with pytest.raises(SettingsError, match="there is no such folder"):
        load_types(settings().events, tmp_path / "none")


def test_errors_are_bounded(load_schema: Any) -> None:
    """Number, path and message of errors have maximum lengths."""
    types = load_schema({"additionalProperties": {"type": "string", "maxLength": 1}})
    data: dict[str, Any] = {f"{number}" * 1_000: number for number in range(2_000)}

    errors = types.check("a", "b", data)

    assert len(errors) == MAX_ERRORS
    assert max(len(error.path) for error in errors) == MAX_PATH_CHARS
    (error,) = types.check("a", "b", {"a": "x" * 10_000})
    assert len(error.message) == MAX_MESSAGE_CHARS


def test_paths_are_json_pointers(load_schema: Any) -> None:
    """Members are escaped by RFC 6901; items have their index."""
    types = load_schema({"properties": {"a/b~": {"items": {"type": "string"}}}})

    (error,) = types.check("a", "b", {"a/b~": ["", 5]})

    assert error.path == "/data/a~1b~0/1"
    assert error.message == '5 is not of type "string"'


def test_formats_are_checked(load_schema: Any) -> None:
    """`format` is validated."""
    types = load_schema({"properties": {"when": {"format": "date-time"}}})

    assert types.check("a", "b", {"when": "2024-04-29T02:08:29Z"}) == []
    assert types.check("a", "b", {"when": "soon"})


def test_data_that_is_too_deep_fails(load_schema: Any) -> None:
    """Data deeper than the validator allows is an error, not an exception."""
    types = load_schema({"required": ["host"]})
    deep: Any = {}
    for _ in range(500):
        deep = {"a": deep}

    (error,) = types.check("a", "b", deep)

    assert (error.code, error.path) == ("unreadable", "/data")
    assert "cannot be checked" in error.message
