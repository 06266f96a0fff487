"""Validation of events field by field, and invalid events as failures.

The parser calls this module only for an event that it cannot decode at once, because
naming every error costs many times what decoding a valid event costs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from service.events.model import (
    MAX_DATA_BYTES,
    MAX_ERRORS,
    OURS,
    Event,
    EventError,
    EventFailure,
    Name,
    Origin,
)
from service.events.splitting import NOT_JSON, read_error, split_object
from service.instants import read_instant

DIGEST_BYTES: Final = 16
MAX_PATH_CHARS: Final = 200

NUL: Final = "\0"

_NAMES: Final = ("session_id", "category", "name", "id")
_REQUIRED: Final = ("session_id", "category", "name", "data", "timestamp")
_KNOWN: Final = frozenset({*_NAMES, *_REQUIRED})
_PARSED: Final = _KNOWN - {"data"}

_objects: Final = msgspec.json.Decoder(dict[str, Raw])
_values: Final = msgspec.json.Decoder()


def parse_timestamp(timestamp: str) -> int:
    """Return a timestamp in microseconds since 1970.

    Raises `ValueError` or `OverflowError` for any other text than an ISO 8601 date and
    time.
    """
    # The standard library also accepts dates without a time, and any separator.
    if not ("T" in timestamp or " " in timestamp or "t" in timestamp):
        raise ValueError("expected a date and a time")
    return read_instant(timestamp)


def failure_of(
    source: bytes,
    application: str,
    errors: Sequence[EventError],
    digest: bytes | None = None,
    *,
    origin: Origin = OURS,
) -> EventFailure:
    """Return an invalid event with its errors and the fields that can be parsed.

    The digest is that of its content; it is kept if the event has no own id.
    """
    fields = _parse_fields(source) or {}
    return EventFailure(
        id=_failure_id(source, application, origin),
        application=application,
        event=_storable(source),
        errors=tuple(errors),
        event_id=_name_or_none(fields.get("id")),
        session_id=_name_or_none(fields.get("session_id")),
        category=_name_or_none(fields.get("category")),
        name=_name_or_none(fields.get("name")),
        at=_instant_or_none(fields.get("timestamp")),
        digest=None if "id" in fields else digest,
        origin=origin,
    )


def context_errors(context: bytes) -> list[EventError]:
    """Return the errors of what a stock client has sent besides an envelope."""
    if len(context) > MAX_DATA_BYTES:
        message = f"{len(context)} bytes besides the data; {MAX_DATA_BYTES} are allowed"
        return [EventError("data_too_large", "", message)]
    error = read_error(context)
    return [] if error is None else [error]


def failed_item(
    item: bytes,
    text: bytes,
    application: str,
    errors: tuple[EventError, ...],
    origin: Origin,
) -> EventFailure:
    """Return the failure of an item, with the fields of its envelope."""
    sent = failure_of(item, application, errors[:MAX_ERRORS], origin=origin)
    named = failure_of(text, application, sent.errors)
    return replace(named, id=sent.id, event=sent.event, origin=origin)


def conflict_of(event: Event) -> EventFailure:
    """Return the failure of an event whose id belongs to other content."""
    error = EventError("conflict", "/id", "another event has this id")
    source = event.read_text()
    return EventFailure(
        id=_failure_id(source, event.application, event.origin),
        application=event.application,
        event=source.decode(),
        errors=(error,),
        event_id=event.id,
        session_id=event.session_id,
        category=event.category,
        name=event.name,
        at=event.at,
        origin=event.origin,
    )


def find_errors(source: bytes) -> list[EventError]:
    """Return the errors of an event's envelope, at most `MAX_ERRORS`.

    The list is empty for a valid envelope.
    """
    error = read_error(source)
    if error is not None and error.code == NOT_JSON:
        return [error]
    fields = _parse_fields(source)
    if fields is None:
        return [error or EventError("wrong_type", "", "expected an object")]
    unknown = (name for name in fields if name not in _KNOWN)
    errors = [
        EventError("unknown_field", _pointer(name), "the envelope has no such field")
        for name in islice(unknown, MAX_ERRORS)
    ]
    errors += [
        EventError("missing", f"/{name}", "this field is mandatory")
        for name in _REQUIRED
        if name not in fields
    ]
    checks = {**dict.fromkeys(_NAMES, _name_errors), "data": _data_errors}
    checks["timestamp"] = _timestamp_errors
    for name, check in checks.items():
        if name in fields:
            errors += check(f"/{name}", fields[name])
    if error is not None and not errors:
        return [error]
    return errors[:MAX_ERRORS]


def compacted(data: bytes) -> bytes:
    """Return valid JSON without the white space between its values."""
    return msgspec.json.format(data, indent=-1)


def _failure_id(source: bytes, application: str, origin: Origin) -> str:
    content = application.encode() + NUL.encode() + source
    # The same text in another format has another meaning.
    person = (origin.format or "").encode()
    digest = hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=person)
    return digest.hexdigest()


def _storable(source: bytes) -> str:
    """Return the text of an event: bytes that no database stores become `\\xff`."""
    text = source.decode(errors="backslashreplace")
    return text.replace(NUL, r"\x00")


def _parse_fields(source: bytes) -> dict[str, Any] | None:
    """Return the members of an event; None if it is no object.

    `data` and unknown members stay raw JSON, since a body may have any number of the
    latter. Another member that cannot be read is an `EventError`.
    """
    members: Mapping[str, Any] | None
    try:
        members = _objects.decode(source)
    except (ValueError, RecursionError):
        members = split_object(source)
    if members is None:
        return None
    return {
        name: _parse_value(name, raw) if name in _PARSED else raw
        for name, raw in members.items()
    }


def _parse_value(name: str, raw: Any) -> Any:
    return read_error(bytes(raw), _pointer(name)) or _values.decode(raw)


def _name_errors(path: str, value: Any) -> list[EventError]:
    if isinstance(value, EventError):
        return [value]
    if not isinstance(value, str):
        return [EventError("wrong_type", path, "expected a string")]
    try:
        msgspec.convert(value, Name)
    except msgspec.ValidationError as error:
        return [EventError("wrong_length", path, str(error))]
    return _nul_errors(path, value)


def _timestamp_errors(path: str, value: Any) -> list[EventError]:
    if isinstance(value, EventError):
        return [value]
    if not isinstance(value, str):
        return [EventError("wrong_type", path, "expected a string")]
    if NUL in value:
        return _nul_errors(path, value)
    if _instant_or_none(value) is None:
        message = "expected an ISO 8601 date and time"
        return [EventError("unreadable_timestamp", path, message)]
    return []


def _data_errors(path: str, raw: Raw | bytes) -> list[EventError]:
    data = bytes(raw)
    if error := read_error(data, path):
        return [error]
    if len(data) > MAX_DATA_BYTES and (size := len(compacted(data))) > MAX_DATA_BYTES:
        message = f"{size} bytes without white space; {MAX_DATA_BYTES} are allowed"
        return [EventError("data_too_large", path, message)]
    if not data.startswith(b"{"):
        return [EventError("wrong_type", path, "expected an object")]
    return []


def _nul_errors(path: str, value: str) -> list[EventError]:
    if NUL not in value:
        return []
    # PostgreSQL has no NUL in text; SQLite has to give the same answer.
    return [EventError("nul_character", path, "the NUL character cannot be stored")]


def _pointer(name: str) -> str:
    """Return the JSON Pointer (RFC 6901) of a member, cut to `MAX_PATH_CHARS`."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"/{escaped}"[:MAX_PATH_CHARS]


def _name_or_none(value: Any) -> str | None:
    """Return a valid name; a filter can match no other value."""
    return value if isinstance(value, str) and not _name_errors("", value) else None


def _instant_or_none(value: Any) -> int | None:
    try:
        return parse_timestamp(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
