"""Texts of kept periods, with which other plans price them."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from service.sandbox.server import RunningSandbox
from service.settings import StorageSettings
from tests.conftest import Client, MakeClient, message, report
from tests.usage.periods.conftest import (
    Keep,
    alter_chunks,
    contents_of,
    keeping_client,
    periods_of,
)

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
    storage: StorageSettings, client: MakeClient, sandbox: RunningSandbox
) -> MakeKeeping:
    """Return a starter of services on one database, which keep texts or do not."""
    sandbox.sandbox.set_report(7, report(7, "Tenants", 79))
    sandbox.sandbox.set_report(8, None)

    async def start(*, keep_texts: bool) -> Client:
        return await keeping_client(client, storage, keep_texts=keep_texts)

    return start


def _with(path: str, *parameters: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{'&'.join(parameters)}"


async def test_another_plan_prices_kept_texts(
    keeping_texts: MakeKeeping, keep: Keep
) -> None:
    """Answers are those of the current period under this plan, byte by byte."""
    service = await keeping_texts(keep_texts=True)
    await keep(service, MONTH)
    for path in PATHS:
        current = await service.get(_with(path, OTHER))
        of_period = await service.get(_with(path, OTHER, "period=2024-04-29"))
        assert (of_period.status, current.status) == (200, 200)
        assert await of_period.read() == await current.read()
        assert of_period.headers["Usage-Plan"] == current.headers["Usage-Plan"]


async def test_texts_are_not_in_the_file_by_default(
    keeping_texts: MakeKeeping, keep: Keep, storage: StorageSettings
) -> None:
    """Only hashes of them are kept, and another plan is refused."""
    service = await keeping_texts(keep_texts=False)
    await keep(service, MONTH)
    answer = await service.get(f"/usage?period=2024-04-29&{OTHER}")
    assert (answer.status, (await answer.json())["code"]) == (409, "texts_not_kept")
    assert b"secret" not in b"".join(await _plain(storage))


async def test_texts_are_added_and_removed_with_the_setting(
    keeping_texts: MakeKeeping, keep: Keep, storage: StorageSettings
) -> None:
    """A revision follows where texts are missing; without the setting, they go."""
    await keep(await keeping_texts(keep_texts=False), MONTH)
    service = await keeping_texts(keep_texts=True)
    await keep(service, MONTH)
    assert (await periods_of(service))[0]["revision"] == 2
    assert b"secret" in b"".join(await _plain(storage))
    await keep(await keeping_texts(keep_texts=False), MONTH[:3])
    assert b"secret" not in b"".join(await _plain(storage))


async def test_damaged_texts_are_named(
    keeping_texts: MakeKeeping, keep: Keep, storage: StorageSettings
) -> None:
    """Requests under the plan of the period need no texts."""
    service = await keeping_texts(keep_texts=True)
    await keep(service, MONTH)
    await alter_chunks(storage, _disclose)
    path = "/usage?period=2024-04-29"
    answer = await service.get(f"{path}&{OTHER}")
    assert (answer.status, (await answer.json())["code"]) == (500, "period_damaged")
    assert (await service.get(path)).status == 200


def _disclose(content: bytes) -> bytes:
    return zlib.compress(zlib.decompress(content).replace(b"secret", b"public"))


async def _plain(storage: StorageSettings) -> list[bytes]:
    return [zlib.decompress(each) for each in await contents_of(storage)]
