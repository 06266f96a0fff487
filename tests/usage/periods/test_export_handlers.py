"""Exports of usage: all items of a period with sources and steps, as CSV or Parquet."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import pytest
from aiohttp import ClientError

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from service.usage.periods import export_files
from service.usage.periods.export_files import FILES, ExportFormat, ParquetFile
from service.usage.periods.reading import reader
from service.usage.snapshots.errors import ChunkDamaged
from service.usage.snapshots.item_rows import ItemRows
from service.usage.view import ROWS_AT_ONCE
from tests.conftest import Client, MakeClient, message
from tests.metric_samples import growth
from tests.usage.periods.conftest import (
    HOSTILE_NAME,
    MONTHS,
    Keep,
    Sealed,
    keeping_client,
)

PARQUET: Final = "application/vnd.apache.parquet"
COLUMNS: Final = [
    "message_id",
    "timestamp",
    "instant",
    "report_name",
    "credits_used",
    "source",
    "plan",
    "step_report",
    "step_base",
    "step_characters",
    "step_words",
    "step_third_vowels",
    "step_length_penalty",
    "step_unique_words",
    "step_palindrome",
]
PLAN: Final = "text-rules/1"
ROWS: Final = ItemRows(
    plan=PLAN,
    ids=np.array([1]),
    timestamps=["2024-01-01T00:00:00Z"],
    names=[None],
    hundredths=np.array([-105]),
    steps=np.array([[-105], *[[0]] * 6]),
)


@pytest.fixture
async def kept_service(
    storage: StorageSettings, client: MakeClient, keep: Keep, sealed: Sealed
) -> Client:
    """Return a service with a closed and an open period; a report has a formula."""
    service = await keeping_client(client, storage)
    for each in MONTHS[:2]:
        await keep(service, each)
    return service


CHOICES: Final = {
    "closed": ("period=2024-01-01&", "/usage?period=2024-01-01"),
    "open": ("period=2024-02-01&", "/usage?period=2024-02-01"),
    "current": ("", "/usage"),
    "other plan": ("plan=token-estimate&", "/usage?plan=token-estimate"),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
async def test_both_formats_have_the_items_of_the_api(
    kept_service: Client, choice: tuple[str, str]
) -> None:
    """Ids, times, names and credits are equal, and the steps add up to the credits."""
    query, path = choice
    items = (await (await kept_service.get(path)).json())["usage"]
    lines = await _csv(kept_service, query)
    table = await _parquet(kept_service, query)
    assert [int(each["message_id"]) for each in lines] == [
        each["message_id"] for each in items
    ]
    for item, line, row in zip(items, lines, table, strict=True):
        assert row["message_id"] == item["message_id"]
        assert row["timestamp"] == line["timestamp"] == item["timestamp"]
        assert f"{row['instant']:%Y-%m-%dT%H:%M:%S.%fZ}" == line["instant"]
        assert row["report_name"] == item.get("report_name")
        source = "report" if "report_name" in item else "text"
        assert row["source"] == line["source"] == source
        credits_used = Decimal(str(item["credits_used"]))
        assert row["credits_used"] == Decimal(line["credits_used"]) == credits_used
        steps = [name for name in row if name.startswith("step_")]
        assert sum(row[name] for name in steps) == credits_used
        assert [row[name] for name in steps] == [Decimal(line[name]) for name in steps]


async def test_the_columns_are_those_of_the_documentation(
    kept_service: Client,
) -> None:
    """Both formats have the same, in the same order."""
    (line, *_) = await _csv(kept_service, "")
    (row, *_) = await _parquet(kept_service, "")
    assert list(line) == list(row) == COLUMNS


async def test_a_formula_in_a_name_is_harmless_in_csv_only(
    kept_service: Client,
) -> None:
    """A spreadsheet shows it as text; the other forms have the name as it is."""
    query = "period=2024-01-01&"
    lines = await _csv(kept_service, query)
    assert [each["report_name"] for each in lines] == ["", f"'{HOSTILE_NAME}", ""]
    table = await _parquet(kept_service, query)
    assert [each["report_name"] for each in table] == [None, HOSTILE_NAME, None]
    raw = await kept_service.get(
        "/usage?period=2024-01-01", headers={"Accept": "text/csv"}
    )
    names = [each["report_name"] for each in _rows(await raw.text())]
    assert names == ["", HOSTILE_NAME, ""]


async def test_a_closed_period_is_immutable_for_caches(kept_service: Client) -> None:
    """It has an ETag, by which a client asks again without getting the file."""
    path = "/usage/export?period=2024-01-01&format=parquet"
    answer = await kept_service.get(path)
    await answer.read()
    assert answer.headers["Cache-Control"] == "max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == PARQUET
    assert answer.headers["Usage-Period"] == "2024-01-01/2024-01-03"
    assert (
        answer.headers["Content-Disposition"]
        == 'attachment; filename="usage-2024-01-01.parquet"'
    )
    etag = answer.headers["ETag"]
    again = await kept_service.get(path, headers={"If-None-Match": etag})
    assert (again.status, await again.read()) == (304, b"")
    head = await kept_service.head(path)
    assert (head.status, head.headers["ETag"]) == (200, etag)
    other = await kept_service.head("/usage/export?period=2024-01-01")
    assert other.headers["ETag"] != etag


async def test_the_current_period_is_exported_without_keeping(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """Caches may store it as long as `/usage`; an empty one has the header alone."""
    service = await client()
    sandbox.sandbox.set_messages([message(1)])
    answer = await service.get("/usage/export")
    assert answer.headers["Content-Disposition"].endswith('"usage-2024-04-29.csv"')
    assert "immutable" not in answer.headers["Cache-Control"]
    empty = await client()
    sandbox.sandbox.set_messages([])
    answer = await empty.get("/usage/export")
    assert answer.headers["Content-Disposition"].endswith('"usage-current.csv"')
    assert (await answer.text()).count("\r\n") == 1


async def test_a_large_period_is_exported_from_its_process(
    client: MakeClient, sandbox: RunningSandbox
) -> None:
    """The items come from the process that has priced them, in parts."""
    service = await client(usage={"own_process_bytes": 1})
    messages = [message(each) for each in range(ROWS_AT_ONCE + 3)]
    sandbox.sandbox.set_messages(messages)
    lines = await _csv(service, "")
    assert [int(each["message_id"]) for each in lines] == list(range(len(messages)))


@pytest.mark.parametrize(
    "query, status, code",
    [
        ("period=2023-01-01", 404, "period_not_kept"),
        ("period=2024-01-01&plan=token-estimate", 409, "texts_not_kept"),
        ("period=2024-01-01&plan=none", 400, "unknown_plan"),
        ("format=xlsx", 400, "invalid_parameter"),
        ("limit=1", 400, "invalid_parameter"),
    ],
)
async def test_bad_requests_get_clear_errors(
    kept_service: Client, query: str, status: int, code: str
) -> None:
    """The problem names what is wrong."""
    answer = await kept_service.get(f"/usage/export?{query}")
    assert (answer.status, (await answer.json())["code"]) == (status, code)


async def test_a_damaged_period_gets_an_error_or_a_reset(
    kept_service: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes a part of a file for the whole."""
    exported = growth()
    damaged = ChunkDamaged("chunk 00 is damaged")

    async def fail_after(parts: int, *_: Any) -> AsyncIterator[ItemRows]:
        for _part in range(parts):
            yield ROWS
        raise damaged

    path = "/usage/export?period=2024-01-01"
    monkeypatch.setattr(reader, "read_items", partial(fail_after, 0))
    answer = await kept_service.get(path)
    assert (answer.status, (await answer.json())["code"]) == (500, "period_damaged")
    monkeypatch.setattr(reader, "read_items", partial(fail_after, 1))
    with pytest.raises(ClientError):
        await (await kept_service.get(path)).read()
    name = "copilot_usage_exports_total"
    assert exported(name, format="csv", outcome="ChunkDamaged") == 2


