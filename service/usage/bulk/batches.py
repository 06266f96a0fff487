"""Pricing of one batch of messages: a pure function from Arrow to Arrow.

The texts are priced from the memory of the column, without a Python string for each.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.usage.bulk.binary_columns import (
    find_not_utf8,
    is_ascii,
    join,
    lengths_of,
    offsets_of,
)
from service.usage.bulk.days import NO_DAY, read_days
from service.usage.bulk.decimals import CREDITS, STEP, to_credits, to_step
from service.usage.bulk.report_table import NO_REPORT, ReportTable
from service.usage.pricing.plans import Hundredths, Plan
from service.usage.pricing.text import Counts, JoinedTexts
from service.usage.pricing.timestamps import Days
from service.usage.snapshots.columns import REPORT_STEP

MESSAGES: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.int64()),
        ("text", pa.binary()),
        ("timestamp", pa.binary()),
        ("report_key", pa.string()),
    ]
)
"""A batch of input; null stands for a missing field, or an unusable report id.

`row` is the place in the piece, from 0. Texts are UTF-8, which is not checked yet; lone
surrogates are encoded as their code points.
"""
REJECTED: Final = pa.schema(
    [("row", pa.int64()), ("reason", pa.string()), ("content", pa.string())]
)
"""Rows that break the contract. The content is JSON, or the line of the file."""

MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
"""Upper bound of a text, which bounds the memory of a worker."""
MAX_JOINED_TEXTS: Final = 8_192
"""Twice as many as `text.MAX_BATCH`: fewer calls outweigh the processor's cache."""
MAX_JOINED_BYTES: Final = 1024 * 1024
MAX_CONTENT_CHARACTERS: Final = 2_000


class PricedBatch(NamedTuple):
    """Priced messages, ordered by day, and the rows that break the contract."""

    messages: Any
    """A record batch with the schema `priced_schema(plan)`."""
    days: Days
    """`(n_messages,)` int64: days since 1970-01-01, in UTC."""
    rejected: Any
    """A record batch with the schema `REJECTED`."""


def priced_schema(plan: Plan) -> Any:
    """Return the schema of priced messages.

    `report` is an index in the table of reports, or -1 where the text priced. The steps
    are those of the plan, and `report`, which is the price of a report.
    """
    steps = [pa.field(REPORT_STEP, CREDITS, nullable=False)]
    steps += [pa.field(step.name, STEP, nullable=False) for step in plan.steps]
    return pa.schema(
        [
            ("row", pa.int64()),
            ("message_id", pa.int64()),
            ("timestamp", pa.string()),
            ("report", pa.int32()),
            pa.field("credits_used", CREDITS, nullable=False),
            pa.field("steps", pa.struct(steps), nullable=False),
        ]
    )


def price_batch(messages: Any, plan: Plan, reports: ReportTable) -> PricedBatch:
    """Price a batch with the schema `MESSAGES`."""
    reasons, days = _check(messages)
    is_valid = reasons == 0
    rejected = _reject(messages, reasons)
    if not is_valid.all():
        messages, days = messages.filter(pa.array(is_valid)), days[is_valid]
    if (np.diff(days) < 0).any():
        order = np.argsort(days, kind="stable")
        messages, days = messages.take(pa.array(order)), days[order]
    report = reports.find(messages["report_key"])
    by_report = reports.hundredths[report]
    by_text, steps = _price_by_text(messages["text"], report, plan)
    schema = priced_schema(plan)
    columns = [
        messages["row"],
        messages["id"],
        messages["timestamp"].view(pa.string()),
        pa.array(report),
        to_credits(by_text + by_report),
        pa.StructArray.from_arrays(
            [to_credits(by_report), *map(to_step, steps)],
            fields=list(schema.field("steps").type),
        ),
    ]
    return PricedBatch(pa.record_batch(columns, schema=schema), days, rejected)


