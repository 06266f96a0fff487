"""A generation: one refresh's outcome in a form that another process can take over.

Its head is small and says what it is; its parts are the encoded answer, the messages
as upstream sent them, and the reports as they were settled. With the first alone a
process can answer; with the other two it has books of its own.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import zstandard
from msgspec import Struct

from service.usage.books import Priced
from service.usage.encodings import Answer, Coding
from service.usage.formats import JSON
from service.usage.model import Report
from service.usage.reports import ReportKey, Settled
from service.usage.shared_parts import Packed, Part, Unreadable

FORMAT: Final = 1
"""To be raised when what is shared changes its form or its meaning."""

_ID_BYTES: Final = 8


class Head(Struct, frozen=True):
    """What a generation is, and where its parts are."""

    id: str
    fetched_at: float
    """In seconds, by the clock of the store."""
    etag: str | None
    """Upstream's tag of the messages."""
    priced: Priced
    answer: dict[Coding, Part]
    body: Part
    settled: Part

    @property
    def parts(self) -> set[Part]:
        """Every part; two heads with the same ones tell the same."""
        return {*self.answer.values(), self.body, self.settled}


@dataclass(frozen=True)
class Generation:
    """What can be taken over; without an answer where it tells what is held already."""

    head: Head
    answer: Answer | None
    age_s: float


class Contents(NamedTuple):
    """What it takes to have books of a generation."""

    body: bytearray
    packed: Packed
    """The same, as it is stored."""
    settled: Settled


class Offer(NamedTuple):
    """What a process has to offer after a refresh."""

    etag: str | None
    priced: Priced
    answer: Answer
    settled: Settled
    body: bytearray | Packed | None
    """Upstream's messages; None where this process has them no more."""
    age_s: Callable[[], float]


class PackedOffer(NamedTuple):
    """A head that is not dated yet, and its parts."""

    head: Head
    parts: list[Packed]


class _Settled(Struct, frozen=True, array_like=True):
    reports: dict[ReportKey, Report | None]
    failed: set[ReportKey]


async def pack_body(body: bytearray) -> Packed:
    """Upstream's messages, compressed."""
    return await asyncio.to_thread(
        lambda: Packed.of(zstandard.ZstdCompressor(level=1).compress(body))
    )


async def pack(offer: Offer, body: Packed) -> PackedOffer:
    """An offer in its stored form; the work is done in threads."""
    bodies = await offer.answer.compressed()
    answer = {
        coding: await asyncio.to_thread(Packed.of, bytes(each))
        for coding, each in bodies.items()
    }
    settled = await asyncio.to_thread(_pack_settled, offer.settled)
    head = Head(
        id=secrets.token_hex(_ID_BYTES),
        fetched_at=0.0,
        etag=offer.etag,
        priced=offer.priced.all_reused(),
        answer={coding: each.part for coding, each in answer.items()},
        body=body.part,
        settled=settled.part,
    )
    return PackedOffer(head, [*answer.values(), body, settled])


async def unpack(packed: Packed, settled: bytes) -> Contents:
    """The contents out of their parts; `Unreadable` if those are of no use."""
    return await asyncio.to_thread(_unpack, packed, settled)


async def restore(bodies: dict[Coding, bytes], priced: Priced) -> Answer:
    """The answer out of its parts; `Unreadable` if those are of no use."""
    try:
        return await asyncio.to_thread(Answer.restored, bodies, JSON, priced.headers)
    except (KeyError, zstandard.ZstdError) as error:
        raise Unreadable from error


def _pack_settled(settled: Settled) -> Packed:
    return Packed.of(msgspec.msgpack.encode(_Settled(settled.reports, settled.failed)))


def _unpack(packed: Packed, settled: bytes) -> Contents:
    try:
        decoded = msgspec.msgpack.decode(settled, type=_Settled)
        body = zstandard.ZstdDecompressor().decompress(packed.stored)
    except (msgspec.DecodeError, zstandard.ZstdError) as error:
        raise Unreadable from error
    return Contents(bytearray(body), packed, Settled(decoded.reports, decoded.failed))