async def test_the_number_of_exports_is_limited(
    kept_service: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client has one of them at a time, and the next one gets 503 at once."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> AsyncIterator[ItemRows]:
        started.set()
        await ended.wait()
        yield ROWS

    monkeypatch.setattr(reader, "read_items", wait)
    path = "/usage/export?period=2024-01-01"
    first = asyncio.create_task(kept_service.get(path))
    await started.wait()
    refused = await kept_service.get(path)
    assert (refused.status, (await refused.json())["code"]) == (
        503,
        "usage_exports_full",
    )
    assert int(refused.headers["Retry-After"]) >= 1
    ended.set()
    assert len(_rows(await (await first).text())) == 1


def test_groups_of_parquet_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come in many parts are one file, with groups of some size."""
    monkeypatch.setattr(export_files, "GROUP_ROWS", 3)
    file = ParquetFile(PLAN)
    content = b"".join([*(file.add(ROWS) for _ in range(7)), file.end()])
    parquet = pq.ParquetFile(io.BytesIO(content))
    assert parquet.metadata.num_row_groups == 3
    column = parquet.read().column("credits_used")
    assert column.to_pylist() == [Decimal("-1.05")] * 7


@pytest.mark.parametrize("form", ExportFormat)
def test_largest_amounts_are_exact(form: ExportFormat) -> None:
    """A file takes any integer of 64 bits."""
    lowest, highest = np.array([-(2**63)]), np.array([2**63 - 1])
    rows = replace(ROWS, ids=lowest, hundredths=highest)
    content = FILES[form](PLAN).add(rows)
    if form is ExportFormat.CSV:
        assert _rows(content.decode())[0]["message_id"] == str(-(2**63))
        return
    file = ParquetFile(PLAN)
    content = file.add(rows) + file.end()
    (row,) = pq.read_table(io.BytesIO(content)).to_pylist()
    assert row["credits_used"] == Decimal(2**63 - 1).scaleb(-2)


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


async def _csv(service: Client, query: str) -> list[dict[str, str]]:
    answer = await service.get(f"/usage/export?{query}format=csv")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return _rows(await answer.text())


async def _parquet(service: Client, query: str) -> list[dict[str, Any]]:
    answer = await service.get(f"/usage/export?{query}format=parquet")
    assert answer.status == 200
    rows: list[dict[str, Any]] = pq.read_table(
        io.BytesIO(await answer.read())
    ).to_pylist()
    return rows
