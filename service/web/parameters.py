"""Query parameters that are instants or cursors."""

import base64
import binascii
from typing import Final, TypeVar

import msgspec

from service.instants import ExactInstant, read_exact

T = TypeVar("T")

MAX_QUOTED_CHARACTERS: Final = 80


class InvalidParameter(Exception):
    """A query parameter is invalid; the text names the expected values."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name

    def __str__(self) -> str:
        name, reason = self.args
        return f"{quoted(name)}: {reason}"


def parse_instant(name: str, value: str | None) -> int | None:
    """Return a bound in microseconds since 1970; raises `InvalidParameter`.

    A bound within a microsecond is rounded up, since what is stored has no fraction.
    """
    exact = parse_exact_instant(name, value)
    if exact is None:
        return None
    microseconds, fraction = exact
    return microseconds + (fraction > 0)


def parse_exact_instant(name: str, value: str | None) -> ExactInstant | None:
    """Return a timestamp as an exact instant; raises `InvalidParameter`."""
    if value is None:
        return None
    try:
        return read_exact(value)
    except ValueError:
        expected = "expected an ISO 8601 date or time such as 2024-04-29T02:08:29Z"
        raise InvalidParameter(name, expected) from None


def encode_cursor(cursor: object) -> str:
    """Return a cursor as opaque text that is safe in a URL."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def parse_cursor(value: str | None, kind: type[T]) -> T | None:
    """Decode a cursor from `encode_cursor`; raises `InvalidParameter`."""
    if value is None:
        return None
    try:
        # `encode_cursor` drops the padding, which URLs would have to escape.
        padded = value + "=" * (-len(value) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=kind)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        expected = "expected a cursor from a Link header of this endpoint"
        raise InvalidParameter("cursor", expected) from None


def quoted(text: str) -> str:
    """Return the text of a client, shortened for an error message."""
    if len(text) <= MAX_QUOTED_CHARACTERS:
        return text
    return text[: MAX_QUOTED_CHARACTERS - 1] + "…"
