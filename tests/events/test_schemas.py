"""Types of events: their schemas are found and checked, and say what is wrong."""

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
    """Loads types of which one, a/b, has this text as its schema."""

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
def test_shipped_types_take_what_is_documented(
    types: EventTypes, category: str, name: str, data: dict[str, Any]
) -> None:
    """Each takes its events, with more members too, and none without its first."""
    assert types.check(category, name, data) == []
    assert types.check(category, name, data | {"more": {}}) == []
    (first, *_) = data
    without = {key: data[key] for key in data if key != first}
    (error,) = types.check(category, name, without)
    assert (error.code, error.path) == ("schema", "/data")
    assert f'"{first}" is a required property' in error.message


def test_all_shipped_types_are_loaded(types: EventTypes) -> None:
    """There are as many types as files."""
    files = list((config_folder() / "event_types").rglob("*.json"))

    assert len(types) == len(files) == 4


def test_unknown_types_are_accepted(load_schema: Any) -> None:
    """As shipped, a type without a schema has only the envelope to keep."""
    types = load_schema({"type": "object"})

    assert types.check("a", "other", {"any": 1}) == []


def test_unknown_types_may_fail(load_schema: Any) -> None:
    """Where they should not be, the error lists those that are known."""
    types = load_schema({"type": "object"}, unknown_types="fail")

    (error,) = types.check("a", "other", {})

    assert (error.code, error.path) == ("unknown_type", "/name")
    assert error.message == "known types: a/b"
    assert types.check("a", "b", {}) == []


@pytest.mark.parametrize(
    "schema, reason",
    [
        pytest.param("{", "Input data was truncated", id="no JSON"),
        pytest.param("\udcff", "JSON is malformed", id="not UTF-8"),
        pytest.param({"type": "text"}, '"text" is not valid', id="no such type"),
        pytest.param({"pattern": "("}, "is not a", id="bad pattern"),
        pytest.param({"$ref": "#/$defs/none"}, "does not exist", id="nowhere"),
        pytest.param(
            {"$ref": "http://127.0.0.1:9/s"}, "may refer to itself only", id="web"
        ),
        pytest.param(
            {"$ref": "file:///etc/hostname"}, "may refer to itself only", id="file"
        ),
        pytest.param(
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            "expected https://json-schema.org/draft/2020-12/schema",
            id="another dialect",
        ),
        pytest.param([], "is not of types", id="list"),
    ],
)
def test_a_bad_schema_is_named(load_schema: Any, schema: object, reason: str) -> None:
    """The service does not start on it: one line says which file, and why."""
    with pytest.raises(SettingsError) as raised:
        load_schema(schema)

    (line,) = str(raised.value).splitlines()
    assert line.startswith("events.types_folder: ")
    assert str(Path("a") / "b.json") in line
    assert reason in line


def test_a_missing_folder_is_named(settings: MakeSettings, tmp_path: Path) -> None:
    """A folder that is not there is a mistake, and not a service without types."""
    with pytest.raises(SettingsError, match="there is no such folder"):
        load_types(settings().events, tmp_path / "none")


def test_a_file_that_cannot_be_read_is_named(
    settings: MakeSettings, tmp_path: Path
) -> None:
    """A folder in a schema's place is told as any other bad schema."""
    (tmp_path / "a" / "b.json").mkdir(parents=True)

    with pytest.raises(SettingsError, match=r"b\.json.*directory"):
        load_types(settings().events, tmp_path)


def test_errors_are_bounded(load_schema: Any) -> None:
    """However much is wrong, what is kept and answered of it stays small."""
    types = load_schema({"additionalProperties": {"type": "string", "maxLength": 1}})
    data: dict[str, Any] = {f"{number}" * 1_000: number for number in range(2_000)}

    errors = types.check("a", "b", data)

    assert len(errors) == MAX_ERRORS
    assert max(len(error.path) for error in errors) == MAX_PATH_CHARS
    (error,) = types.check("a", "b", {"a": "x" * 10_000})
    assert len(error.message) == MAX_MESSAGE_CHARS


def test_ten_thousand_keys_are_checked(load_schema: Any) -> None:
    """All members count, and the one that is wrong is found."""
    types = load_schema({"additionalProperties": {"type": "integer"}})
    data: dict[str, Any] = {f"{number}": number for number in range(10_000)}

    assert types.check("a", "b", data) == []
    (error,) = types.check("a", "b", data | {"9999": None})
    assert (error.code, error.path) == ("schema", "/data/9999")


def test_paths_are_json_pointers(load_schema: Any) -> None:
    """Members are escaped as RFC 6901 says; items are counted."""
    types = load_schema({"properties": {"a/b~": {"items": {"type": "string"}}}})

    (error,) = types.check("a", "b", {"a/b~": ["", 5]})

    assert error.path == "/data/a~1b~0/1"
    assert error.message == '5 is not of type "string"'


def test_formats_are_checked(load_schema: Any) -> None:
    """`format` is a promise here, and no mere note."""
    types = load_schema({"properties": {"when": {"format": "date-time"}}})

    assert types.check("a", "b", {"when": "2024-04-29T02:08:29Z"}) == []
    assert types.check("a", "b", {"when": "soon"})


def test_data_deeper_than_a_schema_goes_fails(load_schema: Any) -> None:
    """What is nested deeper than the checker goes is an error, and no exception."""
    types = load_schema({"required": ["host"]})
    deep: Any = {}
    for _ in range(500):
        deep = {"a": deep}

    (error,) = types.check("a", "b", deep)

    assert (error.code, error.path) == ("unreadable", "/data")
    assert "cannot be checked" in error.message
