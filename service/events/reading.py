"""From a request's body to events and failures; nothing is dropped on the way.

A body is split into its events first; each is then read by itself, so that one which
breaks its contract is kept as a failure and stops no other. Nearly all keep it: only
where one may not, is it looked at field by field.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from service.events.errors import NotJson, TooManyEvents
from service.events.model import (
    MAX_DATA_BYTES,
    MAX_ERRORS,
    Envelope,
    Event,
    EventError,
    Failure,
    Name,
)
from service.events.schemas import EventTypes
from service.instants import US_PER_S, now_us, read_instant

NDJSON: Final = "application/x-ndjson"
KEY_BYTES: Final = 16
DIGEST_BYTES: Final = 16
MAX_PATH_CHARS: Final = 200

_NAMES: Final = ("session_id", "category", "name", "id")
_REQUIRED: Final = ("session_id", "category", "name", "data", "timestamp")
_KNOWN: Final = frozenset({*_NAMES, *_REQUIRED})
_NUL: Final = "\0"
_ESCAPED_NUL: Final = rb"\u0000"
"""JSON has no other way to write it."""
_UNREADABLE: Final = object()

_envelopes: Final = msgspec.json.Decoder(Envelope)
_lists: Final = msgspec.json.Decoder(list[Raw])
_items: Final = msgspec.json.Decoder(Raw)
_objects: Final = msgspec.json.Decoder(dict[str, Raw])
_values: Final = msgspec.json.Decoder()
_canonical: Final = msgspec.json.Encoder(order="sorted")


def split_body(body: bytes, content_type: str, most: int) -> list[bytes]:
    """The events of a body, each as its own JSON text.

    Raises `NotJson`, and `TooManyEvents` where there are more than `most`.
    """
    try:
        body.decode()  # Only to check: msgspec passes over what it does not decode.
        if content_type == NDJSON:
            lines = [line for line in body.split(b"\n") if line.strip()]
            _refuse_beyond(most, len(lines))
            return [bytes(_items.decode(line)) for line in lines]
        if not body.lstrip().startswith(b"["):
            return [bytes(_items.decode(body))]
        raws = _lists.decode(body)
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise NotJson(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise NotJson("the body is nested too deeply") from None
    _refuse_beyond(most, len(raws))
    return [bytes(raw) for raw in raws]


class EventReader:
    """Reads single events by their contract: the envelope, the type's schema, time."""

    def __init__(
        self,
        types: EventTypes,
        future_skew_s: float,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._types = types
        self._skew_us = int(future_skew_s * US_PER_S)
        self._clock = clock

    def read(self, source: bytes, application: str) -> Event | Failure:
        """An event's JSON text as an event, or as a failure that says what is wrong."""
        try:
            envelope = _envelopes.decode(source)
            at = _read_timestamp(envelope.timestamp)
            data = bytes(envelope.data)
            value = _values.decode(data)
            digest = _digest_of(envelope, value)
        except (ValueError, OverflowError, RecursionError):
            errors = _examine(source)
            return _fail(source, application, errors or [_not_as_documented()])
        if (
            not isinstance(value, dict)
            or len(data) > MAX_DATA_BYTES
            or (b"\\" in source and _ESCAPED_NUL in source)
        ) and (errors := _examine(source)):
            return _fail(source, application, errors)
        if at > self._clock() + self._skew_us:
            return _fail(source, application, [self._too_early()])
        if errors := self._types.check(envelope.category, envelope.name, value):
            return _fail(source, application, errors)
        event_id = digest.hex() if envelope.id is UNSET else envelope.id
        # By position, in the order of `Event`: it takes half the time.
        return Event(
            key_of(application, event_id),
            application,
            event_id,
            digest,
            envelope.session_id,
            envelope.category,
            envelope.name,
            at,
            envelope.timestamp,
            data.decode(),
            source,
        )

    def _too_early(self) -> EventError:
        allowed_s = self._skew_us / US_PER_S
        message = f"more than {allowed_s:g} s ahead of the service's clock"
        return EventError("future_timestamp", "/timestamp", message)


def conflict_of(event: Event) -> Failure:
    """An event whose id is taken by another content, as a failure."""
    error = EventError("conflict", "/id", "another event has this id")
    return _fail(event.source, event.application, [error])


def key_of(application: str, event_id: str) -> bytes:
    """What stands for an event in the database: no two of one application share it."""
    text = f"{application}{_NUL}{event_id}".encode()
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def _digest_of(envelope: Envelope, value: Any) -> bytes:
    """Says whether the content is the same: values count, not how they are laid out.

    So members may come in any order. A number counts as it is read: 1 and 1.0 differ,
    as an integer and a float do; 1.0 and 1.00 do not.
    """
    content = (
        envelope.session_id,
        envelope.category,
        envelope.name,
        envelope.timestamp,
        value,
    )
    text = _canonical.encode(content)
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


def _read_timestamp(timestamp: str) -> int:
    # The standard library takes dates without a time too, and any character between.
    if "T" not in timestamp and " " not in timestamp:
        raise ValueError("expected a date and a time")
    return read_instant(timestamp)


# --- events that break their contract -----------------------------------------------


def _fail(source: bytes, application: str, errors: Sequence[EventError]) -> Failure:
    fields = _fields_of(source) or {}
    return Failure(
        id=_failure_id(source, application),
        application=application,
        event=source.decode(),
        errors=tuple(errors),
        event_id=_name_or_none(fields.get("id")),
        session_id=_name_or_none(fields.get("session_id")),
        category=_name_or_none(fields.get("category")),
        name=_name_or_none(fields.get("name")),
        at=_instant_or_none(fields.get("timestamp")),
    )


def _failure_id(source: bytes, application: str) -> str:
    content = application.encode() + _NUL.encode() + source
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _examine(source: bytes) -> list[EventError]:
    """What is wrong with an event's envelope, field by field."""
    fields = _fields_of(source)
    if fields is None:
        return [EventError("wrong_type", "", "expected an object")]
    errors = [
        EventError("unknown_field", _pointer(name), "the envelope has no such field")
        for name in fields
        if name not in _KNOWN
    ]
    errors += [
        EventError("missing", f"/{name}", "this field is mandatory")
        for name in _REQUIRED
        if name not in fields
    ]
    checks = {**dict.fromkeys(_NAMES, _name_errors), "data": _data_errors}
    checks["timestamp"] = _timestamp_errors
    for name, errors_of in checks.items():
        if name in fields:
            errors += errors_of(f"/{name}", fields[name])
    return errors[:MAX_ERRORS]


def _fields_of(source: bytes) -> dict[str, Any] | None:
    """The members of an event as they can be read, or nothing if it is no object.

    `data` stays as it was sent.
    """
    try:
        members = _objects.decode(source)
    except (ValueError, RecursionError):
        return None
    return {
        name: raw if name == "data" else _value_of(raw) for name, raw in members.items()
    }


def _value_of(raw: Raw) -> Any:
    try:
        return _values.decode(raw)
    except (ValueError, RecursionError):
        return _UNREADABLE


def _name_errors(path: str, value: Any) -> list[EventError]:
    if not isinstance(value, str):
        return [EventError("wrong_type", path, "expected a string")]
    try:
        msgspec.convert(value, Name)
    except msgspec.ValidationError as error:
        return [EventError("wrong_length", path, str(error))]
    return _nul_errors(path, value)


def _timestamp_errors(path: str, value: Any) -> list[EventError]:
    if not isinstance(value, str):
        return [EventError("wrong_type", path, "expected a string")]
    if _NUL in value:
        return _nul_errors(path, value)
    if _instant_or_none(value) is None:
        message = "expected an ISO 8601 date and time"
        return [EventError("unreadable_timestamp", path, message)]
    return []


def _data_errors(path: str, raw: Raw) -> list[EventError]:
    size = len(bytes(raw))
    if size > MAX_DATA_BYTES:
        message = f"{size} bytes; {MAX_DATA_BYTES} are allowed"
        return [EventError("data_too_large", path, message)]
    value = _value_of(raw)
    if value is _UNREADABLE:
        message = "a number too large, or nested too deeply"
        return [EventError("unreadable", path, message)]
    if not isinstance(value, dict):
        return [EventError("wrong_type", path, "expected an object")]
    return []


def _nul_errors(path: str, value: str) -> list[EventError]:
    if _NUL not in value:
        return []
    return [EventError("nul_character", path, "the NUL character cannot be stored")]


def _not_as_documented() -> EventError:
    return EventError("unreadable", "", "nested too deeply")


def _pointer(name: str) -> str:
    """Where a member of an event is, as a JSON Pointer (RFC 6901), if it is short."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"/{escaped}"[:MAX_PATH_CHARS]


def _name_or_none(value: Any) -> str | None:
    """What can be asked for; any other value is in the event itself."""
    return value if isinstance(value, str) and not _name_errors("", value) else None


def _instant_or_none(value: Any) -> int | None:
    try:
        return _read_timestamp(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def _refuse_beyond(most: int, number: int) -> None:
    if number > most:
        raise TooManyEvents(f"{number} events; {most} are allowed in one request")