def _price_by_text(
    texts: Any, report: NDArray[np.int32], plan: Plan
) -> tuple[Hundredths, NDArray[np.int32]]:
    """Return the prices, and the amount of each step; both are 0 for reports."""
    rows = np.flatnonzero(report == NO_REPORT)
    if len(rows) == len(texts):
        return rate_texts(texts, plan)
    hundredths: Hundredths = np.zeros(len(texts), np.int64)
    steps = np.zeros((len(plan.steps), len(texts)), np.int32)
    hundredths[rows], steps[:, rows] = rate_texts(texts.take(pa.array(rows)), plan)
    return hundredths, steps


def rate_texts(texts: Any, plan: Plan) -> tuple[Hundredths, NDArray[np.int32]]:
    """Return the prices of valid texts of a binary column, and the amounts of steps.

    `(n_texts,)` int64 and `(n_steps, n_texts)` int32, hundredths of a credit.
    """
    hundredths: Hundredths = np.empty(len(texts), np.int64)
    steps = np.empty((len(plan.steps), len(texts)), np.int32)
    for begin, end in _cut(texts):
        amounts = np.empty((len(plan.steps), end - begin), np.int64)
        own = texts.slice(begin, end - begin)
        joined = JoinedTexts(join(own), _count_characters(own))
        hundredths[begin:end] = plan.rate_batch(joined, amounts)
        steps[:, begin:end] = amounts
    return hundredths, steps


def _count_characters(texts: Any) -> Counts:
    if is_ascii(texts):
        return lengths_of(texts).astype(np.int64)
    counts: Counts = pc.utf8_length(texts.view(pa.string())).to_numpy()
    return counts.astype(np.int64)


def _cut(texts: Any) -> Iterator[tuple[int, int]]:
    """Yield bounds of texts that are priced together: few enough, and not too long."""
    offsets = offsets_of(texts)
    begin = 0
    while begin < len(texts):
        limit = int(offsets[begin]) + MAX_JOINED_BYTES
        fitting = int(np.searchsorted(offsets, limit, "right")) - 1
        end = min(max(fitting, begin + 1), begin + MAX_JOINED_TEXTS, len(texts))
        yield begin, end
        begin = end


REASONS: Final = (
    "",
    "id: missing, or not an integer of 64 bits",
    "text: missing, or not a string",
    "timestamp: missing, or not a string",
    "text: not UTF-8",
    f"text: longer than {MAX_TEXT_BYTES // 1024**2} MiB",
    "timestamp: not readable",
)
_NO_ID, _NO_TEXT, _NO_TIMESTAMP, _NOT_UTF8, _TOO_LONG, _UNREADABLE = range(1, 7)


def _check(messages: Any) -> tuple[NDArray[np.int8], Days]:
    """Return the index of each row's reason, 0 for valid rows, and its day."""
    reasons = np.zeros(messages.num_rows, np.int8)
    texts, timestamps = messages["text"], messages["timestamp"]
    days = read_days(timestamps)
    reasons[days == NO_DAY] = _UNREADABLE
    reasons[lengths_of(texts) > MAX_TEXT_BYTES] = _TOO_LONG
    reasons[find_not_utf8(texts)] = _NOT_UTF8
    missing = (timestamps, _NO_TIMESTAMP), (texts, _NO_TEXT), (messages["id"], _NO_ID)
    for column, reason in missing:
        if column.null_count:
            reasons[column.is_null().to_numpy(zero_copy_only=False)] = reason
    return reasons, days


def _reject(messages: Any, reasons: NDArray[np.int8]) -> Any:
    """Return the rejected rows with their reasons and their content."""
    rows = np.flatnonzero(reasons)
    if not len(rows):
        return pa.record_batch([[], [], []], schema=REJECTED)
    own = messages.take(pa.array(rows))
    content = [_describe(each) for each in own.drop_columns(["row"]).to_pylist()]
    texts = [REASONS[reason] for reason in reasons[rows]]
    return pa.record_batch([own["row"], texts, content], schema=REJECTED)


def _describe(message: dict[str, Any]) -> str:
    """Return a rejected message as JSON, shortened."""
    shown = {
        name: _shorten(value.decode("utf-8", "replace"))
        if isinstance(value, bytes)
        else value
        for name, value in message.items()
    }
    return json.dumps(shown, ensure_ascii=False)


def _shorten(text: str) -> str:
    return text[:MAX_CONTENT_CHARACTERS]
