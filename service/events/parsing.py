"""Parsing of a request's body into events and failures; no event is dropped.

A body is decoded as a whole into envelopes. If one of its events is invalid, the body
is split, and each event is decoded on its own. An invalid event becomes a failure and
does not affect the others. Only a body that cannot be split is refused.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from service.events.adapters import ADAPTERS
from service.events.adapters.conversion import object_of
from service.events.clock_skew import corrected
from service.events.errors import NotJson, TooManyEvents
from service.events.exact_numbers import ValueDecoder
from service.events.model import (
    MAX_DATA_BYTES,
    NOT_SENT,
    OURS,
    Envelope,
    Event,
    EventError,
    EventFailure,
    Origin,
    Source,
)
from service.events.schemas import EventTypes
from service.events.splitting import (
    BLANKS,
    BYTE_ORDER_MARK,
    NOT_JSON,
    UNREADABLE,
    read_error,
    split_list,
)
from service.events.validation import (
    DIGEST_BYTES,
    NUL,
    compacted,
    context_errors,
    failed_item,
    failure_of,
    find_errors,
    parse_timestamp,
)
from service.instants import US_PER_S, format_instant, now_us

NDJSON: Final = "application/x-ndjson"
LINE_TYPES: Final = frozenset({NDJSON, "application/ndjson"})
"""Media types of one event per line."""
# 16 bytes keep the index small, whatever the ids look like.
KEY_BYTES: Final = 16

MAX_SHALLOW_BYTES: Final = 512
"""Data of this size is not nested too deeply, wherever its body is split.

The maximum depth depends on the stack, which the request and the writer of events do
not share. So a body with larger data is split by its request, which can be refused.
"""

UNDATED: Final = {"timestamp": b'"1970-01-01T00:00:00Z"'}
"""In place of a time that was not sent: the same in each attempt, for the digest."""

_NO_DIGEST: Final = EventError(
    UNREADABLE, "", "nested too deeply, or a number has a huge exponent"
)
_ESCAPED_NUL: Final = rb"\u0000"
"""JSON has no other way to write a NUL."""

_envelopes: Final = msgspec.json.Decoder(Envelope)
_envelope_lists: Final = msgspec.json.Decoder(list[Envelope])
_lists: Final = msgspec.json.Decoder(list[Raw])
_values: Final = ValueDecoder()
_DIGEST: Final = hashlib.blake2b(digest_size=DIGEST_BYTES)
"""Copied for each digest: its arguments would cost more than the hashing."""
# Sorted members: their order does not change the digest.
_canonical: Final = msgspec.json.Encoder(order="sorted")


def split_body(body: bytes, content_type: str, max_events: int) -> list[bytes]:
    """Return the events of a body, each as its own text, which may be invalid.

    Raises `NotJson`, and `TooManyEvents` for more than `max_events`.
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    if content_type in LINE_TYPES:
        return [line for _, line in _lines(body, max_events)]
    if _is_list(body):
        items = _split_list(body)
        _check_number(len(items), max_events)
        return items
    error = read_error(body)
    if error is not None and error.code == NOT_JSON:
        raise NotJson(f"the body is {error.message}")
    return [body.strip(BLANKS)]


def _split_list(body: bytes) -> list[bytes]:
    try:
        return [bytes(raw) for raw in _lists.decode(body)]
    except (ValueError, RecursionError) as error:
        items = split_list(body)
        if items is None:
            raise NotJson(f"the body is not JSON: {error}") from None
        return items


def _decode_envelopes(
    body: bytes, content_type: str, max_events: int
) -> list[Envelope] | None:
    """Return the envelopes of a body; None if one of them may be invalid.

    Raises `TooManyEvents`.
    """
    if _ESCAPED_NUL in body:
        return None
    try:
        body.decode()  # msgspec does not check the UTF-8 of what it does not decode
        if content_type in LINE_TYPES:
            lines = _lines(body, max_events)
            envelopes = [_envelopes.decode(line) for _, line in lines]
        elif _is_list(body):
            envelopes = _envelope_lists.decode(body)
        else:
            envelopes = [_envelopes.decode(body)]
    except (ValueError, RecursionError):
        return None
    _check_number(len(envelopes), max_events)
    return envelopes


