"""Parsing of a request's body into events and failures; no event is dropped.

A body is first split into its events. Each event is parsed on its own, so an invalid
event becomes a failure and does not affect the others.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from service.events.errors import NotJson, TooManyEvents
from service.events.model import (
    MAX_DATA_BYTES,
    Envelope,
    Event,
    EventError,
    EventFailure,
)
from service.events.schemas import EventTypes
from service.events.validation import (
    DIGEST_BYTES,
    NUL,
    failure_of,
    find_errors,
    parse_timestamp,
)
from service.instants import US_PER_S, now_us

NDJSON: Final = "application/x-ndjson"
# 16 bytes keep the index small, whatever the ids look like.
KEY_BYTES: Final = 16

_ESCAPED_NUL: Final = rb"\u0000"
"""JSON has no other way to write a NUL."""

_envelopes: Final = msgspec.json.Decoder(Envelope)
_lists: Final = msgspec.json.Decoder(list[Raw])
_items: Final = msgspec.json.Decoder(Raw)
_values: Final = msgspec.json.Decoder()
# Sorted members: their order does not change the digest.
_canonical: Final = msgspec.json.Encoder(order="sorted")


def split_body(body: bytes, content_type: str, max_events: int) -> list[bytes]:
    """Return the events of a body, each as its own JSON text.

    Raises `NotJson`, and `TooManyEvents` for more than `max_events`.
    """
    try:
        body.decode()  # msgspec does not check the UTF-8 of what it does not decode
        if content_type == NDJSON:
            lines = [line for line in body.split(b"\n") if line.strip()]
            _check_number(len(lines), max_events)
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
    _check_number(len(raws), max_events)
    return [bytes(raw) for raw in raws]


class EventParser:
    """Parses single events: checks the envelope, the type's schema and the time."""

    def __init__(
        self,
        types: EventTypes,
        future_skew_s: float,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._types = types
        self._skew_us = int(future_skew_s * US_PER_S)
        self._clock = clock

    def parse(self, source: bytes, application: str) -> Event | EventFailure:
        """Return the event of a JSON text, or a failure that lists its errors."""
        try:
            envelope = _envelopes.decode(source)
            at = parse_timestamp(envelope.timestamp)
            data = bytes(envelope.data)
            value = _values.decode(data)
            digest = _digest_of(envelope, value)
        except (ValueError, OverflowError, RecursionError):
            return failure_of(source, application, find_errors(source) or [_too_deep()])
        if errors := self._check(source, envelope, at, value):
            return failure_of(source, application, errors)
        event_id = digest.hex() if envelope.id is UNSET else envelope.id
        # By position, in the order of `Event`: keywords take twice the time.
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

    def _check(
        self, source: bytes, envelope: Envelope, at: int, value: Any
    ) -> list[EventError]:
        """Return the errors of a decoded event; mostly none."""
        # A cheap test for events that may be invalid; `find_errors` decides.
        if (
            not isinstance(value, dict)
            or len(source) > MAX_DATA_BYTES
            or (b"\\" in source and _ESCAPED_NUL in source)
        ) and (errors := find_errors(source)):
            return errors
        if at > self._clock() + self._skew_us:
            return [self._too_early()]
        return self._types.check(envelope.category, envelope.name, value)

    def _too_early(self) -> EventError:
        allowed_s = self._skew_us / US_PER_S
        message = f"more than {allowed_s:g} s ahead of the service's clock"
        return EventError("future_timestamp", "/timestamp", message)


def key_of(application: str, event_id: str) -> bytes:
    """Return the database key of an event: 16 bytes, unique for application and id.

    Neither of them contains the NUL that separates them.
    """
    text = f"{application}{NUL}{event_id}".encode()
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def _digest_of(envelope: Envelope, value: Any) -> bytes:
    """Return a digest of the content: the values count, not their layout.

    Members may come in any order. Numbers count as parsed: 1 and 1.0 differ, as an
    integer and a float; 1.0 and 1.00 do not.
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


def _too_deep() -> EventError:
    # Data may be shallow enough to be decoded, and too deep to be encoded.
    return EventError("unreadable", "", "nested too deeply")


def _check_number(number: int, max_events: int) -> None:
    if number > max_events:
        raise TooManyEvents(f"{number} events; {max_events} are allowed in one request")
