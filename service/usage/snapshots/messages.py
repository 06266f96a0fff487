"""Upstream's messages: decoded, checked, and laid out as columns.

A column has one element for each message, in upstream's order.
"""

import mmap
from hashlib import sha256
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct
from numpy.typing import NDArray

from service.usage.pricing.timestamps import Instants, read_instants

Body = bytes | bytearray | mmap.mmap

ReportKey = str
"""A usable report id in the form that upstream is asked with: 7 and "7" are one."""

MAX_KEY_CHARACTERS: Final = 2_000
MAX_INVALID_IDS_LOGGED: Final = 100
NO_REPORT: Final = -1
"""In `Messages.report_of`: the message names no usable report id."""

_ID_BOUNDS: Final = Meta(ge=-(2**63), le=2**63 - 1)


class Message(Struct, frozen=True, gc=False):
    """One message of upstream. `report_id` may hold anything that JSON can say."""

    id: Annotated[int, _ID_BOUNDS]
    text: str
    timestamp: str
    report_id: Any = UNSET


class UpstreamPeriod(Struct, frozen=True):
    """Upstream's answer to `GET /messages/current-period`."""

    messages: list[Message]


class Messages(NamedTuple):
    """The messages of one period, as columns of shape `(n_messages,)`."""

    ids: NDArray[np.int64]
    timestamps: list[str]
    """Verbatim."""
    instants: Instants
    """int64, microseconds since 1970-01-01T00:00:00Z."""
    sent: list[Message] | None
    """As upstream sent them; None where the snapshot came from another process.

    They are kept whole. Objects that were freed between texts that stay would leave
    memory in pieces, so that dropping a large period would give none of it back.
    """
    report_of: NDArray[np.int32]
    """Each message's place in `report_keys`, or `NO_REPORT`."""
    report_keys: list[ReportKey]
    """Every usable report id once, in the order of first use."""
    invalid_ids: list[Any]
    """The first report ids that cannot be sent upstream, at most 100."""
    digest: str
    """A digest of the body: equal bodies have equal messages."""


_decoder: Final = msgspec.json.Decoder(UpstreamPeriod)


def read_messages(body: Body, digest: str | None = None) -> Messages:
    """Decode a body of upstream; `msgspec.DecodeError` where it breaks the contract.

    `digest` is the body's, where the caller knows it.
    """
    sent = _decoder.decode(memoryview(body)).messages
    ids = np.fromiter([each.id for each in sent], np.int64, len(sent))
    timestamps = [each.timestamp for each in sent]
    report_of, keys, invalid_ids = _refer([each.report_id for each in sent])
    try:
        instants = read_instants(timestamps)
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from error
    return Messages(
        ids=ids,
        timestamps=timestamps,
        instants=instants,
        sent=sent,
        report_of=report_of,
        report_keys=keys,
        invalid_ids=invalid_ids,
        digest=digest or digest_of(body),
    )


def digest_of(body: Body) -> str:
    """Return the digest of a body: 64 hexadecimal digits.

    SHA-256, which processors compute in hardware: twice as fast as BLAKE2.
    """
    return sha256(body).hexdigest()


def report_key(report_id: Any) -> ReportKey | None:
    """Return the key of a usable id, or None: usable are integers and strings.

    An empty string, and one that is longer than a URL may be, are not usable: any
    server would refuse them, and one of them would fail the whole period.
    """
    if type(report_id) not in {int, str}:
        return None
    key = str(report_id)
    return key if 0 < len(key) <= MAX_KEY_CHARACTERS else None


def _refer(
    report_ids: list[Any],
) -> tuple[NDArray[np.int32], list[ReportKey], list[Any]]:
    """Return `Messages.report_of`, `report_keys` and `invalid_ids`."""
    rows: list[int] = []
    places: list[int] = []
    place_of: dict[ReportKey, int] = {}
    invalid_ids: list[Any] = []
    for row, report_id in enumerate(report_ids):
        if report_id is UNSET:  # as most are
            continue
        key = report_key(report_id)
        if key is not None:
            rows.append(row)
            places.append(place_of.setdefault(key, len(place_of)))
        elif len(invalid_ids) < MAX_INVALID_IDS_LOGGED:
            invalid_ids.append(report_id)
    report_of = np.full(len(report_ids), NO_REPORT, np.int32)
    report_of[rows] = places
    return report_of, list(place_of), invalid_ids