def _is_list(body: bytes) -> bool:
    return body.lstrip().startswith(b"[")


def _lines(body: bytes, max_events: int) -> list[tuple[int, bytes]]:
    """Return the lines that are not blank with their numbers from 1 on.

    Raises `TooManyEvents`.
    """
    every = enumerate(body.split(b"\n"), 1)
    # Files that are joined have a byte order mark at each beginning.
    lines = [
        (number, text)
        for number, line in every
        if (text := line.strip(BLANKS).removeprefix(BYTE_ORDER_MARK))
    ]
    _check_number(len(lines), max_events)
    return lines


class BodyTexts:
    """The texts of a body's events, which are split only if one is needed."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body = body
        self._content_type = content_type
        self._texts: list[bytes] | None = None

    def __getitem__(self, place: int) -> bytes:
        """Return the JSON text of an event, as it was sent."""
        if self._texts is None:
            self._texts = split_body(self._body, self._content_type, sys.maxsize)
        return self._texts[place]


class EventParser:
    """Parses events: checks the envelope, the type's schema and the time."""

    def __init__(
        self,
        types: EventTypes,
        future_skew_s: float,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self.types = types
        """They may be replaced while the service runs."""
        self._skew_us = int(future_skew_s * US_PER_S)
        self._clock = clock

    def parse_body(
        self,
        body: bytes,
        content_type: str,
        max_events: int,
        application: str,
        skew_us: int = 0,
    ) -> list[Event | EventFailure]:
        """Return the events of a body in the order sent, each parsed or a failure.

        The sender's clock is `skew_us` behind the service's. Raises `NotJson`, and
        `TooManyEvents` for more than `max_events`.
        """
        body = body.removeprefix(BYTE_ORDER_MARK)
        envelopes = _decode_envelopes(body, content_type, max_events)
        if envelopes is None:
            sources = split_body(body, content_type, max_events)
            origin = Origin(skew_us=skew_us)
            items = [self.parse(source, application, origin) for source in sources]
            if content_type in LINE_TYPES:
                numbers = (number for number, _ in _lines(body, max_events))
                return list(map(_with_line, items, numbers))
            return items
        texts = BodyTexts(body, content_type)
        # Times are compared by the sender's clock, and corrected at last.
        latest = self._clock() + self._skew_us - skew_us
        parsed = [
            self._parse(envelope, Source(texts, place), application, latest)
            for place, envelope in enumerate(envelopes)
        ]
        return [corrected(each, skew_us) for each in parsed] if skew_us else parsed

    def parse(
        self, source: bytes, application: str, origin: Origin = OURS
    ) -> Event | EventFailure:
        """Return the event of a JSON text, or a failure that lists its errors."""
        if origin.format is not None:
            return self._parse_adapted(source, application, origin)
        return corrected(self._parse_text(source, application, origin), origin.skew_us)

    def _parse_adapted(
        self, item: bytes, application: str, origin: Origin
    ) -> Event | EventFailure:
        """Return the event of a stock client's item, by the adapter of its format."""
        found = ADAPTERS[origin.format or ""](item)
        if found is None:
            no_object = EventError("wrong_type", "", "expected an object")
            errors = [read_error(item) or no_object]
            return failure_of(item, application, errors, origin=origin)
        is_dated = "timestamp" in found.fields
        text = object_of({**found.fields, **({} if is_dated else UNDATED)})
        parsed = self._parse_text(text, application, origin)
        context = object_of(found.context)
        own = parsed.errors if isinstance(parsed, EventFailure) else ()
        translated = found.translate([*own, *context_errors(context)])
        event = None
        if isinstance(parsed, Event) and not translated:
            event = _with_context(parsed, item, context, origin)
            translated = (_NO_DIGEST,)
        if event is None:
            failure = failed_item(item, text, application, translated, origin)
            return corrected(failure, origin.skew_us)
        if is_dated:
            return corrected(event, origin.skew_us)
        at = self._clock() if origin.arrived_at is None else origin.arrived_at
        timestamp = format_instant(at)
        return replace(event, at=at, timestamp=timestamp, sent_at=NOT_SENT)

    def _parse_text(
        self, source: bytes, application: str, origin: Origin
    ) -> Event | EventFailure:
        try:
            envelope = _envelopes.decode(source)
        except (ValueError, RecursionError):
            return _failure_of(source, application)
        if _ESCAPED_NUL in source and (errors := find_errors(source)):
            return failure_of(source, application, errors)
        latest = self._clock() + self._skew_us - origin.skew_us
        return self._parse(envelope, Source([source], 0), application, latest)

    def _parse(
        self, envelope: Envelope, source: Source, application: str, latest: int
    ) -> Event | EventFailure:
        """Return the event of an envelope, whose time may be up to `latest`."""
        try:
            at = parse_timestamp(envelope.timestamp)
            data = bytes(envelope.data)
            value, content = _values.decode(data)
            digest = _digest_of(envelope, content)
        except (ValueError, OverflowError, RecursionError):
            return _failure_of(source.read(), application)
        # A cheap test for events that may be invalid; `find_errors` decides.
        if (type(value) is not dict or len(data) > MAX_DATA_BYTES) and (
            errors := find_errors(source.read())
        ):
            return failure_of(source.read(), application, errors)
        if len(data) > MAX_DATA_BYTES:
            data = compacted(data)
        if at > latest:
            too_early = [self._too_early()]
            return failure_of(source.read(), application, too_early, digest)
        if errors := self.types.check(envelope.category, envelope.name, value):
            return failure_of(source.read(), application, errors, digest)
        if len(data) > MAX_SHALLOW_BYTES:
            source.read()
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

    def _too_early(self) -> EventError:
        allowed_s = self._skew_us / US_PER_S
        message = f"more than {allowed_s:g} s ahead of the service's clock"
        return EventError("future_timestamp", "/timestamp", message)


def _failure_of(source: bytes, application: str) -> EventFailure:
    """Return the failure of an event that could not be decoded."""
    # It can be decoded, but has no digest: data may be too deep to be encoded.
    return failure_of(source, application, find_errors(source) or [_NO_DIGEST])


def _with_context(
    event: Event, item: bytes, context: bytes, origin: Origin
) -> Event | None:
    """Return the event of an item with its context, which belongs to its content.

    Returns None for a context that has no digest.
    """
    digest = _DIGEST.copy()
    try:
        _, content = _values.decode(context)
        digest.update(event.digest + _canonical.encode(content))
    except (ValueError, OverflowError, RecursionError):
        return None
    event_id = event.id if event.id != event.digest.hex() else digest.hexdigest()
    return replace(
        event,
        key=key_of(event.application, event_id),
        id=event_id,
        digest=digest.digest(),
        source=Source([item], 0),
        context=context.decode(),
        origin=origin,
    )


def _with_line(item: Event | EventFailure, number: int) -> Event | EventFailure:
    """Return the failure of a line that is not JSON with the number of the line."""
    if isinstance(item, Event) or item.errors[0].code != NOT_JSON:
        return item
    error = item.errors[0]
    error = EventError(error.code, error.path, f"line {number}: {error.message}")
    return replace(item, errors=(error,))


def key_of(application: str, event_id: str) -> bytes:
    """Return the database key of an event: 16 bytes, unique for application and id.

    Neither of them contains the NUL that separates them.
    """
    key = _key_of_application(application).copy()
    key.update(event_id.encode())
    return key.digest()


@lru_cache(maxsize=1_024)
def _key_of_application(application: str) -> "hashlib.blake2b":
    return hashlib.blake2b(f"{application}{NUL}".encode(), digest_size=KEY_BYTES)


def _digest_of(envelope: Envelope, value: Any) -> bytes:
    """Return a digest of the content: the values count, not their layout.

    Members may come in any order. Numbers count by their exact value: 1.0 and 1.00 are
    equal; 1 and 1.0 differ, as an integer and a float.
    """
    content = (
        envelope.session_id,
        envelope.category,
        envelope.name,
        envelope.timestamp,
        value,
    )
    digest = _DIGEST.copy()
    digest.update(_canonical.encode(content))
    return digest.digest()


def _check_number(number: int, max_events: int) -> None:
    if number > max_events:
        raise TooManyEvents(f"{number} events; {max_events} are allowed in one request")
