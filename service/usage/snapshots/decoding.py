"""Decoding of the upstream's body: in chunks, from its first change on.

A body is decoded in chunks of whole messages. The begin of each chunk is a checkpoint,
with the SHA-256 of all bytes before it. JSON is read from left to right. So if the next
body has the same bytes before a checkpoint, it has the same messages before it, and
only the rest is decoded.

The ends of chunks are guessed, and then proved: a chunk that is a list of messages by
itself is one within the body too. Where a guess is wrong, and for a body that violates
the contract, the whole body is decoded at once. So errors do not depend on chunks, but
for bytes that are not UTF-8 in a field that is not used.
"""

import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.upstream import lenient_json
from service.usage.pricing.timestamps import ExactInstants, join, read_instants
from service.usage.snapshots.messages import (
    MAX_INVALID_IDS_LOGGED,
    NO_REPORT,
    Checkpoint,
    Message,
    Messages,
    MessagesBody,
    ReportKey,
    UpstreamPeriod,
    digest_of,
    report_key,
)

CHUNK_BYTES: Final = 256 * 1024
"""Chunks fit the processor's cache, with the columns that are made of them."""
MAX_HEAD_BYTES: Final = 4_096
"""The list of messages begins within so many bytes, or the body is one chunk."""

_LIST_BEGIN: Final = re.compile(rb'"messages"[ \t\n\r]*:[ \t\n\r]*\[')
# A string may contain `},{` too, but a word never follows its last quote.
_NEXT_MESSAGE: Final = re.compile(rb'\}[ \t\n\r]*,[ \t\n\r]*(?=\{[ \t\n\r]*"\w)')
_MARKER: Final = Message(0, secrets.token_hex(), "")
"""Stands for the messages of all chunks but the last, to prove what surrounds them."""
_UNPROVED: Final = (msgspec.DecodeError, ValueError, RecursionError)

_MARKER_JSON: Final = msgspec.json.encode(_MARKER)

_decoder: Final = msgspec.json.Decoder(UpstreamPeriod)
_list_decoder: Final = msgspec.json.Decoder(list[Message])
_id_of: Final = attrgetter("id")
_timestamp_of: Final = attrgetter("timestamp")
_report_id_of: Final = attrgetter("report_id")


def read_messages(body: MessagesBody, before: Messages | None = None) -> Messages:
    """Decode a body; messages before its first change are taken over from `before`.

    An equal body returns `before` itself. Raises `msgspec.DecodeError` for a body that
    violates the contract, and `RecursionError` for one that is nested too deeply.
    """
    view, unchanged = memoryview(body), _Unchanged([], sha256())
    if before is not None and before.sent is not None:
        unchanged = _find_unchanged(view, before.checkpoints)
        if unchanged.digest_of(view) == before.digest:
            return before
    found = _LIST_BEGIN.search(view, 0, MAX_HEAD_BYTES)
    if found is not None and len(view) > CHUNK_BYTES:
        with suppress(*_UNPROVED):
            return _read_chunks(view, found.end(), unchanged, before)
    return _read_whole(view)


class _Unchanged(NamedTuple):
    """The checkpoints that a body shares with the previous one."""

    checkpoints: list[Checkpoint]
    hashed: Any
    """The SHA-256 of the bytes before the last checkpoint, to be continued."""

    @property
    def end(self) -> int:
        """The place of the last checkpoint in bytes, 0 without one."""
        return self.checkpoints[-1].begin if self.checkpoints else 0

    def digest_of(self, body: memoryview) -> str:
        """Return the digest of the whole body."""
        hashed = self.hashed.copy()
        hashed.update(body[self.end :])
        digest: str = hashed.hexdigest()
        return digest


def _find_unchanged(body: memoryview, known: Sequence[Checkpoint]) -> _Unchanged:
    """Return the checkpoints before the first change of a body."""
    hashed, at = sha256(), 0
    for place, checkpoint in enumerate(known):
        following = hashed.copy()
        following.update(body[at : checkpoint.begin])
        if following.digest() != checkpoint.digest:
            return _Unchanged(list(known[:place]), hashed)
        hashed, at = following, checkpoint.begin
    return _Unchanged(list(known), hashed)


