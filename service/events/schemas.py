"""Types of events: a JSON Schema (2020-12) for each category and name.

The file `<folder>/<category>/<name>.json` describes the `data` of the type's events.
All schemas are checked when the service starts, and when they are read again.
"""

import hashlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from service.events.model import MAX_ERRORS, EventError
from service.settings import EventsSettings, SettingsError, config_folder

if TYPE_CHECKING:
    import jsonschema_rs

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REVISION_BYTES: Final = 8
MAX_MESSAGE_CHARS: Final = 300
MAX_PATH_CHARS: Final = 200

TypeName = tuple[str, str]


class EventTypes:
    """The schemas of event types."""

    def __init__(
        self,
        validators: "dict[TypeName, jsonschema_rs.Validator]",
        *,
        refuses_unknown: bool,
        revision: str = "",
    ) -> None:
        self.revision = revision
        """A digest of all schemas."""
        self._validators = validators
        self._refuses_unknown = refuses_unknown

    def __len__(self) -> int:
        return len(self._validators)

    def check(self, category: str, name: str, data: Any) -> list[EventError]:
        """Return the errors of an event's data under the schema of its type."""
        validator = self._validators.get((category, name))
        if validator is None:
            return [self._unknown_type()] if self._refuses_unknown else []
        try:
            if validator.is_valid(data):
                return []
            found = islice(validator.iter_errors(data), MAX_ERRORS)
            return [_event_error(error) for error in found]
        except ValueError as error:
            # The validator limits the depth of data and the cost of patterns.
            message = f"cannot be checked: {error}"[:MAX_MESSAGE_CHARS]
            return [EventError("unreadable", "/data", message)]

    def _unknown_type(self) -> EventError:
        known = "; ".join("/".join(each) for each in sorted(self._validators))
        message = f"known types: {known}"[:MAX_MESSAGE_CHARS]
        return EventError("unknown_type", "/name", message)


def types_folder(settings: EventsSettings) -> Path:
    """Return the folder of the schemas."""
    if settings.types_folder:
        return Path(settings.types_folder)
    return config_folder() / "event_types"


def load_types(settings: EventsSettings, folder: Path) -> EventTypes:
    """Load and check every schema; raises `SettingsError` for the first invalid one."""
    if not folder.is_dir():
        raise SettingsError(f"events.types_folder: {folder}: there is no such folder")
    revision = hashlib.blake2b(digest_size=REVISION_BYTES)
    validators = {}
    for file in sorted(folder.glob("*/*.json")):
        name = file.parent.name, file.stem
        validators[name], source = _read(file)
        revision.update(msgspec.json.encode([*name, source]))
    return EventTypes(
        validators,
        refuses_unknown=settings.unknown_types == "fail",
        revision=revision.hexdigest(),
    )


def _read(file: Path) -> "tuple[jsonschema_rs.Validator, bytes]":
    import jsonschema_rs

    try:
        source = file.read_bytes()
        schema = msgspec.json.decode(source)
        if isinstance(schema, dict) and schema.get("$schema", DIALECT) != DIALECT:
            raise ValueError(f"$schema: expected {DIALECT}")
        jsonschema_rs.meta.validate(schema)
        # By default `format` is only an annotation in this dialect.
        validator = jsonschema_rs.Draft202012Validator(
            schema, validate_formats=True, retriever=_refuse_reference
        )
        return validator, source
    except (OSError, msgspec.DecodeError, RecursionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"events.types_folder: {file}: {reason}") from error


def _refuse_reference(uri: str) -> Any:
    # By default the validator would fetch other schemas, even from the web.
    raise ValueError(f"{uri}: a schema may refer to itself only")


def _event_error(error: "jsonschema_rs.ValidationError") -> EventError:
    path = "".join(f"/{_escape(str(part))}" for part in ("data", *error.instance_path))
    message = error.message[:MAX_MESSAGE_CHARS]
    return EventError("schema", path[:MAX_PATH_CHARS], message)


def _escape(part: str) -> str:
    """Escape a member's name for a JSON Pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")
