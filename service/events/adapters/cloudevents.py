"""CloudEvents 1.0 over HTTP: the binary, structured and batched content modes.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import base64
import re
from typing import Final
from urllib.parse import unquote

import msgspec
from multidict import MultiMapping

from service.events.adapters.conversion import (
    EMPTY,
    Conversion,
    Members,
    members_of,
    name_text,
    object_of,
    value_of,
)
from service.events.model import EventError
from service.events.splitting import BYTE_ORDER_MARK, NOT_JSON, read_error

FORMAT: Final = "cloudevents"
STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
MEDIA_TYPES: Final = (STRUCTURED, BATCHED)
VERSION: Final = "1.0"

_PREFIX: Final = "ce-"
_VERSION_HEADER: Final = "ce-specversion"
_JSON: Final = re.compile(r"(?:application|text)/(?:[^;\s]+\+)?json", re.IGNORECASE)
_REQUIRED: Final = ("specversion", "id", "source", "type")
_SESSIONS: Final = ("sessionid", "subject", "source")
"""Attributes that may be the session, the first one that is present."""
_NO_CONTEXT: Final = frozenset({"id", "time", "data"})


def is_binary(headers: MultiMapping[str]) -> bool:
    """Return whether a request has an event in the binary content mode."""
    return _VERSION_HEADER in headers and not is_structured(headers)


def is_structured(headers: MultiMapping[str]) -> bool:
    """Return whether a request has one or several CloudEvents in the JSON format."""
    kind = headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower() in MEDIA_TYPES


def from_binary(headers: MultiMapping[str], body: bytes) -> bytes:
    """Return the event of a request in the binary content mode, as a structured one."""
    members = {
        name[len(_PREFIX) :].lower(): msgspec.json.encode(_decoded(value))
        for name, value in headers.items()
        if name.lower().startswith(_PREFIX)
    }
    kind = headers.get("Content-Type")
    if kind is not None:
        members["datacontenttype"] = msgspec.json.encode(_text(kind))
    if body:
        is_json = kind is None or _JSON.match(kind.strip())
        name, data = _data_of(body, is_json=bool(is_json))
        members[name] = data
    return object_of(members)


def convert(item: bytes) -> Conversion | None:
    """Convert an event in the JSON format; None if `members_of` cannot read it."""
    members = members_of(item)
    if members is None:
        return None
    category, name = _names_of(members)
    session = next((each for each in _SESSIONS if each in members), "source")
    found = {
        "id": members.get("id"),
        "session_id": None if session not in members else name_text(members[session]),
        "category": category,
        "name": name,
        "timestamp": members.get("time"),
        "data": members.get("data", EMPTY),
    }
    paths = {
        "id": "/id",
        "session_id": f"/{session}",
        "category": "/type",
        "name": "/type",
        "timestamp": "/time",
        "data": "/data",
    }
    fields = {field: text for field, text in found.items() if text is not None}
    context = {key: raw for key, raw in members.items() if key not in _NO_CONTEXT}
    return Conversion(fields, paths, context, tuple(_errors_of(members)))


def _names_of(members: Members) -> tuple[bytes, bytes | None]:
    """Return category and name: the parts of a type with a slash, or the type alone."""
    own = msgspec.json.encode(FORMAT)
    kind = value_of(members.get("type"))
    if not isinstance(kind, str):
        return own, members.get("type")
    category, _, name = kind.partition("/")
    if category and name:
        return msgspec.json.encode(category), msgspec.json.encode(name)
    return own, members["type"]


def _errors_of(members: Members) -> list[EventError]:
    errors = [
        EventError("missing", f"/{name}", "this attribute is mandatory")
        for name in _REQUIRED
        if name not in members
    ]
    version = value_of(members.get("specversion"))
    if "specversion" in members and version != VERSION:
        message = f'the supported version is "{VERSION}"'
        errors.append(EventError("unsupported_version", "/specversion", message))
    if "data_base64" in members:
        message = "expected a JSON object as data, not binary data"
        errors.append(EventError("wrong_type", "/data_base64", message))
    return errors


def _data_of(body: bytes, *, is_json: bool) -> tuple[str, bytes]:
    """Return the member of the data of a binary event, and its JSON text."""
    if is_json:
        text = body.removeprefix(BYTE_ORDER_MARK)
        error = read_error(text)
        if error is None or error.code != NOT_JSON:
            return "data", text
    return "data_base64", msgspec.json.encode(base64.b64encode(body).decode())


def _decoded(value: str) -> str:
    """Return the value of a header of an attribute (§3.1.3.2 of the binding)."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return unquote(_text(value))


def _text(value: str) -> str:
    # aiohttp passes bytes that are not UTF-8 on as surrogates, which JSON has not.
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