def _read_chunks(
    body: memoryview, list_begin: int, unchanged: _Unchanged, before: Messages | None
) -> Messages:
    """Decode what follows the unchanged checkpoints, chunk by chunk.

    Raises one of `_UNPROVED` where a chunk is no list of messages by itself.
    """
    checkpoints, hashed = unchanged
    columns = _Columns(before, checkpoints[-1] if checkpoints else None)
    at, hashed_to = max(unchanged.end, list_begin), unchanged.end
    while cut := _NEXT_MESSAGE.search(body, at + CHUNK_BYTES):
        chunk = b"".join((b"[", body[at : cut.start() + 1], b"]"))
        columns.add(lenient_json.decode(chunk, _list_decoder))
        at = cut.end()
        hashed.update(body[hashed_to:at])
        hashed_to = at
        checkpoints.append(columns.checkpoint(at, hashed.copy().digest()))
    # The document without the chunks proves that they are the begin of its messages.
    rest = b"".join((body[:list_begin], _MARKER_JSON, b",", body[at:]))
    marker, *sent = lenient_json.decode(rest, _decoder).messages
    if marker != _MARKER:
        raise ValueError("the chunks are not in the list of messages")
    columns.add(sent)
    hashed.update(body[hashed_to:])
    return columns.finish(hashed.hexdigest(), checkpoints)


def _read_whole(body: memoryview) -> Messages:
    columns = _Columns()
    sent = lenient_json.decode(body, _decoder).messages
    try:
        columns.add(sent)
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from error
    return columns.finish(digest_of(body), [])


class _Columns:
    """The columns of the messages that are decoded so far.

    They begin with the messages of `before` until a checkpoint.
    """

    def __init__(
        self, before: Messages | None = None, until: Checkpoint | None = None
    ) -> None:
        self._sent: list[Message] = []
        self._timestamps: list[str] = []
        self._ids: list[NDArray[np.int64]] = []
        self._instants: list[ExactInstants] = []
        self._report_of: list[NDArray[np.int32]] = []
        self._keys = _ReportKeys([], [])
        if before is not None and until is not None:
            self._take_over(before, until)

    def _take_over(self, before: Messages, until: Checkpoint) -> None:
        rows, fractions = slice(until.rows), before.fractions
        self._sent += (before.sent or [])[rows]
        self._timestamps += before.timestamps[rows]
        self._ids.append(before.ids[rows])
        known = None if fractions is None else fractions[rows]
        self._instants.append(ExactInstants(before.instants[rows], known))
        self._report_of.append(before.report_of[rows])
        # Both are in the order of first use, so the first ones are those until there.
        self._keys = _ReportKeys(
            before.report_keys[: until.report_keys],
            before.invalid_ids[: until.invalid_ids],
        )

    def add(self, sent: list[Message]) -> None:
        """Add decoded messages; raises `ValueError` for an unreadable timestamp."""
        timestamps = list(map(_timestamp_of, sent))
        self._instants.append(read_instants(timestamps))
        self._ids.append(np.fromiter(map(_id_of, sent), np.int64, len(sent)))
        self._report_of.append(self._keys.find(list(map(_report_id_of, sent))))
        self._sent += sent
        self._timestamps += timestamps

    def checkpoint(self, begin: int, digest: bytes) -> Checkpoint:
        """Return the checkpoint at the begin of the next message."""
        keys = self._keys
        counts = len(self._sent), len(keys.listed), len(keys.invalid_ids)
        return Checkpoint(begin, *counts, digest)

    def finish(self, digest: str, checkpoints: list[Checkpoint]) -> Messages:
        """Return the columns of all messages."""
        instants, fractions = join(self._instants)
        return Messages(
            ids=np.concatenate(self._ids),
            timestamps=self._timestamps,
            instants=instants,
            fractions=fractions,
            sent=self._sent,
            report_of=np.concatenate(self._report_of),
            report_keys=self._keys.listed,
            invalid_ids=self._keys.invalid_ids,
            digest=digest,
            checkpoints=checkpoints,
        )


class _ReportKeys(dict[Any, int]):
    """The index of each report id in `Messages.report_keys`."""

    def __init__(self, listed: list[ReportKey], invalid_ids: list[Any]) -> None:
        super().__init__({key: index for index, key in enumerate(listed)})
        self.listed, self.invalid_ids = listed, invalid_ids

    def find(self, report_ids: list[Any]) -> NDArray[np.int32]:
        """Return the index of each id, or `NO_REPORT`: `(n_ids,)` int32."""
        # By type, because 1, 1.0 and true are equal, and a list has no hash.
        indexes = [
            NO_REPORT
            if each is UNSET
            else self[each]
            if type(each) is int or type(each) is str
            else self.__missing__(each)
            for each in report_ids
        ]
        return np.fromiter(indexes, np.int32, len(indexes))

    def __missing__(self, report_id: Any) -> int:
        key = report_key(report_id)
        if key is None:
            if len(self.invalid_ids) < MAX_INVALID_IDS_LOGGED:
                self.invalid_ids.append(report_id)
            return NO_REPORT
        # The integer 7 and the string "7" are one report.
        index = self.setdefault(key, len(self.listed))
        if index == len(self.listed):
            self.listed.append(key)
        self[report_id] = index
        return index
