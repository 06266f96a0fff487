"""The columns of a snapshot as bytes, for another process that answers from them.

Texts are not included: they stay in the process that has priced them.
"""

from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from service.usage.pricing.plans import PLANS_BY_ID
from service.usage.pricing.timestamps import read_instants
from service.usage.snapshots.build import encode_items
from service.usage.snapshots.columns import (
    ANSWER_BEGIN,
    ANSWER_END,
    BY_TEXT,
    PricedMessages,
)
from service.usage.snapshots.messages import NO_REPORT, Messages
from service.usage.snapshots.parts import Parts


class PackedColumns(Struct, frozen=True, array_like=True):
    """Columns of one period under one plan; arrays are little-endian bytes."""

    plan: str
    digest: str
    ids: bytes
    timestamps: list[str]
    hundredths: bytes
    steps: bytes
    """int64, `(n_steps, n_messages)`."""
    names: list[str]
    name_of: bytes
    refresh_ids: list[str]
    refresh_of: bytes
    degraded: int
    values_since: str
    order_since: str


_decoder: Final = msgspec.msgpack.Decoder(PackedColumns)


def pack(priced: PricedMessages) -> bytes:
    """Return the columns as bytes, in MessagePack."""
    messages = priced.messages
    return msgspec.msgpack.encode(
        PackedColumns(
            plan=priced.plan.id,
            digest=messages.digest,
            ids=_pack(messages.ids, "<i8"),
            timestamps=list(messages.timestamps),
            hundredths=_pack(priced.hundredths, "<i8"),
            steps=_pack(priced.steps, "<i8"),
            names=priced.names,
            name_of=_pack(priced.name_of, "<i4"),
            refresh_ids=priced.refresh_ids,
            refresh_of=_pack(priced.refresh_of, "<i4"),
            degraded=priced.degraded,
            values_since=priced.values_since,
            order_since=priced.order_since,
        )
    )


def unpack(packed: bytes) -> PricedMessages:
    """Return the columns of packed bytes, and encode their answer.

    Raises `msgspec.DecodeError`, `KeyError` or `ValueError` for bytes of another
    version.
    """
    columns = _decoder.decode(packed)
    plan, count = PLANS_BY_ID[columns.plan], len(columns.timestamps)
    name_of = _unpack_indexes(columns.name_of, BY_TEXT, columns.names)
    refresh_of = _unpack_indexes(columns.refresh_of, 0, columns.refresh_ids)
    steps = np.frombuffer(columns.steps, "<i8")
    priced = PricedMessages(
        messages=_unpack_messages(columns),
        plan=plan,
        hundredths=np.frombuffer(columns.hundredths, "<i8").reshape(count),
        steps=steps.reshape(len(plan.steps), count),
        names=columns.names,
        name_of=name_of.reshape(count),
        by_text=name_of == BY_TEXT,
        refresh_ids=columns.refresh_ids,
        refresh_of=refresh_of.reshape(count),
        degraded=columns.degraded,
        values_since=columns.values_since,
        order_since=columns.order_since,
    )
    priced.answer = ANSWER_BEGIN + encode_items(priced, 0, count) + ANSWER_END
    return priced


def _unpack_messages(columns: PackedColumns) -> Messages:
    """Return the messages without texts and without the ids of their reports."""
    count = len(columns.timestamps)
    instants, fractions = read_instants(columns.timestamps)
    return Messages(
        ids=np.frombuffer(columns.ids, "<i8").reshape(count),
        timestamps=Parts([columns.timestamps]),
        instants=instants,
        fractions=fractions,
        sent=None,
        # Prices are packed, so the ids of the reports are not needed.
        report_of=np.full(count, NO_REPORT, np.int32),
        report_keys=[],
        invalid_ids=[],
        digest=columns.digest,
    )


def _pack(column: NDArray[np.int32] | NDArray[np.int64], dtype: str) -> bytes:
    return column.astype(dtype, copy=False).tobytes()


def _unpack_indexes(column: bytes, first: int, listed: list[str]) -> NDArray[np.int32]:
    """Return a column of indexes into a list, int32.

    Raises `ValueError` for an index below `first` or beyond the list.
    """
    indexes: NDArray[np.int32] = np.frombuffer(column, "<i4")
    if len(indexes) and not first <= indexes.min() <= indexes.max() < len(listed):
        raise ValueError("an index of a packed column is out of range")
    return indexes
