"""Chunks of kept periods: where they end, and which ones are found again."""

from typing import Final

import msgspec
import numpy as np
import pytest

from service.usage.pricing.plans import PLANS_BY_ID, TEXT_RULES
from service.usage.snapshots import chunking, kept
from service.usage.snapshots.build import ReportPrice, ResolvedReports, build
from service.usage.snapshots.chunking import MAX_ROWS, MIN_ROWS, cut, find_chunks
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.kept import TextHashes, hash_texts
from service.usage.snapshots.messages import Messages
from tests.conftest import message

COUNT: Final = 30_000
LISTED: Final = [
    message(each, f"Text {each % 7}", timestamp=f"2024-04-{1 + each * 28 // COUNT:02}")
    for each in range(COUNT)
]
OTHER_TEXT: Final = {**LISTED[9_000], "text": "Some other words"}
OTHER_FORM: Final = {**LISTED[9_000], "timestamp": "2024-04-09T00:00:00.000Z"}
WITH_REPORT: Final = {**LISTED[9_000], "report_id": 7}
INSERTED: Final = message(COUNT, "New", timestamp="2024-04-02")


def test_a_chunk_has_a_minimum_and_a_maximum_of_rows() -> None:
    """Ids that would all end a chunk, or none, are cut all the same."""
    equal = np.zeros(100_000, np.int64)  # 0 times anything ends a chunk
    for ids in (equal, equal + 1, np.arange(100_000)):
        sizes = [end - begin for begin, end in cut(ids)]
        assert sum(sizes) == 100_000
        assert max(sizes) <= MAX_ROWS
        assert min(sizes[:-1]) >= MIN_ROWS


@pytest.mark.parametrize(
    "listed",
    [
        LISTED,
        [*LISTED, INSERTED],
        [*LISTED[:5_000], INSERTED, *LISTED[5_000:]],
        [*LISTED[:5_000], *LISTED[5_001:]],
        [*LISTED[:9_000], OTHER_TEXT, *LISTED[9_001:]],
        [*LISTED[:9_000], OTHER_FORM, *LISTED[9_001:]],
        [*LISTED[:9_000], WITH_REPORT, *LISTED[9_001:]],
    ],
    ids=["same", "appended", "inserted", "removed", "text", "time", "report"],
)
def test_chunks_are_those_that_are_encoded_anew(
    listed: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only chunks that differ from those of the snapshot before are encoded."""
    before = find_chunks(*_priced(LISTED))
    encoded = []

    def digest_of(content: bytes) -> bytes:
        encoded.append(content)
        return original(content)

    original = kept.digest_of
    monkeypatch.setattr(chunking, "digest_of", digest_of)
    priced, texts = _priced(listed)
    found = find_chunks(priced, texts, before).chunks
    assert len(encoded) <= 2
    assert found == find_chunks(priced, texts).chunks


def _priced(listed: list[dict[str, object]]) -> tuple[PricedMessages, TextHashes]:
    messages: Messages = read_messages(msgspec.json.encode({"messages": listed}))
    assert messages.sent is not None
    prices = [ReportPrice("Tenants", 7_900)] * len(messages.report_keys)
    built = build(
        messages, ResolvedReports(prices, ()), PLANS_BY_ID[TEXT_RULES.id], None
    )
    return built.priced, hash_texts(messages.sent, np.zeros(0, np.uint64))
