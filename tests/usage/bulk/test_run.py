"""Runs of bulk pricing, from files to a folder of Parquet."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Final

from tests.usage.bulk.conftest import price, read_output

TIMESTAMP: Final = "2024-04-29T03:25:03.613Z"


def test_messages_of_a_file_are_priced(tmp_path: Path) -> None:
    """Each message has its price, source and steps, in the folder of its day."""
    lines = [
        {"id": 1, "text": "rent rent", "timestamp": TIMESTAMP},
        {"id": 2, "text": "a", "timestamp": "2024-04-30T01:00:00+02:00"},
        {"id": 3, "text": "a", "timestamp": TIMESTAMP, "report_id": 7},
        {"id": 4, "text": "a", "timestamp": TIMESTAMP, "report_id": 8},
    ]
    source = tmp_path / "messages.ndjson"
    source.write_text("\n".join(map(json.dumps, lines)))
    reports = tmp_path / "reports.json"
    reports.write_text('[{"id": 7, "name": "Short Lease", "credit_cost": 61.25}]')
    manifest = price(source, output=tmp_path / "out", reports=str(reports))
    rows = read_output(tmp_path / "out")
    shown = {
        row["message_id"]: (row["credits_used"], row["source"], row["report_name"])
        for row in rows
    }
    assert shown == {
        1: (Decimal("1.85"), "text", None),
        2: (Decimal("2.00"), "text", None),
        3: (Decimal("61.25"), "report", "Short Lease"),
        4: (Decimal("2.00"), "text", None),
    }
    assert rows[0]["steps"]["characters"] == Decimal("0.45")
    assert (manifest.messages, manifest.credits, manifest.rejected) == (4, "67.10", 0)
    days = sorted(each.name for each in (tmp_path / "out" / "messages").iterdir())
    assert days == ["day=2024-04-29"]
    assert not list(tmp_path.glob(".*"))
