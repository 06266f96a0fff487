"""What callers say in a query: instants and cursors, and what is wrong with them."""

import base64
import binascii
from typing import Final, TypeVar

import msgspec

from service.instants import read_instant

T = TypeVar("T")

MAX_QUOTED_CHARACTERS: Final = 80


class InvalidParameter(Exception):
    """A parameter of a question makes no sense; the text says what would."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name

    def __str__(self) -> str:
        name, reason = self.args
        return f"{quoted(name)}: {reason}"


def parse_instant(name: str, value: str | None) -> int | None:
    """Read a parameter that is a moment; `InvalidParameter` where it is none."""
    if value is None:
        return None
    try:
        return read_instant(value)
    except ValueError:
        wanted = "an ISO 8601 date or time such as 2024-04-29T02:08:29Z"
        raise InvalidParameter(name, f"expected {wanted}") from None


def encode_cursor(cursor: object) -> str:
    """A cursor as callers carry it: opaque, and safe in a URL."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def parse_cursor(value: str | None, kind: type[T]) -> T | None:
    """Read a cursor back; `InvalidParameter` where it is not one of ours."""
    if value is None:
        return None
    try:
        padded = value + "=" * (-len(value) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=kind)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        wanted = "expected a cursor from a Link header of this endpoint"
        raise InvalidParameter("cursor", wanted) from None


def quoted(given: str) -> str:
    """What a caller gave, cut to what an error may repeat of it."""
    if len(given) <= MAX_QUOTED_CHARACTERS:
        return given
    return given[: MAX_QUOTED_CHARACTERS - 1] + "…"
