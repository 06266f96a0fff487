"""Upstream's messages: decoded, validated, and converted to columns.

A column has one element for each message, in the upstream's order.
"""

import mmap
from hashlib import sha256
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct
from numpy.typing import NDArray

from service.instants import ExactInstant
from service.upstream import lenient_json
from service.usage.pricing.timestamps import Fractions, Instants, read_instants

MessagesBody = bytes | bytearray | mmap.mmap

ReportKey = str
"""A usable report id, as in the path of its request: 7 and "7" are the same."""

MAX_KEY_CHARACTERS: Final = 2_000
DOT_SEGMENTS: Final = frozenset({".", ".."})
"""Segments that URL parsers remove, and with `..` the one before (RFC 3986, 5.2.4)."""
MAX_INVALID_IDS_LOGGED: Final = 100
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


class Messages(NamedTuple):
    """The messages of one period, as columns of shape `(n_messages,)`."""

    ids: NDArray[np.int64]
    timestamps: list[str]
    """As upstream sent them."""
    instants: Instants
    """int64, microseconds since 1970-01-01T00:00:00Z."""
    fractions: Fractions | None
    """int64, attoseconds beyond the instants; None where all are 0."""
    sent: list[Message] | None
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

    def instant_at(self, row: int) -> ExactInstant:
        """Return the exact instant of one message."""
        fraction = 0 if self.fractions is None else int(self.fractions[row])
        return int(self.instants[row]), fraction


_decoder: Final = msgspec.json.Decoder(UpstreamPeriod)


def read_messages(body: MessagesBody, digest: str | None = None) -> Messages:
    """Decode a body of the upstream; `digest` is its digest, if it is known.

    Raises `msgspec.DecodeError` for a body that violates the contract.
    """
    sent = lenient_json.decode(body, _decoder).messages
    ids = np.fromiter([each.id for each in sent], np.int64, len(sent))
    timestamps = [each.timestamp for each in sent]
    report_of, keys, invalid_ids = _refer(sent)
    try:
        instants, fractions = read_instants(timestamps)
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from error
    return Messages(
        ids=ids,
        timestamps=timestamps,
        instants=instants,
        fractions=fractions,
        sent=sent,
        report_of=report_of,
        report_keys=keys,
        invalid_ids=invalid_ids,
        digest=digest or digest_of(body),
    )


def digest_of(body: MessagesBody) -> str:
    """Return the digest of a body: 64 hexadecimal digits."""
    # Processors compute SHA-256 in hardware, twice as fast as BLAKE2 in software.
    return sha256(body).hexdigest()


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


def _refer(
    sent: list[Message],
) -> tuple[NDArray[np.int32], list[ReportKey], list[Any]]:
    """Return `Messages.report_of`, `report_keys` and `invalid_ids`."""
    rows: list[int] = []
    indexes: list[int] = []
    known: dict[int | str, int] = {}
    index_of: dict[ReportKey, int] = {}
    invalid_ids: list[Any] = []
    for row, each in enumerate(sent):
        report_id = each.report_id
        if report_id is UNSET:
            continue
        # By type, because 1, 1.0 and true are equal, and a list has no hash.
        kind = type(report_id)
        index = known.get(report_id) if kind is int or kind is str else None
        if index is None:
            key = report_key(report_id)
            if key is None:
                if len(invalid_ids) < MAX_INVALID_IDS_LOGGED:
                    invalid_ids.append(report_id)
                continue
            index = known[report_id] = index_of.setdefault(key, len(index_of))
        rows.append(row)
        indexes.append(index)
    report_of = np.full(len(sent), NO_REPORT, np.int32)
    report_of[rows] = indexes
    return report_of, list(index_of), invalid_ids
