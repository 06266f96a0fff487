"""The outline of a kept period: what its chunks have, without reading them.

It finds the chunks that a page or a message needs, and has the sums of the period. So
such requests read few chunks, or none.
"""

import zlib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.cursors import mix_messages
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.kept import COMPRESSION, ChunkRef

MAX_QUARTERS: Final = 20_000
"""More than half a year. Wrong timestamps would make a quarter of each message."""
MAX_NAMES: Final = 10_000

Column = NDArray[np.int64]


class _Stored(Struct, frozen=True, array_like=True):
    """An outline as it is stored; arrays are little-endian int64."""

    chunks: list[bytes]
    quarters: list[bytes] | None
    names: list[str] | None
    of_names: list[bytes]


class Sums(NamedTuple):
    """Messages and hundredths of credits of groups: `(n_groups,)` int64."""

    messages: Column
    hundredths: Column


class Quarters(NamedTuple):
    """Sums of quarters of an hour of UTC, those with messages."""

    numbers: Column
    """Quarters of an hour since 1970, ascending."""
    sums: Sums


class ReportSums(NamedTuple):
    """Sums of the reports that priced messages; the last sum is that of texts."""

    names: list[str]
    sums: Sums


class ChunkColumns(NamedTuple):
    """A value of each chunk: `(n_chunks,)` int64."""

    ends: Column
    """Rows until the end of the chunk."""
    first_at: Column
    last_at: Column
    """Instants in microseconds, inclusive."""
    min_id: Column
    max_id: Column
    mixed: Column
    """The sum of `mix_messages` until the end of the chunk, modulo 2**64."""


class Outline(NamedTuple):
    """The outline of one revision of a period."""

    chunks: ChunkColumns
    quarters: Quarters | None
    """None beyond `MAX_QUARTERS`."""
    reports: ReportSums | None
    """None beyond `MAX_NAMES`."""

    @property
    def size_bytes(self) -> int:
        """About the memory that the outline takes."""
        columns = [*self.chunks]
        if self.quarters is not None:
            columns += [self.quarters.numbers, *self.quarters.sums]
        names = self.reports.names if self.reports else []
        return sum(each.nbytes for each in columns) + 100 * len(names)

    def begin_of(self, place: int) -> int:
        """Return the number of messages before a chunk."""
        return int(self.chunks.ends[place - 1]) if place else 0

    def rows_of(self, place: int) -> tuple[int, int]:
        """Return the rows of a chunk: begin and end."""
        return self.begin_of(place), int(self.chunks.ends[place])

    def mixed_before(self, begin: int) -> int:
        """Return the sum of `mix_messages` before a chunk that begins at a row."""
        place = int(np.searchsorted(self.chunks.ends, begin, "right"))
        return int(self.chunks.mixed[place - 1]) % 2**64 if place else 0

    def find_rows(self, begin: int, end: int) -> range:
        """Return the places of the chunks that have these rows."""
        ends = self.chunks.ends
        first, last = np.searchsorted(ends, [begin, end - 1], "right")
        return range(int(first), int(last) + 1)

    def find_range(self, begin: int, end: int) -> tuple[list[int], set[int]]:
        """Return the places of the chunks that may have times within a range.

        The second result has those of which some messages may be outside. The bounds
        are in microseconds.
        """
        first, last = self.chunks.first_at, self.chunks.last_at
        is_outside = (last < begin) | (first > end)
        is_within = (first > begin) & (last < end)
        partial = np.flatnonzero(~is_outside & ~is_within)
        return np.flatnonzero(~is_outside).tolist(), set(partial.tolist())

    def find_id(self, message_id: int) -> list[int]:
        """Return the places of the chunks whose ids may include this one."""
        chunks = self.chunks
        is_within = (chunks.min_id <= message_id) & (message_id <= chunks.max_id)
        places: list[int] = np.flatnonzero(is_within).tolist()
        return places


def make_outline(priced: PricedMessages, chunks: Iterable[ChunkRef]) -> Outline:
    """Return the outline of a snapshot with at least one message."""
    messages = priced.messages
    bounds = [(each.begin, each.end) for each in chunks]
    begins = np.array([begin for begin, _ in bounds], np.int64)
    ends = np.array([end for _, end in bounds], np.int64)
    mixed = np.cumsum(mix_messages(messages.ids, messages.instants))
    columns = ChunkColumns(
        ends=ends,
        first_at=np.minimum.reduceat(messages.instants, begins),
        last_at=np.maximum.reduceat(messages.instants, begins),
        min_id=np.minimum.reduceat(messages.ids, begins),
        max_id=np.maximum.reduceat(messages.ids, begins),
        mixed=mixed[ends - 1].view(np.int64),
    )
    return Outline(columns, _quarters(priced), _report_sums(priced))


def encode_outline(outline: Outline) -> bytes:
    """Return an outline as compressed bytes."""
    quarters, reports = outline.quarters, outline.reports
    stored = _Stored(
        chunks=[_packed(each) for each in outline.chunks],
        quarters=None
        if quarters is None
        else [_packed(each) for each in (quarters.numbers, *quarters.sums)],
        names=None if reports is None else reports.names,
        of_names=[] if reports is None else [_packed(each) for each in reports.sums],
    )
    return zlib.compress(msgspec.msgpack.encode(stored), COMPRESSION)


def decode_outline(content: bytes) -> Outline:
    """Return an outline; raises `ChunkDamaged`."""
    try:
        stored = _decoder.decode(zlib.decompress(content))
        return Outline(
            ChunkColumns(*map(_unpacked, stored.chunks)),
            _quarters_of(stored.quarters),
            None
            if stored.names is None
            else ReportSums(stored.names, Sums(*map(_unpacked, stored.of_names))),
        )
    except (zlib.error, msgspec.DecodeError, ValueError, TypeError) as error:
        raise ChunkDamaged(f"the outline is damaged: {error}") from error


_decoder: Final = msgspec.msgpack.Decoder(_Stored)


def _quarters(priced: PricedMessages) -> Quarters | None:
    numbers, *sums = priced.quarter_sums
    if len(numbers) > MAX_QUARTERS:
        return None
    return Quarters(numbers, Sums(*sums))


def _report_sums(priced: PricedMessages) -> ReportSums | None:
    places = len(priced.names)
    if places > MAX_NAMES:
        return None
    place_of = np.where(priced.by_text, places, priced.name_of)
    return ReportSums(priced.names, _sums(place_of, places + 1, priced))


def _sums(place_of: NDArray[Any], places: int, priced: PricedMessages) -> Sums:
    hundredths = np.zeros(places, np.int64)
    np.add.at(hundredths, place_of, priced.hundredths)
    return Sums(np.bincount(place_of, minlength=places).astype(np.int64), hundredths)


def _quarters_of(stored: list[bytes] | None) -> Quarters | None:
    if stored is None:
        return None
    numbers, *sums = map(_unpacked, stored)
    return Quarters(numbers, Sums(*sums))


def _packed(column: Column) -> bytes:
    # Differences of ascending values are small, so they are compressed well.
    return np.diff(column, prepend=0).astype("<i8", copy=False).tobytes()


def _unpacked(content: bytes) -> Column:
    column: Column = np.cumsum(np.frombuffer(content, "<i8"))
    return column
