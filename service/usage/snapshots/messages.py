"""Upstream's messages as columns; `decoding` makes them from a body.

A column has one element for each message, in the upstream's order.
"""

import json
import mmap
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from msgspec import UNSET, Meta, Struct
from numpy.typing import NDArray

from service.instants import ExactInstant
from service.upstream import lenient_json
from service.usage.pricing.timestamps import Fractions, Instants
from service.usage.snapshots.body_hashes import BodyHashes
from service.usage.snapshots.parts import Parts

MessagesBody = bytes | bytearray | memoryview | mmap.mmap

ReportKey = str
"""A usable report id, as in the path of its request: 7 and "7" are the same."""

MAX_KEY_CHARACTERS: Final = 2_000
DOT_SEGMENTS: Final = frozenset({".", ".."})
"""Segments that URL parsers remove, and with `..` the one before (RFC 3986, 5.2.4)."""
MAX_INVALID_IDS_LOGGED: Final = 100
MAX_LOGGED_ID_CHARACTERS: Final = 100
NO_REPORT: Final = -1
"""Marks in `Messages.report_of` a message without a usable report id."""

_ID_BOUNDS: Final = Meta(ge=-(2**63), le=2**63 - 1)


class Message(Struct, frozen=True, gc=False):
    """One message of the upstream; `report_id` may be any JSON value."""

    id: Annotated[int, _ID_BOUNDS]
    text: str
    timestamp: str
    report_id: Any = UNSET


class UpstreamPeriod(Struct, frozen=True):
    """The upstream's answer to `GET /messages/current-period`."""

    messages: list[Message]


class Checkpoint(NamedTuple):
    """The begin of a message in a body, and what comes before it."""

    begin: int
    """In bytes."""
    rows: int
    report_keys: int
    invalid_ids: int


class Messages(NamedTuple):
    """The messages of one period, as columns of shape `(n_messages,)`."""

    ids: NDArray[np.int64]
    timestamps: Parts[str]
    """As upstream sent them."""
    instants: Instants
    """int64, microseconds since 1970-01-01T00:00:00Z."""
    fractions: Fractions | None
    """int64, attoseconds beyond the instants; None where all are 0."""
    sent: Parts[Message] | None
    """The decoded messages; None where the snapshot came from another process."""
    # Whole messages, not only texts: freeing their other fields would fragment the
    # memory, so that dropping a large period would return none of it.
    report_of: NDArray[np.int32]
    """int32: each message's index in `report_keys`, or `NO_REPORT`."""
    report_keys: list[ReportKey]
    """Every usable report id once, in the order of first use."""
    invalid_ids: list[Any]
    """The first report ids that cannot be sent to the upstream, at most 100."""
    digest: str
    """A digest of the body: equal bodies have equal messages."""
    hashes: BodyHashes | None = None
    """Hashes of the body; None where the snapshot came from another process."""
    checkpoints: Sequence[Checkpoint] = ()
    """Places of the body from which the next one can be decoded, in their order."""

    def instant_at(self, row: int) -> ExactInstant:
        """Return the exact instant of one message."""
        fraction = 0 if self.fractions is None else int(self.fractions[row])
        return int(self.instants[row]), fraction


def report_key(report_id: Any) -> ReportKey | None:
    """Return the key of a usable id, None for any other value.

    Usable are integers, and strings of 1 to `MAX_KEY_CHARACTERS` characters except `.`
    and `..`.
    """
    # Servers refuse an empty or a very long path. One such id would fail the period.
    # `.` and `..` are resolved as segments of a path, also if they are percent-encoded.
    if type(report_id) not in {int, str}:
        return None
    key = str(report_id)
    if not 0 < len(key) <= MAX_KEY_CHARACTERS or key in DOT_SEGMENTS:
        return None
    if lenient_json.has_surrogate(key):
        return None
    return key


def show_invalid_id(report_id: Any) -> str:
    """Return an unusable id for the log: JSON, cut to `MAX_LOGGED_ID_CHARACTERS`."""
    text = json.dumps(report_id, ensure_ascii=False, separators=(",", ":"))
    # The log is UTF-8, which has no lone surrogates.
    return lenient_json.without_surrogates(text)[:MAX_LOGGED_ID_CHARACTERS]
