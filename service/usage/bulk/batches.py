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

from service.instants import read_instant
from service.usage.bulk.report_table import ReportTable
from service.usage.pricing.plans import Hundredths, Plan
from service.usage.pricing.text import MAX_BATCH, Flags, JoinedTexts
from service.usage.pricing.timestamps import BATCH, Instants, read_common_lines

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
MAX_JOINED_BYTES: Final = 1024 * 1024
"""Texts are priced together up to this size, to stay in the processor's cache."""
MAX_CONTENT_CHARACTERS: Final = 2_000
US_PER_DAY: Final = 86_400_000_000
NO_REPORT: Final = -1
_INVALID_DAY: Final = np.iinfo(np.int64).min


class PricedBatch(NamedTuple):
    """Priced messages, ordered by day, and the rows that break the contract."""

    messages: Any
    """A record batch with the schema `priced_schema(plan)`."""
    days: NDArray[np.int64]
    """`(n_messages,)` int64: days since 1970-01-01, in UTC."""
    rejected: Any
    """A record batch with the schema `REJECTED`."""


def priced_schema(plan: Plan) -> Any:
    """Return the schema of priced messages; amounts are in hundredths of a credit.

    `report` is an index in the table of reports, or -1 where the text priced.
    """
    return pa.schema(
        [
            ("row", pa.int64()),
            ("message_id", pa.int64()),
            ("timestamp", pa.string()),
            ("report", pa.int32()),
            ("hundredths", pa.int64()),
            *((step.name, pa.int32()) for step in plan.steps),
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
    hundredths, steps = _price(messages["text"], report, plan, reports)
    columns = [
        messages["row"],
        messages["id"],
        messages["timestamp"].view(pa.string()),
        pa.array(report),
        pa.array(hundredths),
        *(pa.array(amounts) for amounts in steps),
    ]
    priced = pa.record_batch(columns, schema=priced_schema(plan))
    return PricedBatch(priced, days, rejected)


def _price(
    texts: Any, report: NDArray[np.int32], plan: Plan, reports: ReportTable
) -> tuple[Hundredths, NDArray[np.int32]]:
    """Return the prices, and the amount of each step, which is 0 for a report."""
    steps = np.zeros((len(plan.steps), len(texts)), np.int32)
    by_text = np.flatnonzero(report == NO_REPORT)
    hundredths = reports.hundredths[report]
    if len(by_text) == len(texts):
        return rate_texts(texts, plan, steps), steps
    amounts = np.zeros((len(plan.steps), len(by_text)), np.int32)
    hundredths[by_text] = rate_texts(texts.take(pa.array(by_text)), plan, amounts)
    steps[:, by_text] = amounts
    return hundredths, steps


def rate_texts(texts: Any, plan: Plan, steps: NDArray[np.int32]) -> Hundredths:
    """Price valid texts of a binary column; sets the amount of each step."""
    hundredths: Hundredths = np.empty(len(texts), np.int64)
    for begin, end in _cut(texts):
        amounts = np.empty((len(plan.steps), end - begin), np.int64)
        own = texts.slice(begin, end - begin)
        characters = pc.utf8_length(own.view(pa.string())).to_numpy()
        joined = JoinedTexts(_join(own, b"\0"), characters.astype(np.int64))
        hundredths[begin:end] = plan.rate_batch(joined, amounts)
        steps[:, begin:end] = amounts
    return hundredths


def _cut(texts: Any) -> Iterator[tuple[int, int]]:
    """Yield bounds of texts that are priced together: few enough, and not too long."""
    offsets = _offsets(texts)
    begin = 0
    while begin < len(texts):
        limit = offsets[begin] + MAX_JOINED_BYTES
        fitting = int(np.searchsorted(offsets, limit, "right")) - 1
        end = min(max(fitting, begin + 1), begin + MAX_BATCH, len(texts))
        yield begin, end
        begin = end


def _offsets(values: Any) -> NDArray[np.int32]:
    """Return the begin of each value of a binary column, and of one more."""
    _, buffer, _ = values.buffers()
    count = values.offset + len(values) + 1
    return np.frombuffer(buffer, np.int32, count)[values.offset :]


def _join(values: Any, mark: bytes) -> bytes:
    """Return the values of a binary column without nulls, with a mark behind each."""
    one = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    joined: bytes = pc.binary_join(one, mark)[0].as_py()
    return joined + mark


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


def _check(messages: Any) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return the index of each row's reason, 0 for valid rows, and its day."""
    reasons = np.zeros(messages.num_rows, np.int8)
    texts, timestamps = messages["text"], messages["timestamp"]
    days = _read_days(timestamps)
    reasons[days == _INVALID_DAY] = _UNREADABLE
    reasons[_lengths(texts) > MAX_TEXT_BYTES] = _TOO_LONG
    reasons[_find_not_utf8(texts)] = _NOT_UTF8
    missing = (timestamps, _NO_TIMESTAMP), (texts, _NO_TEXT), (messages["id"], _NO_ID)
    for column, reason in missing:
        if column.null_count:
            reasons[column.is_null().to_numpy(zero_copy_only=False)] = reason
    return reasons, days


def _lengths(values: Any) -> NDArray[np.int32]:
    lengths: NDArray[np.int32] = np.diff(_offsets(values))
    return lengths


def _bytes_of(values: Any) -> memoryview:
    """Return the memory of all values of a binary column, one behind the other."""
    offsets = _offsets(values)
    _, _, data = values.buffers()
    return memoryview(data or b"")[int(offsets[0]) : int(offsets[-1])]


def _find_not_utf8(values: Any) -> Flags:
    """Return which values are not UTF-8, lone surrogates allowed: `(n_values,)`."""
    invalid = np.zeros(len(values), np.bool_)
    data = _bytes_of(values)
    if not len(data) or np.frombuffer(data, np.uint8).max() < 0x80:
        return invalid
    for row, value in enumerate(values):
        raw = value.as_py()
        if raw is not None and not raw.isascii():
            invalid[row] = not _is_utf8(raw)
    return invalid


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _read_days(timestamps: Any) -> NDArray[np.int64]:
    """Return the day of each timestamp, in UTC; `_INVALID_DAY` where it has none."""
    starts = range(0, len(timestamps), BATCH)
    batches = [_read_some_days(timestamps.slice(at, BATCH)) for at in starts]
    return np.concatenate([*batches, np.zeros(0, np.int64)])


def _read_some_days(timestamps: Any) -> NDArray[np.int64]:
    if not timestamps.null_count:
        lines = _join(timestamps, b"\n")
        instants = read_common_lines(lines, len(timestamps))
        if instants is not None:
            return _to_days(instants)
    # A timestamp in another form makes its whole batch take the slower way.
    return np.fromiter(map(_read_day, timestamps), np.int64, len(timestamps))


def _to_days(instants: Instants) -> NDArray[np.int64]:
    return instants // US_PER_DAY


def _read_day(timestamp: Any) -> int:
    raw = timestamp.as_py()
    if raw is None:
        return _INVALID_DAY
    try:
        return read_instant(raw.decode()) // US_PER_DAY
    except ValueError:  # of which `UnicodeDecodeError` is one
        return _INVALID_DAY


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
