"""Decoding of the upstream's body: in chunks, from its first change on.

A body is decoded in chunks of whole messages. The begin of each chunk is a checkpoint.
JSON is read from left to right. So if the next body has the same bytes before a
checkpoint, it has the same messages before it, and only the rest is decoded. Hashes of
blocks show which bytes are the same.

The ends of chunks are guessed, and then proved: a chunk that is a list of messages by
itself is one within the body too. Where a guess is wrong, and for a body that violates
the contract, the whole body is decoded at once. So errors do not depend on chunks, but
for bytes that are not UTF-8 in a field that is not used.
"""

import re
import secrets
import struct
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from service.upstream import lenient_json
from service.usage.pricing.timestamps import ExactInstants, join, read_instants
from service.usage.snapshots.body_hashes import BodyHashes, Hashing
from service.usage.snapshots.messages import (
    MAX_INVALID_IDS_LOGGED,
    NO_REPORT,
    Checkpoint,
    Message,
    Messages,
    MessagesBody,
    ReportKey,
    UpstreamPeriod,
    report_key,
)
from service.usage.snapshots.parts import Parts

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


def read_messages(
    body: MessagesBody,
    before: Messages | None = None,
    hashes: BodyHashes | None = None,
) -> Messages:
    """Decode a body; messages before its first change are taken over from `before`.

    `hashes` are those of the body, if they are known. An equal body returns `before`
    itself. Raises `msgspec.DecodeError` for a body that violates the contract, and
    `RecursionError` for one that is nested too deeply.
    """
    view = memoryview(body)
    hashing, known = Hashing(view, hashes), _Known(None, [])
    if before is not None and before.hashes is not None:
        if hashing.hashes == before.hashes:
            return before
        end = hashing.hashes.count_equal_bytes(before.hashes)
        places = [each for each in before.checkpoints if each.begin <= end]
        known = _Known(before, places)
    else:
        hashing.start()
    columns, checkpoints = _read(view, known)
    return columns.finish(hashing.hashes, checkpoints)


class _Known(NamedTuple):
    """The messages that a body shares with the previous one."""

    messages: Messages | None
    checkpoints: list[Checkpoint]
    """The checkpoints before the first change, in their order."""


def _read(view: memoryview, known: _Known) -> tuple["_Columns", list[Checkpoint]]:
    """Decode a body in chunks, or as a whole where that is impossible."""
    found = _LIST_BEGIN.search(view, 0, MAX_HEAD_BYTES)
    if found is not None and len(view) > CHUNK_BYTES:
        with suppress(*_UNPROVED):
            return _read_chunks(view, found.end(), known)
    return _read_whole(view), []


def _read_chunks(
    body: memoryview, list_begin: int, known: _Known
) -> tuple["_Columns", list[Checkpoint]]:
    """Decode what follows the known checkpoints, chunk by chunk.

    Raises one of `_UNPROVED` where a chunk is no list of messages by itself.
    """
    columns, checkpoints, at = _Columns(), list(known.checkpoints), list_begin
    if known.messages is not None and checkpoints:
        at = checkpoints[-1].begin
        columns.take_over(known.messages, checkpoints[-1])
    while cut := _NEXT_MESSAGE.search(body, at + CHUNK_BYTES):
        chunk = b"".join((b"[", body[at : cut.start() + 1], b"]"))
        columns.add(lenient_json.decode(chunk, _list_decoder))
        at = cut.end()
        checkpoints.append(columns.checkpoint(at))
    # The document without the chunks proves that they are the begin of its messages.
    rest = b"".join((body[:list_begin], _MARKER_JSON, b",", body[at:]))
    marker, *sent = lenient_json.decode(rest, _decoder).messages
    if marker != _MARKER:
        raise ValueError("the chunks are not in the list of messages")
    columns.add(sent)
    return columns, checkpoints


def _read_whole(body: memoryview) -> "_Columns":
    columns = _Columns()
    sent = lenient_json.decode(body, _decoder).messages
    try:
        columns.add(sent)
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from error
    return columns


class _Columns:
    """The columns of the messages that are decoded so far, in parts."""

    def __init__(self) -> None:
        self._rows = 0
        self._sent: list[list[Message]] = []
        self._timestamps: list[list[str]] = []
        self._ids: list[NDArray[np.int64]] = []
        self._instants: list[ExactInstants] = []
        self._report_of: list[NDArray[np.int32]] = []
        self._keys = _ReportKeys([], [])

    def take_over(self, before: Messages, until: Checkpoint) -> None:
        """Begin with the messages of `before` until one of its checkpoints."""
        rows, fractions = slice(until.rows), before.fractions
        self._rows = until.rows
        assert before.sent is not None  # noqa: S101 - it has checkpoints
        self._sent += before.sent.lists_until(until.rows)
        self._timestamps += before.timestamps.lists_until(until.rows)
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
        # Comprehensions read an attribute in half the time of `attrgetter`.
        timestamps = [each.timestamp for each in sent]
        self._instants.append(read_instants(timestamps))
        ids = struct.pack(f"{len(sent)}q", *[each.id for each in sent])
        self._ids.append(np.frombuffer(ids, np.int64))
        self._report_of.append(self._keys.find(sent))
        self._sent.append(sent)
        self._timestamps.append(timestamps)
        self._rows += len(sent)

    def checkpoint(self, begin: int) -> Checkpoint:
        """Return the checkpoint at the begin of the next message."""
        keys = self._keys
        return Checkpoint(begin, self._rows, len(keys.listed), len(keys.invalid_ids))

    def finish(self, hashes: BodyHashes, checkpoints: list[Checkpoint]) -> Messages:
        """Return the columns of all messages."""
        instants, fractions = join(self._instants)
        return Messages(
            ids=np.concatenate(self._ids),
            timestamps=Parts(self._timestamps),
            instants=instants,
            fractions=fractions,
            sent=Parts(self._sent),
            report_of=np.concatenate(self._report_of),
            report_keys=self._keys.listed,
            invalid_ids=self._keys.invalid_ids,
            digest=hashes.digest,
            hashes=hashes,
            checkpoints=checkpoints,
        )


class _ReportKeys(dict[Any, int]):
    """The index of each report id in `Messages.report_keys`."""

    def __init__(self, listed: list[ReportKey], invalid_ids: list[Any]) -> None:
        super().__init__({key: index for index, key in enumerate(listed)})
        self.listed, self.invalid_ids = listed, invalid_ids

    def find(self, sent: list[Message]) -> NDArray[np.int32]:
        """Return the index of each message's id, or `NO_REPORT`: `(n_sent,)` int32."""
        known, unset, find_other = self, UNSET, self.__missing__
        # By type, because 1, 1.0 and true are equal, and a list has no hash.
        indexes = [
            NO_REPORT
            if (report_id := each.report_id) is unset
            else known[report_id]
            if (kind := type(report_id)) is int or kind is str
            else find_other(report_id)
            for each in sent
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
