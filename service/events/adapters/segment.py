"""Segment's HTTP API, which RudderStack's clients use, too: single calls and batches.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from typing import Final, NamedTuple

import msgspec

from service.events.adapters.conversion import (
    EMPTY,
    Conversion,
    Members,
    members_of,
    name_text,
    object_of,
    value_of,
)
from service.events.errors import NotJson, TooManyEvents
from service.events.model import EventError
from service.events.splitting import read_error, split_list

FORMAT: Final = "segment"
DATA: Final = {
    "track": "properties",
    "page": "properties",
    "screen": "properties",
    "identify": "traits",
    "group": "traits",
    "alias": "traits",
}
"""The member with the data of each type of call."""
NAMES: Final = {"track": "event", "page": "name", "screen": "name"}
"""The member with the name of a call; others are named by their type."""
SHARED: Final[tuple[str, ...]] = ("context", "integrations")
"""Members that a batch may have for all of its calls."""

_SESSIONS: Final = ("anonymousId", "userId", "previousId")
_TIMES: Final = ("originalTimestamp", "timestamp")
# They are other ones in each attempt, or a credential.
_DROPPED: Final = frozenset({"sentAt", "writeKey"})


class Calls(NamedTuple):
    """The calls of a request, each as a JSON text, and the time of the sender."""

    items: list[bytes]
    sent_at: object


def split_batch(body: bytes, max_events: int, max_bytes: int) -> Calls:
    """Return the calls of a batch; raises `NotJson` and `TooManyEvents`.

    `max_bytes` bounds the calls with the members that they share, which are copied.
    """
    members = _members_of(body)
    batch = split_list(members.get("batch", b""))
    if batch is None:
        raise NotJson("the body has no list `batch`")
    if len(batch) > max_events:
        raise TooManyEvents(f"{len(batch)} events; {max_events} are allowed")
    shared = {name: members[name] for name in SHARED if name in members}
    items, size = [], 0
    for each in batch:
        items.append(_with_shared(each, shared))
        size += len(items[-1])
        if shared and size > max_bytes:
            shares = " and ".join(shared)
            raise TooManyEvents(f"over {max_bytes} bytes, with {shares} in each call")
    return Calls(items, value_of(members.get("sentAt")))


def split_call(body: bytes, kind: str) -> Calls:
    """Return the call of a request, whose path has its type; raises `NotJson`."""
    members = _members_of(body)
    sent_at = value_of(members.get("sentAt"))
    if members_of(body) is None:
        return Calls([body], sent_at)  # it becomes a failed event as it is
    item = _item({**members, "type": msgspec.json.encode(kind)})
    return Calls([item], sent_at)


def convert(item: bytes) -> Conversion | None:
    """Convert a call; None if `members_of` cannot read it."""
    members = members_of(item)
    if members is None:
        return None
    kind = value_of(members.get("type"))
    errors: tuple[EventError, ...] = ()
    if not isinstance(kind, str) or kind not in DATA:
        errors = (EventError("unknown_type", "/type", f"expected {', '.join(DATA)}"),)
        kind = "track"
    data, name = DATA[kind], NAMES.get(kind, "type")
    session_path, session = _session_of(members)
    time = next((each for each in _TIMES if each in members), _TIMES[-1])
    # A page without a name is named by its type; a tracked event must have one.
    named = name if name in members or kind == "track" else "type"
    found = {
        "id": members.get("messageId"),
        "session_id": session,
        "category": msgspec.json.encode(kind),
        "name": members.get(named),
        "timestamp": members.get(time),
        "data": members.get(data, EMPTY),
    }
    paths = {
        "id": "/messageId",
        "session_id": session_path,
        "category": "/type",
        "name": f"/{named}",
        "timestamp": f"/{time}",
        "data": f"/{data}",
    }
    fields = {field: text for field, text in found.items() if text is not None}
    if "id" in fields:
        fields["id"] = name_text(fields["id"])
    used = {"messageId", time, data, *({named} - {"type"}), *_DROPPED}
    context = {key: raw for key, raw in members.items() if key not in used}
    return Conversion(fields, paths, context, errors)


def _session_of(members: Members) -> tuple[str, bytes | None]:
    """Return the path and the text of the session, or of the user without one."""
    context = members_of(members.get("context", EMPTY)) or {}
    if "sessionId" in context:
        return "/context/sessionId", name_text(context["sessionId"])
    named = (each for each in _SESSIONS if members.get(each, b'""') != b'""')
    name = next(named, _SESSIONS[0])
    text = members.get(name)
    return f"/{name}", None if text is None else name_text(text)


def _members_of(body: bytes) -> dict[str, bytes]:
    """Return the members of a body that have a name; raises `NotJson`."""
    members = members_of(body, skips_unnamed=True)
    if members is None:
        error = read_error(body)
        detail = error.message if error is not None else "no object"
        raise NotJson(f"the body is {detail}")
    return members


def _with_shared(item: bytes, shared: Members) -> bytes:
    members = members_of(item)
    # What is no object becomes a failed event as it is.
    return item if members is None else _item({**shared, **members})


def _item(members: Members) -> bytes:
    """Return a call without what its application must not get back."""
    kept = {name: raw for name, raw in members.items() if name not in _DROPPED}
    return object_of(kept)
