"""Pricing of files without a server: prices, formats and totals."""

import io
import json
from typing import Any, Final

from service.usage.pricing.plans import TEXT_RULES, Plan
from service.usage.rate_file import (
    CSV,
    EXPLAINED_NDJSON,
    NDJSON,
    FileFormat,
    FileTotals,
    rate_file,
)

TIMESTAMP: Final = "2024-04-29T03:25:03.613Z"
ONE: Final = b'{"id":1,"text":"a"}'
TWO: Final = b'{"id":2,"text":"rent rent"}'


def rate(
    given: bytes, output: FileFormat = NDJSON, plan: Plan = TEXT_RULES
) -> tuple[bytes, FileTotals]:
    """Return the output for a file, and its totals."""
    sink = io.BytesIO()
    totals = rate_file(io.BytesIO(given), sink, plan, output)
    return sink.getvalue(), totals


def test_timestamps_are_verbatim() -> None:
    """A timestamp is copied to the output, even if it is invalid."""
    written, _ = rate(b'{"id":1,"text":"a","timestamp":"soon \xe2\x80\xa6"}')
    assert json.loads(written) == {
        "message_id": 1,
        "timestamp": "soon …",
        "credits_used": 2.0,
    }


def test_usable_report_ids_are_counted() -> None:
    """A message that names a report costs what its text costs, and is counted."""
    ids: list[Any] = [7, "7", "", None, True, 1.5, {}, []]
    lines = [json.dumps({"id": 1, "text": "a", "report_id": each}) for each in ids]
    written, totals = rate("\n".join(lines).encode())
    assert written == b'{"message_id":1,"credits_used":2.0}\n' * len(ids)
    assert totals == FileTotals(messages=8, naming_reports=2, hundredths=1600)
    assert totals.summary() == (
        "messages: 8; credits: 16.0; naming a report, yet priced by text: 2"
    )


def test_explained_prices() -> None:
    """Each line has the plan's steps, which lead to the price."""
    written, _ = rate(ONE + b"\n" + TWO, EXPLAINED_NDJSON)
    first, second = map(json.loads, written.splitlines())
    assert [step["step"] for step in first["steps"]] == [
        step.name for step in TEXT_RULES.steps
    ]
    assert second["steps"] == [
        {"step": "base", "credits": 1.0, "total": 1.0},
        {"step": "characters", "credits": 0.45, "total": 1.45},
        {"step": "words", "credits": 0.4, "total": 1.85},
        {"step": "third_vowels", "credits": 0.0, "total": 1.85},
        {"step": "length_penalty", "credits": 0.0, "total": 1.85},
        {"step": "unique_words", "credits": 0.0, "total": 1.85},
        {"step": "palindrome", "credits": 0.0, "total": 1.85},
    ]
    assert second["credits_used"] == 1.85


def test_csv() -> None:
    """CSV has the columns of the service's own, and quotes where it must."""
    given = b'{"id":1,"text":"a","timestamp":"%b"}\n{"id":2,"text":"","timestamp":","}'
    written, _ = rate(given % TIMESTAMP.encode() + b"\n" + TWO, CSV)
    assert written.decode().split("\r\n") == [
        "message_id,timestamp,report_name,credits_used",
        f"1,{TIMESTAMP},,2.0",
        '2,",",,1.0',
        "2,,,1.85",
        "",
    ]
