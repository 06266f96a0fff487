"""Values of header fields: lists, parameters and quality, by RFC 9110 §5.6 and §12.4.

A comma, a semicolon or an equals sign inside a quoted string separates nothing.
"""

import re
from typing import Final, NamedTuple

from multidict import MultiMapping

_QUOTED: Final = r'"(?:[^"\\]|\\.)*"?'
_LIST_MEMBER: Final = re.compile(rf"(?:{_QUOTED}|[^,\"])+")
_PARAMETER: Final = re.compile(rf"(?:{_QUOTED}|[^;\"])+")
_QUALITY: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
# Unlike a quoted string, an entity tag has no escapes (RFC 9110 §8.8.3).
_TAG_MEMBER: Final = re.compile(r'(?:"[^"]*"?|[^,"])+')
_ENTITY_TAG: Final = re.compile(r'(W/)?("[!#-~\x80-\U0010ffff]*")')


class Weighted(NamedTuple):
    """A member of a list such as `Accept`, in lower case, and its quality, 0 to 1."""

    value: str
    quality: float


class EntityTag(NamedTuple):
    """An entity tag: `opaque` is the quoted text, and `is_weak` is true after `W/`."""

    opaque: str
    is_weak: bool


def joined(headers: MultiMapping[str], name: str) -> str | None:
    """Return all lines of a header as one value (RFC 9110 §5.3); None without any."""
    first = headers.get(name)
    if first is None:
        return None
    lines = headers.getall(name)
    return first if len(lines) == 1 else ", ".join(lines)


def split_list(value: str) -> list[str]:
    """Return the members of a list, without white space and empty members."""
    members = (member.strip() for member in _LIST_MEMBER.findall(value))
    return [member for member in members if member]


def parse_weighted(value: str) -> list[Weighted]:
    """Parse a list whose members may have a quality; one that is no number counts 0."""
    return [_parse_member(member) for member in split_list(value)]


def parse_entity_tags(value: str) -> list[EntityTag]:
    """Parse a list of entity tags; members that are none are left out."""
    members = (member.strip() for member in _TAG_MEMBER.findall(value))
    found = (_ENTITY_TAG.fullmatch(member) for member in members)
    return [EntityTag(tag[2], tag[1] is not None) for tag in found if tag]


def _parse_member(member: str) -> Weighted:
    parts = [part.strip() for part in _PARAMETER.findall(member)]
    # Without a value before the first semicolon, nothing is named.
    value, *parameters = ["", *parts] if member.startswith(";") else parts
    for parameter in parameters:
        name, _, given = parameter.partition("=")
        if name.strip().lower() == "q":
            # What follows the weight belongs to no media type.
            return Weighted(value.lower(), _parse_quality(given.strip()))
    return Weighted(value.lower(), 1.0)


def _parse_quality(given: str) -> float:
    return float(given) if _QUALITY.fullmatch(given) else 0.0
