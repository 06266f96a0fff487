"""Splitting of JSON texts into their items, however little of them can be read.

msgspec splits a text only if it accepts all of it: it refuses escaped lone surrogates
and deep nesting. So this module looks at quotes, brackets and commas only. numpy finds
them in all of the text at once: a hostile body of 1 MiB takes some milliseconds.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from service.events.model import EventError

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
BLANKS: Final = b" \t\r\n"
"""White space of JSON (RFC 8259 §2)."""
NOT_JSON: Final = "not_json"
UNREADABLE: Final = "unreadable"

_OPENING: Final = 1
_CLOSING: Final = -1
_COMMA: Final = 2
_QUOTE: Final = 3

_KINDS: Final = np.zeros(256, np.int8)
_KINDS[list(b"[{")] = _OPENING
_KINDS[list(b"]}")] = _CLOSING
_KINDS[ord(",")] = _COMMA
_KINDS[ord('"')] = _QUOTE

_values: Final = msgspec.json.Decoder()
_names: Final = msgspec.json.Decoder(str)
_items: Final = msgspec.json.Decoder(msgspec.Raw)
_MEMBER: Final = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*(.*)', re.DOTALL)
_BACKSLASH: Final = ord("\\")
_SURROGATE_DIGITS: Final = np.frombuffer(b"89abcdefABCDEF", np.uint8)
"""Second digits of the code points that are surrogates; the first one is a D."""


def split_list(text: bytes) -> list[bytes] | None:
    """Return the items of a JSON list; None if its brackets do not match."""
    return _split(text, b"[")


def split_object(text: bytes, *, skips_unnamed: bool = True) -> dict[str, bytes] | None:
    """Return the members of a JSON object; None if it is no object.

    Members whose names cannot be read are left out, or else the answer is None, too.
    """
    members = _split(text, b"{")
    if members is None:
        return None
    named = list(_named(members))
    return dict(named) if skips_unnamed or len(named) == len(members) else None


def read_error(text: bytes, path: str = "") -> EventError | None:
    """Return why a JSON text cannot be decoded; None if it can.

    The code is `NOT_JSON`, or `UNREADABLE` for JSON that not every reader accepts.
    """
    try:
        _values.decode(text)
    except UnicodeDecodeError:
        return EventError(NOT_JSON, path, "not UTF-8")
    except msgspec.ValidationError as error:
        return EventError(UNREADABLE, path, f"a number is too large: {error}")
    except RecursionError:
        reason = EventError(UNREADABLE, path, "nested too deeply")
        malformed = "not JSON, and nested too deeply"
    except msgspec.DecodeError as error:
        reason = EventError(UNREADABLE, path, "an escaped surrogate has no partner")
        malformed = f"not JSON: {error}" if text.strip(BLANKS) else "empty"
    else:
        return None
    return reason if _is_json(text) else EventError(NOT_JSON, path, malformed)


def _is_json(text: bytes) -> bool:
    """Return whether a text is JSON, surrogates without a partner included."""
    try:
        _items.decode(_without_surrogates(text))
    except RecursionError:
        # Then the rest is not checked further than this.
        text = text.strip(BLANKS)
        return _split(text, text[:1]) is not None
    except ValueError:
        return False
    return True


def _without_surrogates(text: bytes) -> bytes:
    """Return a text with other escapes in place of those of surrogates."""
    codes = np.frombuffer(text, np.uint8).copy()
    starts = _unescaped(text, np.flatnonzero(codes[:-3] == _BACKSLASH))
    is_surrogate = (
        (codes[starts + 1] == ord("u"))
        & ((codes[starts + 2] == ord("d")) | (codes[starts + 2] == ord("D")))
        & np.isin(codes[starts + 3], _SURROGATE_DIGITS)
    )
    for offset in (2, 3):
        codes[starts[is_surrogate] + offset] = ord("0")
    return codes.tobytes()


def _named(members: list[bytes]) -> Iterator[tuple[str, bytes]]:
    for member in members:
        found = _MEMBER.fullmatch(member)
        if found is None:
            continue
        try:
            yield _names.decode(found[1]), found[2]
        except ValueError:
            continue


def _split(text: bytes, opening: bytes) -> list[bytes] | None:
    """Return the texts between the outer brackets, at the commas of that level."""
    text = text.strip(BLANKS)
    if not text.startswith(opening):
        return None
    kinds = _KINDS[np.frombuffer(text, np.uint8)]
    places = _unescaped(text, np.flatnonzero(kinds))
    is_quote = kinds[places] == _QUOTE
    quotes = np.cumsum(is_quote)
    places = places[~is_quote & (quotes % 2 == 0)]
    is_comma = kinds[places] == _COMMA
    depths = np.cumsum(np.where(is_comma, 0, kinds[places]), dtype=np.int64)
    # The last bracket closes the first one, and ends the text.
    is_closed = quotes[-1:] % 2 == 0 if quotes.size else True
    is_whole = depths[-1] == 0 and bool((depths[:-1] > 0).all())
    if not (is_closed and is_whole and places[-1] == len(text) - 1):
        return None
    bounds = [0, *places[is_comma & (depths == 1)].tolist(), len(text) - 1]
    items = [text[start + 1 : end].strip(BLANKS) for start, end in pairwise(bounds)]
    if items == [b""]:
        return []
    return items if all(items) else None


def _unescaped(text: bytes, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the places that no backslash escapes."""
    if b"\\" not in text:
        return places
    codes = np.frombuffer(text, np.uint8)
    others = np.where(codes == _BACKSLASH, -1, np.arange(len(codes)))
    last_other = np.maximum.accumulate(others)
    # A place is escaped by an odd number of backslashes before it.
    backslashes: npt.NDArray[np.int64] = places - 1 - last_other[places - 1]
    backslashes[places == 0] = 0
    unescaped: npt.NDArray[np.int64] = places[backslashes % 2 == 0]
    return unescaped
