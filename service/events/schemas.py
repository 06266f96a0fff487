"""Types of events: one JSON Schema (2020-12) each, found by category and name.

A type's schema lies in `<folder>/<category>/<name>.json` and describes the event's
`data`. All are checked when the service starts.
"""

from itertools import islice
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import msgspec

from service.events.model import MAX_ERRORS, EventError
from service.settings import Events as EventSettings
from service.settings import SettingsError

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_MESSAGE_CHARS: Final = 300
MAX_PATH_CHARS: Final = 200

Type = tuple[str, str]


class EventTypes:
    """The schemas of all types that have one."""

    def __init__(
        self, validators: dict[Type, jsonschema_rs.Validator], *, refuses_unknown: bool
    ) -> None:
        self._validators = validators
        self._refuses_unknown = refuses_unknown

    def __len__(self) -> int:
        return len(self._validators)

    def check(self, category: str, name: str, data: Any) -> list[EventError]:
        """What is wrong with the data of an event of this type; mostly nothing."""
        validator = self._validators.get((category, name))
        if validator is None:
            if not self._refuses_unknown:
                return []
            known = "; ".join("/".join(each) for each in sorted(self._validators))
            message = f"known types: {known}"[:MAX_MESSAGE_CHARS]
            return [EventError("unknown_type", "/name", message)]
        try:
            if validator.is_valid(data):
                return []
            found = islice(validator.iter_errors(data), MAX_ERRORS)
            return [_event_error(error) for error in found]
        except ValueError as error:
            # It goes less deep than JSON may, and gives up on costly patterns.
            message = f"cannot be checked: {error}"[:MAX_MESSAGE_CHARS]
            return [EventError("unreadable", "/data", message)]


def load_types(settings: EventSettings, folder: Path) -> EventTypes:
    """Read and check every schema; `SettingsError` names the first bad one."""
    if not folder.is_dir():
        raise SettingsError(f"events.types_folder: {folder}: there is no such folder")
    files = sorted(folder.glob("*/*.json"))
    validators = {(file.parent.name, file.stem): _validator(file) for file in files}
    return EventTypes(validators, refuses_unknown=settings.unknown_types == "fail")


def _validator(file: Path) -> jsonschema_rs.Validator:
    try:
        schema = msgspec.json.decode(file.read_bytes())
        if isinstance(schema, dict) and schema.get("$schema", DIALECT) != DIALECT:
            raise ValueError(f"$schema: expected {DIALECT}")
        jsonschema_rs.meta.validate(schema)
        return jsonschema_rs.Draft202012Validator(
            schema, validate_formats=True, retriever=_fetch_nothing
        )
    except (OSError, msgspec.DecodeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"events.types_folder: {file}: {reason}") from error


def _fetch_nothing(uri: str) -> Any:
    """Where a schema refers to another one; it would be fetched, even from the web."""
    raise ValueError(f"{uri}: a schema may refer to itself only")


def _event_error(error: jsonschema_rs.ValidationError) -> EventError:
    path = "".join(f"/{_escape(str(part))}" for part in ("data", *error.instance_path))
    message = error.message[:MAX_MESSAGE_CHARS]
    return EventError("schema", path[:MAX_PATH_CHARS], message)


def _escape(part: str) -> str:
    """A member's name inside a JSON Pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")
