"""Packed columns answer every query as the columns that were packed."""

from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.pricing.plans import PLANS, Plan
from service.usage.snapshots.build import ReportPrice
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.formats import FORMATS
from service.usage.snapshots.queries import daily_usage, explain, usage_by_report
from service.usage.snapshots.selection import SORT_COLUMNS, Selection, select
from service.usage.snapshots.sharing import PackedColumns, pack, unpack
from tests.reference import build_of, message, priced_of, sendable_texts

ZONES: Final = (None, ZoneInfo("Asia/Kathmandu"))
REPORT_IDS: Final[tuple[Any, ...]] = (7, "7", "x/9", 404, None, [])

messages = st.lists(
    st.builds(
        lambda message_id, text, timestamp, report_id: message(
            message_id, text, timestamp=timestamp, report_id=report_id
        ),
        st.integers(-(2**63), 2**63 - 1),
        sendable_texts,
        st.sampled_from(
            [
                *("2024-04-29T02:08:29.375Z", "2024-04-29T02:08:29.375000001Z"),
                *("0001-01-01T00:00:00+14:00", "9999-12-31", "9999-12-31T23:00-02:00"),
            ]
        ),
        st.sampled_from(REPORT_IDS),
    ),
    max_size=8,
)
reports = st.fixed_dictionaries(
    {},
    optional={
        key: st.builds(ReportPrice, st.text(max_size=5), st.integers(0, 10**11))
        for key in ("7", "x/9")
    },
)


def every_answer_of(priced: PricedMessages) -> list[Any]:
    """Return the answer to every query."""
    rows = range(len(priced))
    selections = [Selection(sort=((column, True),)) for column in SORT_COLUMNS]
    return [
        priced.summary,
        *(bytes(encode(priced, None)) for encode in FORMATS.values()),
        *(explain(priced, row) for row in rows),
        *(daily_usage(priced, zone) for zone in ZONES),
        usage_by_report(priced),
        *(select(priced, each).rows.tolist() for each in selections),
        *(select(priced, Selection(since=(0, 0), limit=n)).next for n in (1, 3)),
        [priced.refresh_ids[place] for place in priced.refresh_of.tolist()],
        priced.messages.digest,
    ]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@given(sent=messages, known=reports)
def test_unpacked_columns_answer_every_query(
    plan: Plan, sent: list[dict[str, Any]], known: dict[str, ReportPrice]
) -> None:
    """No byte tells in which process a period was priced, also at a third one."""
    priced = build_of(sent, known, plan, refresh_id="a1").priced
    packed = pack(priced)
    adopted = unpack(packed)

    assert every_answer_of(adopted) == every_answer_of(priced)
    assert pack(adopted) == packed


def test_degraded_messages_are_still_counted() -> None:
    """The count cannot be found in the columns, so it is packed."""
    priced = priced_of([message(1)])
    priced.degraded = 1
    assert unpack(pack(priced)).summary.degraded == 1


def test_texts_are_not_packed() -> None:
    """A text may be confidential: it stays with the process that priced it."""
    packed = pack(priced_of([message(1, "a very private question")]))
    assert b"private" not in packed
    assert unpack(packed).messages.sent is None


def columns(**changed: Any) -> bytes:
    """Return packed columns of one message, some of them changed."""
    packed = msgspec.msgpack.decode(pack(priced_of([message(1)])), type=PackedColumns)
    return msgspec.msgpack.encode(msgspec.structs.replace(packed, **changed))


@pytest.mark.parametrize(
    "packed",
    [
        *(b"", b"nonsense", b"\xc1", msgspec.msgpack.encode([1, 2, 3])),
        columns(plan="text-rules/99"),
        columns(ids=b"1234567"),
        columns(steps=b"12345678"),
        columns(timestamps=["soon"]),
        columns(timestamps=[]),
        columns(ids=b""),
        columns(hundredths=b""),
        columns(name_of=b"\x05\0\0\0"),
        columns(refresh_of=b"\x05\0\0\0"),
    ],
    ids=[
        *("empty", "nonsense", "no MessagePack", "another shape", "unknown plan"),
        *("part of an id", "too few steps", "unreadable timestamp", "no timestamp"),
        *("no id", "no price", "no such name", "no such refresh"),
    ],
)
def test_columns_of_another_version_are_refused(packed: bytes) -> None:
    """Bytes that another version has packed raise an error, and no wrong answer."""
    with pytest.raises((msgspec.DecodeError, KeyError, ValueError)):
        unpack(packed)
