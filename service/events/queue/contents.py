"""Contents of messages that wait, for operators."""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from service.cli.terminal import printable
from service.events.model import Event, EventFailure
from service.events.queue.administration import Message
from service.events.queue.message import BadMessage, decode

# They fit into 80 characters; the id of the request is in the JSON.
COLUMNS: Final = ("sequence", "partition", "arrived", "application", "events", "bytes")


class Content(Struct, frozen=True):
    """A message, and the events in it; or why it cannot be decoded."""

    sequence: int
    subject: str
    arrived_at: str
    application: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    events: list[Raw] | UnsetType = UNSET
    failed: list[str] | UnsetType = UNSET
    """Texts of events that are invalid, and will be stored as failed ones."""
    error: str | UnsetType = UNSET
    message: bytes | UnsetType = UNSET


def content_of(message: Message) -> Content:
    """Return the content of a message."""
    content = Content(message.seq, message.subject, message.time)
    try:
        request = decode(message.data)
        valid = [each for each in request.items if isinstance(each, Event)]
        texts = list(map(_text_of, valid))
    except BadMessage as error:
        return msgspec.structs.replace(content, error=str(error), message=message.data)
    failed = [each.event for each in request.items if isinstance(each, EventFailure)]
    return msgspec.structs.replace(
        content,
        application=request.application,
        request_id=request.request_id,
        events=texts,
        failed=failed,
    )


def _text_of(event: Event) -> Raw:
    """Return the JSON text of an event; raises `BadMessage` if it has none."""
    try:
        text = event.read_text()
        msgspec.json.decode(text)
    except Exception as error:  # another program may publish any fields
        raise BadMessage(f"an event has no text: {error}") from error
    return Raw(text)


def as_json(message: Message) -> str:
    """Return the content of a message as one line of JSON."""
    # Bodies are as clients sent them, and may have line feeds between their values.
    content = msgspec.json.encode(content_of(message))
    return msgspec.json.format(content, indent=-1).decode()


def row_of(message: Message) -> tuple[str, ...]:
    """Return the values of `COLUMNS` for a message."""
    content = content_of(message)
    number = len(content.events or ()) + len(content.failed or ())
    return (
        f"{content.sequence}",
        content.subject.rpartition(".")[2],
        f"{content.arrived_at[:19]}Z",
        printable(content.application or "?"),
        printable(content.error or f"{number:,}"),
        f"{len(message.data):,}",
    )
