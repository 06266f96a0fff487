"""Events as JSON text.

JSON has fewer types than Python. The values of some types are converted:

| type | JSON |
|---|---|
| datetime, date, time | ISO 8601 |
| Decimal, UUID | text |
| Enum | its value |
| dataclass | an object of its fields |
| bytes, bytearray, memoryview | text in Base64 |

All other types are refused, and so are NaN and infinity.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import json.encoder
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

BYTES: Final = (bytes, bytearray, memoryview)
MOMENTS: Final = (dt.datetime, dt.date, dt.time)

Encode = Callable[[Any], str]


def to_json(value: Any) -> Any:
    """Convert a value by the rules above, one level deep; raises `TypeError`."""
    if isinstance(value, MOMENTS):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, BYTES):
        return base64.b64encode(value).decode()
    raise TypeError(f"values of type {type(value).__qualname__} have no JSON")


def to_text(value: Any) -> str:
    """Return the text of a name or a key: of text, an integer, a UUID, a time, …"""
    while not isinstance(value, str):
        if isinstance(value, int) and not isinstance(value, (bool, Enum)):
            return str(int(value))
        value = to_json(value)
        if not isinstance(value, (str, int, Enum)):
            raise TypeError(f"a {type(value).__qualname__} is no text")
    return value


def make_encoder() -> Encode:
    """Return a function that encodes a value as JSON."""
    standard = json.JSONEncoder(
        default=to_json,
        ensure_ascii=False,
        allow_nan=False,
        # Circular data end with a `RecursionError` as well.
        check_circular=False,
        separators=(",", ":"),
    )
    compiled = getattr(json.encoder, "c_make_encoder", None)
    if compiled is None:
        return standard.encode
    # What `JSONEncoder.encode` makes for each call, which takes longer than encoding.
    make_parts = compiled(
        *(None, to_json, json.encoder.encode_basestring, None, ":", ","),
        *(False, False, False),
    )
    return lambda value: "".join(make_parts(value, 0))


_encode: Final = make_encoder()
_quote: Final = json.encoder.encode_basestring


def encode_event(  # noqa: PLR0913, PLR0917 - the fields of an event, by position
    event_id: Any, session_id: Any, category: Any, name: Any, timestamp: Any, data: Any
) -> bytes:
    """Return an event as a line of NDJSON.

    Raises `TypeError` or `ValueError` for values without JSON, and whatever the values
    raise themselves.
    """
    try:
        text = _encode(data)
        ends = _quote(event_id), _quote(timestamp)
        names = _quote(session_id), _quote(category), _quote(name)
    except TypeError:
        # Few events have keys, ids or names of other types than text.
        text = _encode(_with_text_keys(data))
        ends = _quote(to_text(event_id)), _quote(to_text(timestamp))
        texts = to_text(session_id), to_text(category), to_text(name)
        names = _quote(texts[0]), _quote(texts[1]), _quote(texts[2])
    if text[0] != "{":
        raise TypeError("data is no object")
    return (
        f'{{"id":{ends[0]},"session_id":{names[0]},"category":{names[1]},'
        f'"name":{names[2]},"timestamp":{ends[1]},"data":{text}}}\n'
    ).encode()


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_to_key(key): _with_text_keys(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_text_keys(each) for each in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return _with_text_keys(to_json(value))


def _to_key(key: Any) -> Any:
    # The encoder has rules of its own for numbers, booleans and None.
    is_known = key is None or isinstance(key, (str, int, float))
    return key if is_known else to_text(key)
