"""Conversion of an item of a stock client into our envelope, as JSON texts.

Members are passed on as the texts that were sent. So an adapter never refuses a value:
the validation of our envelope does, and the item becomes a failed event.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from service.events.model import EventError
from service.events.splitting import NOT_JSON, split_object

NULL: Final = b"null"
EMPTY: Final = b"{}"

Members = Mapping[str, bytes]
"""The members of a JSON object, each as its own JSON text."""

_objects: Final = msgspec.json.Decoder(dict[str, Raw])
_values: Final = msgspec.json.Decoder()
_MAX_NUMBER_CHARS: Final = 40
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class Conversion(NamedTuple):
    """An item as our envelope, and what our envelope has no place for."""

    fields: Members
    """Members of the envelope; without `timestamp` if the item has no time."""
    paths: Mapping[str, str]
    """The JSON Pointer of each field in the item, for its errors."""
    context: Members
    errors: tuple[EventError, ...] = ()
    """Errors that the envelope does not show."""

    def translate(self, errors: Iterable[EventError]) -> tuple[EventError, ...]:
        """Return all errors, with paths into the item instead of the envelope."""
        found = [*self.errors, *(self._translate(each) for each in errors)]
        # Members that are not JSON hide others, which only seem to be missing.
        found = [each for each in found if each.code == NOT_JSON] or found
        # Both may name a member that is missing.
        return tuple({(each.code, each.path): each for each in found}.values())

    def _translate(self, error: EventError) -> EventError:
        field, separator, rest = error.path.removeprefix("/").partition("/")
        path = self.paths.get(field)
        if path is None:
            return error
        return EventError(error.code, path + separator + rest, error.message)


Convert = Callable[[bytes], Conversion | None]
"""Converts an item; returns None for one that `members_of` cannot read."""


def members_of(text: bytes, *, skips_unnamed: bool = False) -> dict[str, bytes] | None:
    """Return the members of a JSON object but for nulls; None if it is no object.

    None also for a name that cannot be read: its member must not be lost, unless
    `skips_unnamed`.
    """
    try:
        found = {name: bytes(raw) for name, raw in _objects.decode(text).items()}
    except (ValueError, RecursionError):
        split = split_object(text, skips_unnamed=skips_unnamed)
        if split is None:
            return None
        found = split
    return {name: raw for name, raw in found.items() if raw.strip() != NULL}


def object_of(members: Members) -> bytes:
    """Return the JSON object with these members."""
    pairs = (msgspec.json.encode(name) + b":" + raw for name, raw in members.items())
    return b"{" + b",".join(pairs) + b"}"


def value_of(text: bytes | None) -> Any:
    """Return the value of a JSON text; None if it cannot be decoded."""
    try:
        return None if text is None else _values.decode(text)
    except (ValueError, RecursionError):
        return None


def name_text(text: bytes) -> bytes:
    """Return the JSON text of a name; that of a number becomes a string."""
    # A member of an item that is not JSON may only begin like a number.
    is_number = len(text) <= _MAX_NUMBER_CHARS and _NUMBER.fullmatch(text.strip())
    return b'"' + text.strip() + b'"' if is_number else text
