"""Texts of kept periods, with which other plans price them."""

import sqlite3
import zlib
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from tests.conftest import Client, MakeClient, message, report, storage_at
from tests.usage.periods.conftest import Keep, keeping_client, periods_of

MONTH: Final = [
    message(1, "A secret word", timestamp="2024-04-29T02:08:29Z"),
    {**message(2, "Tenants?", timestamp="2024-04-30"), "report_id": 7},
    {**message(3, "No report", timestamp="2024-04-30"), "report_id": 8},
    message(4, "\u00fcber alles", timestamp="2024-05-01"),
]
OTHER: Final = "plan=token-estimate"
PATHS: Final = ("/usage", "/usage?limit=2", "/usage/1", "/usage/2", "/usage/daily")
MakeKeeping = Callable[..., Awaitable[Client]]


@pytest.fixture
def keeping_texts(
    client: MakeClient, sandbox: RunningSandbox, tmp_path: Path, empty_file: Path
) -> MakeKeeping:
    """Return a starter of services on one file, which keep texts or do not."""
    sandbox.sandbox.set_report(7, report(7, "Tenants", 79))
    sandbox.sandbox.set_report(8, None)
    file = tmp_path / "kept.db"
    file.write_bytes(empty_file.read_bytes())

    async def start(*, keep_texts: bool) -> Client:
        storage: StorageSettings = storage_at(f"sqlite+aiosqlite:///{file}")
        return await keeping_client(client, storage, keep_texts=keep_texts)

    return start


def _with(path: str, *parameters: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{'&'.join(parameters)}"


@pytest.mark.parametrize("path", PATHS)
async def test_another_plan_prices_kept_texts(
    keeping_texts: MakeKeeping, keep: Keep, path: str
) -> None:
    """Answers are those of the current period under this plan, byte by byte."""
    service = await keeping_texts(keep_texts=True)
    await keep(service, MONTH)
    current = await service.get(_with(path, OTHER))
    of_period = await service.get(_with(path, OTHER, "period=2024-04-29"))
    assert (of_period.status, current.status) == (200, 200)
    assert await of_period.read() == await current.read()
    assert of_period.headers["Usage-Plan"] == current.headers["Usage-Plan"]


async def test_texts_are_not_in_the_file_by_default(
    keeping_texts: MakeKeeping, keep: Keep, tmp_path: Path
) -> None:
    """Only hashes of them are kept, and another plan is refused."""
    service = await keeping_texts(keep_texts=False)
    await keep(service, MONTH)
    answer = await service.get(f"/usage?period=2024-04-29&{OTHER}")
    assert (answer.status, (await answer.json())["code"]) == (409, "texts_not_kept")
    assert not any(b"secret" in each for each in _contents(tmp_path))


async def test_texts_are_added_and_removed_with_the_setting(
    keeping_texts: MakeKeeping, keep: Keep, tmp_path: Path
) -> None:
    """A revision follows where texts are missing; without the setting, they go."""
    await keep(await keeping_texts(keep_texts=False), MONTH)
    service = await keeping_texts(keep_texts=True)
    await keep(service, MONTH)
    assert (await periods_of(service))[0]["revision"] == 2
    assert any(b"secret" in each for each in _contents(tmp_path))
    await keep(await keeping_texts(keep_texts=False), MONTH[:3])
    assert not any(b"secret" in each for each in _contents(tmp_path))


async def test_damaged_texts_are_named(
    keeping_texts: MakeKeeping, keep: Keep, tmp_path: Path
) -> None:
    """Requests under the plan of the period need no texts."""
    service = await keeping_texts(keep_texts=True)
    await keep(service, MONTH)
    with closing(sqlite3.connect(tmp_path / "kept.db")) as connection, connection:
        for digest, content in connection.execute(
            "SELECT digest, content FROM usage_chunks"
        ).fetchall():
            plain = zlib.decompress(content)
            if b"secret" in plain:
                other = zlib.compress(plain.replace(b"secret", b"public"))
                values = (other, digest)
                connection.execute(
                    "UPDATE usage_chunks SET content = ? WHERE digest = ?", values
                )
    path = "/usage?period=2024-04-29"
    answer = await service.get(f"{path}&{OTHER}")
    assert (answer.status, (await answer.json())["code"]) == (500, "period_damaged")
    assert (await service.get(path)).status == 200


def _contents(folder: Path) -> list[bytes]:
    with closing(sqlite3.connect(folder / "kept.db")) as connection:
        rows = connection.execute("SELECT content FROM usage_chunks").fetchall()
    return [zlib.decompress(content) for (content,) in rows]
