"""Messages in flight: published, and not acknowledged by the stream."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from service.events.backlog import Waiting
from service.events.model import Receipt
from service.events.queue.stream_api import Answer, ApiError

MAX_IN_FLIGHT: Final = 256
MAX_IN_FLIGHT_BYTES: Final = 8 * 1024 * 1024
"""More would only wait at the stream, where nobody takes turns."""
STREAM_FULL: Final = 10077
"""Error code of a stream that refuses a message because of its limits."""
TOO_LARGE: Final = 10054
"""Error code of a stream that does not accept messages of this size."""

End = Callable[[Receipt | Exception], None]


class Publication(Waiting, eq=False):
    """The messages of one request, and who gets its outcome."""

    messages: list[bytes]
    receipt: Receipt
    end: End
    unacknowledged: int
    reason: str = "the stream has not acknowledged the events"
    """The last answer of the stream, if it was no acknowledgement."""

    @property
    def is_split(self) -> bool:
        """True if the request needs several messages."""
        return len(self.messages) > 1


class Message(Struct, eq=False):
    """One message in flight."""

    publication: Publication
    subject: str
    payload: bytes
    due_at: float = 0.0
    """The time of the event loop when it is published again."""


class InFlight:
    """The messages in flight by their ids, which are unique in the process."""

    def __init__(self) -> None:
        self._messages: dict[str, Message] = {}
        self._bytes = 0
        self._sent = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def has_room(self) -> bool:
        """True while a further request may be published."""
        is_full = self._bytes >= MAX_IN_FLIGHT_BYTES
        return len(self._messages) < MAX_IN_FLIGHT and not is_full

    def put(
        self, publication: Publication, subject: str
    ) -> Sequence[tuple[str, Message]]:
        """Add the messages of a request; return them with their ids."""
        begun = []
        for payload in publication.messages:
            self._sent += 1
            begun.append((str(self._sent), Message(publication, subject, payload)))
            self._bytes += len(payload)
        self._messages.update(begun)
        return begun

    def get(self, message_id: str) -> Message | None:
        """Return a message; None if it is not in flight any more."""
        return self._messages.get(message_id)

    def late(self, now: float) -> Sequence[tuple[str, Message]]:
        """Return the messages that are to be published again."""
        return [each for each in self._messages.items() if each[1].due_at <= now]

    def make_late(self) -> None:
        """Have all messages published again."""
        for message in self._messages.values():
            message.due_at = 0.0

    def remove(self, message_id: str) -> None:
        """Remove a message."""
        self._bytes -= len(self._messages.pop(message_id).payload)

    def remove_all(self, publication: Publication) -> None:
        """Remove the messages of a request."""
        for message_id, message in list(self._messages.items()):
            if message.publication is publication:
                self.remove(message_id)


def error_in(answer: bytes) -> ApiError | None:
    """Return the error of an answer; None for an acknowledgement."""
    return _acks.decode(answer).error


_acks: Final = msgspec.json.Decoder(Answer)
